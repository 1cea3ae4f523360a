"""Repeated samples of a judge, kept apart from members of a panel and from orders."""

from __future__ import annotations

from pathlib import Path

import pytest
from rundata import StubJudge, make_item, make_manifest, make_run

from kardiabench.records import Dimension
from kardiabench.results import read_results

PAIR = (Dimension("d", 0.0, 5.0, "a number"), Dimension("e", 0.0, 5.0, "another"))


def samples_of(path: Path, parts: dict[str, dict[str, float | None]]):
    judge, item = StubJudge(lambda _: {"d": 1.0, "e": 2.0}, dimensions=PAIR), make_item()
    manifest = make_manifest([judge], 1)
    make_run(path, manifest, [(item.turn, item.reply, [judge.verdict(item, parts=parts)])])
    return read_results(path, manifest).turns["d0/0"].verdicts["stub"].parts


@pytest.mark.parametrize(
    ("parts", "samples"),
    [
        ({}, ()),
        ({"1": {"d": 1.0, "e": 2.0}, "2": {"d": 3.0, "e": None}}, ((1.0, 2.0), (3.0, None))),
        ({"10": {"d": 1.0}, "9": {"e": 2.0}}, ((None, 2.0), (1.0, None))),  # by number
        ({"first": {"d": 1.0}, "second": {"d": 0.0}}, ()),  # two orders of one sample
        (
            {
                "first 1": {"d": 1.0, "e": 1.0},
                "second 1": {"d": 0.0, "e": 1.0},
                "first 2": {"d": 1.0, "e": None},
                "second 2": {"d": 1.0, "e": 4.0},
            },
            ((0.5, 1.0), (1.0, None)),
        ),
        ({"openai/gpt-5": {"d": 1.0}, "2": {"d": 2.0}}, ()),  # members of a panel
        ({"a 1": {"d": 1.0}, "a 2": {"d": 2.0}}, ()),
    ],
)
def test_samples_are_told_by_their_names(tmp_path: Path, parts, samples):
    assert samples_of(tmp_path, parts) == samples
