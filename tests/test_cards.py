"""Judge cards: sections side by side, Markdown that stays text, copies in run directories."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from cli_process import Cli
from hypothesis import given
from hypothesis import strategies as st
from rundata import StubJudge

from kardiabench.card_text import card_text, escaped
from kardiabench.cards import (
    card_folder,
    card_note,
    find_card,
    find_cards,
    keep_cards,
    kept_card,
    read_card,
    update_card,
)
from kardiabench.errors import ConfigError
from kardiabench.fingerprints import fingerprint

JUDGE = StubJudge()
MARK = fingerprint(JUDGE.identity)
#: What begins a tag, a comment, a declaration or an entity in HTML, and an autolink in Markdown.
TAG = re.compile(r"<[A-Za-z/!?]|&(?!(?:amp|lt|gt|#58|#46|#64);)|://|www\.|@")
HOSTILE = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [
            "<script>alert(1)</script>",
            "a | b\n| --- |\n\n# Title\n",
            "`code` **bold** _it_ [x](javascript:alert(1)) ![i](http://evil.example/p.png)",
            "&lt;b&gt; &#60;img src=x onerror=alert(1)&#62;",
            "<!-- --> <?php ?> <![CDATA[ ]]> https://evil.example www.evil.example a@b.example",
            "\x1b[31mred\u202e\u2066",
        ]
    ),
)
LEAVES = st.one_of(HOSTILE, st.none(), st.booleans(), st.integers(), st.floats(0, 9))
JSON = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(HOSTILE, inner, max_size=3)
    ),
    max_leaves=20,
)


def visible(text: str) -> str:
    """`text` less what is escaped by a backslash."""
    return re.sub(r"\\.", "", text)


@given(HOSTILE)
def test_escaped_text_has_no_tag_no_mark_and_one_line(text: str) -> None:
    shown = escaped(text)
    assert not TAG.search(shown)
    assert "\n" not in shown
    assert not re.search(r"[`*_{}\[\]|~$<>]", visible(shown))


@given(st.dictionaries(HOSTILE, JSON, max_size=4), HOSTILE)
def test_no_card_whatever_is_in_it_has_a_tag_or_a_broken_table(
    sections: dict[str, Any], name: str
) -> None:
    known = {"check": sections, "attack": sections, "calibration": {"dimensions": sections}}
    card = {**sections, **known, "anchors": sections, "identity": sections, "judge": name}
    text = card_text({**card, "fingerprint": name, "dimensions": [sections], "smoke_test": True})
    assert not TAG.search(text)
    rows = re.findall(r"(?m)^\|.*$", text)
    assert all(row.endswith(" |") for row in rows)
    for table in re.findall(r"(?m)(?:^\|.*\n)+", text):
        assert len({visible(row).count("|") for row in table.splitlines()}) == 1


def test_a_card_whose_check_was_edited_into_nonsense_can_be_shown() -> None:
    for nonsense in (None, 3, "x", [], [{}], {"checks": {"sensitivity": {"kinds": [1]}}}):
        card = {"judge": "j", "fingerprint": "f", "check": nonsense, "anchors": nonsense}
        assert card_text(card).startswith("# Judge card: j")


def test_other_measurements_are_shown_as_figures_and_tables() -> None:
    attack = {
        "rate": 0.0125,
        "upper": 0.031,
        "attacked": 320,
        "families": {"fence": {"rate": 0.05, "n": 40}, "base64": {"rate": 0.0, "n": 20}},
        "moved": ["fence 3", "fence 9"],
        "measured": "2026-01-02",
        "kardiabench": "1",
    }
    calibration = {"dimensions": {"empathy": {"kappa": {"value": 0.31, "low": 0.2}, "offset": -1}}}
    card = {"judge": "j", "fingerprint": "f", "attack": attack, "calibration": calibration}
    text = card_text(card)
    assert "## Attack\n\nMeasured 2026-01-02 with kardiabench 1." in text
    assert "- rate: 0.013\n- upper: 0.031\n- attacked: 320" in text
    assert "|  | rate | n |\n| --- | --- | --- |\n| fence | 0.050 | 40 |" in text
    assert "- fence 3\n- fence 9" in text
    assert "|  | kappa.value | kappa.low | offset |" in text
    assert "| empathy | 0.310 | 0.200 | -1 |" in text


def test_a_missing_figure_is_a_dash_never_a_nought() -> None:
    text = card_text({"judge": "j", "fingerprint": "f", "attack": {"rate": None}})
    assert "- rate: —" in text


def test_what_a_card_has_nothing_to_say_on_gets_no_title() -> None:
    attack = {"rate": 0.5, "notes": [], "families": {}}
    card = {"judge": "j", "fingerprint": "f", "attack": attack}
    text = card_text(card)
    assert "- rate: 0.500" in text
    assert "Notes" not in text
    assert "Families" not in text
    assert "Notes:\n\n- none rose" in card_text(card | {"attack": {"notes": ["none rose"]}})


def test_sections_stand_side_by_side_and_the_text_follows(tmp_path: Path) -> None:
    update_card(tmp_path, JUDGE, "attack", {"rate": 0.1})
    path = update_card(tmp_path, JUDGE, "check", {"findings": ["it lies"]})
    card = json.loads(path.read_text())
    assert (card["attack"]["rate"], card["check"]["findings"]) == (0.1, ["it lies"])
    assert (card["judge"], card["fingerprint"]) == ("stub", MARK)
    text = path.with_name("card.md").read_text()
    assert "- rate: 0.100" in text
    assert "- it lies" in text


def test_a_card_is_found_by_fingerprint_whatever_its_judge_was_called(tmp_path: Path) -> None:
    update_card(tmp_path, StubJudge(name="other"), "attack", {})
    assert find_card(tmp_path, MARK) is None
    update_card(tmp_path, JUDGE, "attack", {})
    assert find_cards(tmp_path, {"as_named_here": MARK, "else": "0" * 16}).keys() == {
        "as_named_here"
    }
    assert find_cards(tmp_path / "nowhere", {"stub": MARK}) == {}


@pytest.mark.parametrize("content", ["{", "[]", '{"card_version": 0}', "\xff"])
def test_a_broken_card_is_one_sentence(tmp_path: Path, content: str) -> None:
    update_card(tmp_path, JUDGE, "attack", {})
    file = card_folder(tmp_path, JUDGE) / "card.json"
    file.write_text(content, "latin-1")
    with pytest.raises(ConfigError, match=r"card\.json"):
        find_card(tmp_path, MARK)


def test_a_run_keeps_a_copy_that_counts_for_the_judge_as_it_is(tmp_path: Path) -> None:
    update_card(tmp_path / "cards", JUDGE, "check", {"findings": ["it lies"]})
    cards = find_cards(tmp_path / "cards", {"stub": MARK})
    keep_cards(tmp_path, cards)
    kept = kept_card(tmp_path, "stub", MARK)
    assert kept == read_card(card_folder(tmp_path / "cards", JUDGE))
    assert kept_card(tmp_path, "stub", "0" * 16) is None
    assert kept_card(tmp_path, "nobody", MARK) is None
    note = card_note(tmp_path, "stub", kept)
    data = (tmp_path / "cards" / "stub.json").read_bytes()
    assert note["sha256"] == hashlib.sha256(data).hexdigest()
    assert note["findings"] == ["it lies"]
    assert note["measured"] == {"check": kept["check"]["measured"]}


def test_a_card_without_a_check_has_no_findings_rather_than_none_found(tmp_path: Path) -> None:
    update_card(tmp_path / "cards", JUDGE, "attack", {"rate": 0})
    keep_cards(tmp_path, find_cards(tmp_path / "cards", {"stub": MARK}))
    assert card_note(tmp_path, "stub", kept_card(tmp_path, "stub", MARK))["findings"] is None


# --- runs -----------------------------------------------------------------------------------------

RUN = ("run", "--model", "baseline/majority", "--dataset", "sample", "--limit", "4", "--out", "out")


def test_a_run_points_to_the_cards_of_its_judges(cli: Cli) -> None:
    assert cli.fast("judges", "check", "--judge", "smoke").rc == 0
    assert cli.fast(*RUN, "--judge", "smoke").rc == 0
    judges = json.loads(cli.summary())["judges"]
    note = judges["smoke"]["card"]
    kept = cli.folder / "out" / "cards" / "smoke.json"
    assert note["sha256"] == hashlib.sha256(kept.read_bytes()).hexdigest()
    assert note["measured"].keys() == {"anchors", "check"}
    assert any("to everything" in finding for finding in note["findings"])
    assert judges["format"]["card"] is None
    assert judges["smoke"]["drift"] is None


def test_judges_that_are_added_bring_their_cards(cli: Cli) -> None:
    assert cli.fast(*RUN, "--no-rubric").rc == 0
    check = ("judges", "check", "--judge", "smoke", "--cards", "mine")
    assert cli.fast(*check).rc == 0
    assert cli.fast("score", "out", "--judge", "smoke").rc == 0
    assert json.loads(cli.summary())["judges"]["smoke"]["card"] is None
    assert cli.fast("resume", "out", "--judge-cards", "mine").rc == 0
    assert json.loads(cli.summary())["judges"]["smoke"]["card"]["findings"]
    assert cli.fast("resume", "out").rc == 0
    assert json.loads(cli.summary())["judges"]["smoke"]["card"]["findings"]


def test_a_broken_card_stops_a_run_before_it_spends(cli: Cli) -> None:
    assert cli.fast("judges", "check", "--judge", "smoke").rc == 0
    (file,) = (cli.folder / "judge-cards").glob("*/card.json")
    file.write_text("{")
    done = cli.fast(*RUN, "--judge", "smoke")
    assert done.rc == 2
    assert "card.json cannot be read" in done.sentence
    assert not (cli.folder / "out" / "replies.jsonl").read_text()
