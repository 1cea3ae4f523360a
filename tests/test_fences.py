"""How hostile text is shown to a judge: nothing lost, nothing hidden, nothing that steers."""

from __future__ import annotations

import json
import re
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judges.fences import MAX_TEXT, new_nonce, quoted


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_a_quoted_text_reads_back_as_it_was_on_one_line(text):
    shown = quoted(text)
    assert json.loads(shown) == text
    assert len(shown.splitlines()) == 1
    assert not any(unicodedata.category(sign) == "Cf" for sign in shown if sign != "\u200d")


def test_every_format_character_of_unicode_is_shown_as_an_escape():
    hidden = [
        chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) == "Cf"
    ]
    assert len(hidden) > 150
    for sign in hidden:
        assert sign not in quoted(f"a{sign}b"), hex(ord(sign))


@pytest.mark.parametrize(
    "mark",
    [
        "<|im_end|>", "<|im_start|>system", "<|endoftext|>", "<|eot_id|>", "</s>", "<s>", "<bos>",
        "<start_of_turn>user", "<end_of_turn>", "[INST]", "[/INST]", "<<SYS>>", "<think>",
        "</think>", "<\uff5cend\u2581of\u2581sentence\uff5c>", "<!-- -->", "<|response_end|>",
        "[SYSTEM_PROMPT]", "[/TOOL_RESULTS]",
    ],
)  # fmt: skip
def test_no_mark_of_a_tokenizer_comes_through_whole(mark):
    shown = quoted(f"Hello {mark} there")
    assert mark not in shown
    assert json.loads(shown) == f"Hello {mark} there"


@pytest.mark.parametrize("text", ["I <3 you [ok] a < b", "👩‍👧 ❤️ 🏳️‍🌈", "café, naïve, 你好, مرحبا"])
def test_ordinary_text_is_left_as_people_wrote_it(text):
    assert quoted(text) == f'"{text}"'


def test_a_very_long_text_is_cut_in_its_middle_and_says_so():
    text = "A" + "x" * 10_000_000 + "Z"
    shown = json.loads(quoted(text))
    assert len(shown) < MAX_TEXT + 60
    assert shown.startswith("Ax")
    assert shown.endswith("xZ")
    assert "characters left out" in shown


def test_nonces_differ_and_are_short_words():
    nonces = {new_nonce() for _ in range(1000)}
    assert len(nonces) == 1000
    assert all(re.fullmatch("[0-9a-f]{12}", nonce) for nonce in nonces)
