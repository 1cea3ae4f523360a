"""What a recipe trains on: subsets, held-out personas, identity, and test data kept out."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rowdata import in_memory, make_row, write_rows

from kardiabench.contracts import RowSource
from kardiabench.dialogues import Entry, load
from kardiabench.errors import ConfigError, DataError, KardiaBenchError
from kardiabench.plugins import load_registry
from kardiabench.registry import BUILT_IN, Registry
from kardiabench.registry import Entry as Registered
from kardiabench.sampling import Selection
from trainer.config import Data, HeldOut
from trainer.data import TrainingData, divide, open_data
from trainer.split_manifest import SplitDialogue, SplitManifest, is_easy, write_split

REGISTRY = load_registry()
TWO = HeldOut(personas=2, dialogues=4)


def rows(number: int, personas: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        make_row(start + n, person=f"About: person {start} {n % personas} of a test.")
        for n in range(number)
    ]


def entries(number: int, personas: int) -> list[Entry]:
    return list(load(in_memory(list(rows(number, personas)))).entries)


def opened(path: Path, held_out: HeldOut | None = TWO, **changes: Any) -> TrainingData:
    options = {"dataset": str(path), "split": None, "allow_unchecked": True} | changes
    return open_data(Data(**options), held_out, REGISTRY)


def sample(held_out: HeldOut | None = TWO, **changes: Any) -> TrainingData:
    return open_data(Data(**({"dataset": "sample"} | changes)), held_out, REGISTRY)


def refusal(kind: type[KardiaBenchError], held_out: HeldOut | None = TWO, **changes: Any) -> str:
    with pytest.raises(kind) as caught:
        open_data(Data(**changes), held_out, REGISTRY)
    text = str(caught.value)
    assert "\n" not in text
    assert "--" not in text, "a recipe has no options"
    return text


def persona_ids(turns: tuple[Any, ...]) -> set[str]:
    return {turn.dialogue.persona_id for turn in turns}


def split_file(path: Path, data: TrainingData, rates: dict[str, float | None]) -> Path:
    """A manifest of `data`, whose dialogues pass at these rates of four samples."""
    dialogues = [
        SplitDialogue(id_, 4, 0 if rate is None else 4, rate, is_easy(rate, 0.5))
        for id_, rate in sorted(rates.items())
    ]
    manifest = SplitManifest(
        dataset={"name": "any", "fingerprint": data.identity["fingerprint"]},
        prompts={},
        model={},
        scorer={},
        samples=4,
        temperature=1.0,
        max_tokens=16,
        seed=0,
        pass_mark=0.8,
        easy_share=0.5,
        dialogues=dialogues,
    )
    write_split(path, manifest)
    return path


# --- what is there ------------------------------------------------------------------------------


def test_turns_are_those_of_the_benchmark_and_share_their_dialogues() -> None:
    data = sample(None)
    source = REGISTRY.open_dataset("sample", "train")
    assert {turn.id: turn for turn in load(source).turns()} == dict(data.turns)
    assert len({id(turn.dialogue) for turn in data.train}) == data.dialogues.train
    assert all(turn.gold is turn.dialogue.messages[turn.end].content for turn in data.train)
    assert data.held_out == ()
    assert data.notes == ()
    assert data.test is not None
    assert data.test["split"] == "test"


def test_turns_of_a_dialogue_stand_together_and_in_order() -> None:
    ids = [(turn.dialogue.id, turn.index) for turn in sample().train]
    assert ids == sorted(ids)


def test_a_limit_is_that_of_a_run() -> None:
    data = sample(None, limit=5)
    chosen = load(REGISTRY.open_dataset("sample", "train"), Selection(5))
    assert data.identity["fingerprint"] == chosen.fingerprint
    assert data.dialogues.train == 5


# --- held-out personas --------------------------------------------------------------------------


def test_nothing_of_a_held_out_persona_is_trained_on() -> None:
    data = sample(HeldOut(personas=2, dialogues=3))
    assert len(persona_ids(data.held_out)) == data.personas.held_out == 2
    assert not persona_ids(data.held_out) & persona_ids(data.train)
    assert data.personas.train == 4
    assert data.dialogues.held_out == 3
    whole = sample(None)
    theirs = [turn for turn in whole.train if turn.dialogue.persona_id in persona_ids(data.train)]
    assert data.train == tuple(theirs)


@given(personas=st.integers(2, 6), kept=st.integers(1, 5), most=st.integers(1, 30))
def test_held_out_dialogues_are_spread_evenly(personas: int, kept: int, most: int) -> None:
    kept = min(kept, personas - 1)
    found = entries(personas * 4, personas)
    division = divide(found, HeldOut(personas=kept, dialogues=most))
    by_persona = Counter(e.persona_id for e in found if e.id in division.held_out)
    assert len(division.personas) == kept
    assert by_persona.total() == min(most, 4 * kept)
    assert max(by_persona.values()) - min(by_persona[p] for p in division.personas) <= 1


@given(seed=st.integers(0, 2**32))
def test_the_order_of_the_file_decides_nothing(seed: int) -> None:
    found = entries(20, 5)
    mixed = random.Random(seed).sample(found, len(found))
    assert divide(mixed, TWO) == divide(found, TWO)


def test_more_data_change_few_held_out_personas() -> None:
    found = entries(40, 40)
    eight = HeldOut(personas=8)
    before = divide(found[:39], eight).personas
    assert len(divide(found, eight).personas & before) >= 7
    more = divide(found[:39], HeldOut(personas=9)).personas
    assert before < more


def test_held_out_personas_are_not_the_first_by_id() -> None:
    """`limit_personas` takes those, so that it would leave the held-out ones alone."""
    found = entries(40, 40)
    ids = sorted(entry.persona_id for entry in found)
    assert divide(found, HeldOut(personas=8)).personas not in (set(ids[:8]), set(ids[-8:]))


def test_no_persona_held_out() -> None:
    data = sample(HeldOut(personas=0))
    assert data.held_out == ()
    assert data.train == sample(None).train


@pytest.mark.parametrize("personas", [6, 7])
def test_holding_everybody_out_is_refused(personas: int) -> None:
    text = refusal(ConfigError, HeldOut(personas=personas), dataset="sample")
    assert "held_out.personas keeps 6 of 6 personas" in text
    assert "set it to at most 5" in text


# --- subsets ------------------------------------------------------------------------------------


def test_a_subset_restricts_training_and_not_what_is_held_out(tmp_path: Path) -> None:
    whole = sample(None)
    ids = sorted({turn.dialogue.id for turn in whole.train})
    rates = {id_: (None, 1.0, 0.25, 0.5)[at % 4] for at, id_ in enumerate(ids)}
    manifest = split_file(tmp_path / "split.json", whole, rates)
    easy = sample(manifest=manifest, subset="easy")
    hard = sample(manifest=manifest, subset="hard")
    both = sample()
    assert easy.held_out == hard.held_out == both.held_out
    trained = {turn.dialogue.id for turn in both.train}
    for data, wanted in ((easy, (1.0, 0.5)), (hard, (0.25,))):
        expected = {id_ for id_ in trained if rates[id_] in wanted}
        assert {turn.dialogue.id for turn in data.train} == expected
    assert easy.identity["manifest"] == hard.identity["manifest"] is not None
    assert easy.identity != hard.identity


def test_a_manifest_of_other_data_is_refused_by_both_fingerprints(tmp_path: Path) -> None:
    fewer = sample(None, limit=5)
    manifest = split_file(tmp_path / "split.json", fewer, {})
    text = refusal(DataError, dataset="sample", manifest=manifest, subset="easy")
    assert str(fewer.identity["fingerprint"]) in text
    assert str(sample(None).identity["fingerprint"]) in text


def test_a_subset_needs_a_manifest() -> None:
    text = refusal(ConfigError, dataset="sample", subset="hard")
    assert "data.subset hard needs data.manifest" in text


def test_a_subset_without_dialogues_is_refused(tmp_path: Path) -> None:
    whole = sample(None)
    rates: dict[str, float | None] = {turn.dialogue.id: 1.0 for turn in whole.train}
    manifest = split_file(tmp_path / "split.json", whole, rates)
    text = refusal(ConfigError, dataset="sample", manifest=manifest, subset="hard")
    assert "data.subset leaves nothing to train on" in text


# --- identity -----------------------------------------------------------------------------------


def test_identity_and_order_are_of_the_content_alone(tmp_path: Path) -> None:
    some = rows(12, 4)
    one = opened(write_rows(tmp_path / "one.jsonl", some))
    (tmp_path / "elsewhere").mkdir()
    mixed = random.Random(1).sample(some, len(some))
    two = opened(write_rows(tmp_path / "elsewhere" / "two.jsonl.gz", mixed))
    assert one.identity == two.identity == json.loads(json.dumps(one.identity))
    assert (one.train, one.held_out) == (two.train, two.held_out)
    assert one.source != two.source


def test_identity_tells_other_data_and_other_divisions_apart(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", rows(12, 4))
    more = write_rows(tmp_path / "b.jsonl", rows(13, 4))
    bad = write_rows(tmp_path / "c.jsonl", [*rows(12, 4), {"person": "nobody"}])
    found = [
        opened(path),
        opened(more),
        opened(bad, on_bad_row="skip"),
        opened(path, HeldOut(personas=1, dialogues=4)),
        opened(path, HeldOut(personas=2, dialogues=3)),
        opened(path, None),
        opened(path, limit=11),
    ]
    assert len({json.dumps(data.identity) for data in found}) == len(found)


# --- test data ----------------------------------------------------------------------------------


def test_test_dialogues_in_training_data_are_refused() -> None:
    text = refusal(DataError, dataset="sample", split="all")
    assert "dialogues of the test data are in the training data" in text


def test_personas_that_are_only_held_out_count_too(tmp_path: Path) -> None:
    train = rows(12, 4)
    held_out = divide(list(load(in_memory(list(train))).entries), TWO).personas
    theirs = next(e for e in load(in_memory(list(train))) if e.persona_id in held_out)
    test = write_rows(tmp_path / "t.jsonl", [make_row(99, person=theirs.profile)])
    path = write_rows(tmp_path / "a.jsonl", train)
    text = refusal(DataError, dataset=str(path), test_dataset=str(test))
    assert "1 of the 1 personas of the test data are in the training data" in text


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": "sample", "split": "test"},
        {"dataset": "sample", "split": "test", "test_dataset": "sample"},
        {"dataset": "sample", "split": None, "test_split": None},
        {"dataset": "sample", "split": "all", "test_split": "all", "allow_unchecked": True},
    ],
)
def test_training_on_the_test_split_is_refused(changes: dict[str, Any]) -> None:
    assert "is the test data, all of it" in refusal(DataError, **changes)


def test_a_file_that_is_named_test_is_refused_even_unchecked(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "test.jsonl", rows(12, 4))
    text = refusal(DataError, dataset=str(path), allow_unchecked=True)
    assert "data.split test of" in text
    assert "is the test data, all of it" in text


def test_a_directory_without_a_split_would_be_its_test_split(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", rows(12, 4))
    write_rows(tmp_path / "test.jsonl", rows(4, 2, start=50))
    assert "all of it" in refusal(DataError, dataset=str(tmp_path), split=None)
    data = open_data(Data(dataset=str(tmp_path)), TWO, REGISTRY)
    assert data.dialogues.train + data.dialogues.held_out == 10
    assert data.test is not None


def test_a_plain_file_needs_test_data_or_the_word_that_it_has_none(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "mine.jsonl", rows(12, 4))
    text = refusal(DataError, dataset=str(path))
    assert "is one file, which has no test split of its own" in text
    assert "data.test_dataset" in text
    assert "data.allow_unchecked: true" in text
    data = open_data(Data(dataset=str(path), allow_unchecked=True), TWO, REGISTRY)
    assert data.test is None
    assert len(data.notes) == 1
    assert data.notes[0].startswith("it was not checked that no test data are trained on")
    test = write_rows(tmp_path / "theirs.jsonl", rows(4, 2, start=50))
    checked = open_data(Data(dataset=str(path), test_dataset=str(test)), TWO, REGISTRY)
    assert checked.test is not None
    assert checked.train == data.train


def test_allow_unchecked_does_not_allow_what_was_checked() -> None:
    text = refusal(DataError, dataset="sample", split="all", allow_unchecked=True)
    assert "are in the training data" in text


def test_a_gated_test_split_is_refused_or_noted(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "mine.jsonl", rows(12, 4))

    def gated(name: str, split: str | None, revision: str | None) -> RowSource:
        raise DataError("it is gated and you are not logged in: ask, or give --dataset a file")

    registry = Registry(datasets={"theirs": Registered("theirs", gated, BUILT_IN, "dataset")})
    data = Data(dataset=str(path), test_dataset="theirs")
    with pytest.raises(DataError, match=r"gated .* or give data\.test_dataset a file"):
        open_data(data, TWO, registry)
    unchecked = data.model_copy(update={"allow_unchecked": True})
    (note,) = open_data(unchecked, TWO, registry).notes
    assert "it is gated" in note


def test_bad_rows_of_test_data_are_left_out_and_said(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "mine.jsonl", rows(12, 4))
    test = write_rows(tmp_path / "t.jsonl", [make_row(99, person="Q"), {"person": "nobody"}])
    data = open_data(Data(dataset=str(path), test_dataset=str(test)), TWO, REGISTRY)
    assert any(note.startswith("1 bad row of the test data") for note in data.notes)


def test_errors_in_the_training_data_name_the_recipe_s_fields(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "mine.jsonl", [*rows(12, 4), {"person": "nobody"}])
    assert "data.on_bad_row skip" in refusal(DataError, dataset=str(path))
    write_rows(tmp_path / "train.jsonl", rows(2, 2))
    assert "data.split" in refusal(DataError, dataset=str(tmp_path), split="dev")
    assert "data.dataset" in refusal(DataError, dataset=str(tmp_path / "none.jsonl"))


def test_near_duplicates_are_noted_unless_another_process_does() -> None:
    registry = load_registry()
    found: list[Any] = [raw.value for raw in registry.open_dataset("sample", "test").rows()]
    train = [row | {"person": f"About: {n}"} for n, row in enumerate(found)]
    registry.datasets["copies"] = Registered(
        "copies", lambda *_: in_memory(list(train)), BUILT_IN, "dataset"
    )
    data = Data(dataset="copies", test_dataset="sample")
    assert "near-duplicates of dialogues" in open_data(data, TWO, registry).notes[0]
    assert open_data(data, TWO, registry, compare_texts=False).notes == ()
