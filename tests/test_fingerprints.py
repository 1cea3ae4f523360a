"""Hashes of content: equal content has equal names, and nothing else has."""

from __future__ import annotations

import datetime as dt
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kardiabench.errors import ConfigError
from kardiabench.fingerprints import canonical_json, digest, fingerprint

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
values = st.recursive(
    scalars | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(values)
def test_a_value_read_back_from_json_has_the_same_digest(value):
    assert digest(json.loads(json.dumps(value))) == digest(value)


@given(st.dictionaries(st.text(), scalars), st.randoms())
def test_the_order_of_keys_does_not_count(value, random):
    pairs = list(value.items())
    random.shuffle(pairs)
    assert canonical_json(dict(pairs)) == canonical_json(value)


@given(values, values)
def test_different_values_have_different_digests(one, other):
    assert (digest(one) == digest(other)) == (canonical_json(one) == canonical_json(other))


def test_a_name_is_the_same_on_every_machine():
    assert digest({"b": [1, 2.5, None, "é\ud800"], "a": True}) == "43606e46943caaf3"
    assert len(fingerprint({"judge": "x"})) == 16
    assert len(digest("x", 32)) == 32


@pytest.mark.parametrize("value", [math.nan, math.inf, {1}, dt.date(2024, 1, 1), object(), b"x"])
def test_what_json_cannot_hold_is_refused_in_a_sentence(value):
    with pytest.raises(ConfigError, match="an option has a value that JSON cannot hold"):
        fingerprint({"extra": [value]})
