"""Ledgers that lack candidates, or have them twice or out of place, are never called whole."""

from __future__ import annotations

import json
import math
import tracemalloc
from dataclasses import replace
from types import SimpleNamespace

import pytest
from in_process import Here
from rundata import say
from trained_ledger import Rewarding, changed
from training_rows import make_evaluation, make_row

from kardiabench.errors import RunError
from trainer import watching
from trainer.completeness import Completeness, steps_between
from trainer.config import Grpo
from trainer.evaluations import EVALUATIONS, append
from trainer.ledger import Header, Ledger, ledger_name
from trainer.rescoring import rescore
from trainer.watching import Watching

TEXTS = [say("anxious"), say("sad"), "no spans at all", say("joy")]


def rows_of(steps=4, every=1, groups=2, per_group=3, evaluations=(0, 2)):
    """Rows as a training of one process writes them."""
    found = []
    for step in range(steps):
        if step in evaluations:
            found += [make_row(step=step, group=at, turn_id=f"e/{at}") for at in range(3)]
        if step % every == 0:
            found += [
                make_row(at, step=step, phase="train", group=group, turn_id=f"t/{group}")
                for group in range(groups)
                for at in range(per_group)
            ]
    return found


def faults(rows, **options):
    found = []
    look = Completeness(found.append, **options)
    assert list(look.through(rows)) == rows
    return [fault.what for fault in found]


def without(rows, **place):
    return [row for row in rows if any(getattr(row, k) != v for k, v in place.items())]


def test_a_whole_ledger_has_no_faults():
    assert faults(rows_of()) == []
    assert faults(rows_of(), every=1) == []
    assert faults(rows_of(steps=9, every=3)) == []


def test_a_batch_that_is_spread_over_processes_is_whole_only_together():
    rows = [replace(row, rank=int(row.candidate > 0)) for row in rows_of()]
    assert faults(rows) == []
    first = [row for row in rows if row.rank == 0]
    second = [row for row in rows if row.rank == 1]
    assert "candidate 1 stands where candidate 0 should" in faults(second)
    assert faults(first, whole=False) == []
    assert faults(second, whole=False) == []
    assert faults(without(second, step=1, group=0, candidate=1), whole=False)


TRAINED = {"step": 2, "phase": "train"}


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda rows: without(rows, **TRAINED, group=0, candidate=1), "candidate 2 stands where"),
        (
            lambda rows: without(rows, **TRAINED, group=0, candidate=2),
            "groups of phase train with 2 candidates: 1,",
        ),
        (lambda rows: without(rows, **TRAINED, group=0), "group 1 stands where group 0 should"),
        (
            lambda rows: without(rows, **TRAINED, group=1),
            "batches of training with 3 candidates: 1,",
        ),
        (lambda rows: without(rows, **TRAINED), "no step between 1 and 3 has candidates"),
        (lambda rows: without(rows, step=0, phase="train"), "candidates of step 0 are missing"),
        (
            lambda rows: without(rows, step=2, phase="eval", group=2),
            "evaluations with 2 candidates: 1,",
        ),
        (lambda rows: [*rows, rows[-1]], "more than once"),
        (lambda rows: [*rows, replace(rows[-1], rank=1)], "more than once"),
        (lambda rows: [*rows, *rows[-6:]], "more than once"),
        (lambda rows: [*rows[9:], *rows[:9]], "it stands behind step 3"),
        (lambda rows: [replace(rows[0], step=-2), *rows], "its step is below 0"),
        (lambda rows: [*rows, replace(rows[-1], call=7)], "call 7 stands where call 1 should"),
        (lambda rows: [*rows, replace(rows[-1], candidate=-1)], "candidate -1 stands where"),
        (lambda rows: [*rows, replace(rows[-1], candidate=10**12)], "candidate 1000000000000 "),
    ],
)
def test_what_is_wrong_is_named(spoil, what):
    found = faults(spoil(rows_of()))
    assert any(what in fault for fault in found), found


def test_the_distance_of_batches_is_the_recipes_where_it_is_known():
    halved = rows_of(steps=8, every=2, evaluations=())
    assert faults(halved, every=2) == []
    assert any("no step between 0 and 2" in fault for fault in faults(halved, every=1))
    assert faults(halved[:6] + halved[12:], every=math.inf) == []
    assert (steps_between(2, {}), steps_between(2, {"steps_per_generation": 3})) == (2, math.inf)


def test_several_batches_a_step_are_whole():
    rows = rows_of(evaluations=())
    twice = sorted([*rows, *(replace(row, call=1) for row in rows)], key=lambda row: row.step)
    assert faults(twice) == []
    assert faults(without(twice, step=1, call=0)) == ["call 1 stands where call 0 should"]


def test_memory_does_not_grow_with_the_steps():
    def peak(steps):
        rows = (
            make_row(at, step=step, phase="train", text="x" * 1000)
            for step in range(steps)
            for at in range(4)
        )
        tracemalloc.start()
        try:
            assert sum(1 for _ in Completeness(pytest.fail).through(rows)) == 4 * steps
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(2000) < 1.5 * peak(200)


# --- rescore --------------------------------------------------------------------------------------


@pytest.fixture
def ledger(tmp_path):
    """Four steps with an evaluation; resumed from the checkpoint of step 2."""
    folder = tmp_path / "training"
    with Rewarding(folder, judges=["format"]) as it:
        for step in range(4):
            if step in (0, 2):
                it.batch(TEXTS, it.turn_ids(4), step=step, phase="eval", per_group=1)
            it.batch(TEXTS, step=step)
    lines = it.path.read_bytes().splitlines(keepends=True)
    resumed = [b'{"event": "resume", "step": 2}\n', *lines[-8:]]
    it.path.write_bytes(b"".join([*lines, *resumed]))
    return it.path


def told(path, **options):
    found = []
    report = rescore(path, tell=found.append, **options)
    assert report.differ == len({(one.place, str(one)) for one in found})
    return [str(one) for one in found]


def cut(path, *numbers):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(line for at, line in enumerate(lines) if at not in numbers))


def test_steps_that_were_done_again_are_no_doubles(ledger):
    assert told(ledger) == []
    assert rescore(ledger.parent).notes == []


def test_without_the_line_of_the_resumption_they_are(ledger):
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join(line for line in lines if b'"event": "resume"' not in line))
    assert any("stands behind step 3" in sentence for sentence in told(ledger))


@pytest.mark.parametrize("composites_only", [False, True])
def test_a_doubled_and_a_lost_line_are_named(ledger, composites_only):
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join([*lines[:6], lines[6], *lines[6:]]))
    (doubled,) = told(ledger, composites_only=composites_only)
    turn_id = json.loads(lines[6])["turn_id"]
    assert doubled == (
        f"ledger.jsonl: train step 0, rank 0, call 0, group 0, candidate 1 (turn {turn_id}): this "
        "candidate is there more than once"
    )
    ledger.write_bytes(b"".join([*lines[:6], *lines[7:]]))
    assert any("candidate 2 stands where candidate 1" in sentence for sentence in told(ledger))


def test_a_persona_that_is_not_the_turns_is_a_difference(ledger):
    changed(ledger, lambda row: row.update(persona_id="somebody"), line=5)
    (sentence,) = told(ledger)
    assert "persona_id is 'somebody', made again" in sentence


def test_no_candidates_are_one_sentence(ledger):
    ledger.write_bytes(ledger.read_bytes().splitlines(keepends=True)[0])
    for place in (ledger, ledger.parent):
        with pytest.raises(RunError, match="has no candidates; give") as caught:
            rescore(place)
        assert "\n" not in str(caught.value)


def test_one_process_of_several_is_said_to_be_one(tmp_path):
    for rank in (0, 1):
        with Rewarding(tmp_path / "t", judges=["format"], rank=rank) as it:
            it.batch(TEXTS, per_group=8)  # four of a group's eight candidates each
    assert rescore(tmp_path / "t").notes == []
    for rank in (0, 1):
        report = rescore(tmp_path / "t" / ledger_name(rank))
        assert report.differ == 0
        assert "only this process's candidates" in report.notes[0]
    (tmp_path / "t" / ledger_name(0)).unlink()
    assert rescore(tmp_path / "t").differ > 0


def test_a_process_without_its_ledger_is_one_sentence(ledger):
    manifest = {"training_version": 1, "processes": 2, "recipe": {"iterations": 1, "trl": {}}}
    (ledger.parent / "training.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match=r"ledger.rank1.jsonl.* is missing; restore it"):
        rescore(ledger.parent)
    assert "only this process's candidates" in rescore(ledger).notes[0]


def test_the_command_fails_and_names_it(ledger, tmp_path, monkeypatch, capsys):
    here = Here(tmp_path / "user", monkeypatch, capsys)
    assert here("rescore", ledger).rc == 0
    cut(ledger, *range(9, 13))  # the candidates of step 1
    done = here("rescore", ledger)
    assert done.rc == 2
    assert "no step between 0 and 2 has candidates of training" in done.out
    assert "none differ" not in done.out
    (difference,) = json.loads(here("rescore", ledger, "--json").out)["differences"]
    assert "no step between" in difference["what"]


# --- resumption -----------------------------------------------------------------------------------


#: What `Watching` looks at when it begins.
NO_SCORERS = SimpleNamespace(rewarded=SimpleNamespace(dimensions={}))


@pytest.fixture
def output(tmp_path):
    """A training's books up to step 4, to be resumed from the checkpoint of step 4."""
    write_ledger(tmp_path, rows_of(steps=6, evaluations=(0, 2, 4)))
    for step in (0, 2, 4):
        append(tmp_path / EVALUATIONS, make_evaluation(step, [0.5], [0.5]))
    return tmp_path


def write_ledger(folder, rows, rank=0):
    (folder / ledger_name(rank)).unlink(missing_ok=True)
    with Ledger(folder / ledger_name(rank), Header({}, {}, {})) as ledger:
        ledger.append(rows)


def resumed(output, step=4, **recipe):
    stage = Grpo(model="nobody/none", output=output, **recipe)
    return Watching(stage, NO_SCORERS, pytest.fail, resume_at=step)


def test_whole_books_are_gone_on_with(output):
    assert [one.step for one in resumed(output).evaluations] == [0, 2, 4]


def test_what_came_after_the_checkpoint_need_not_be_whole(output):
    write_ledger(output, rows_of(steps=6, evaluations=(0, 2, 4))[:-4])
    assert len(resumed(output)._history) == 4


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda rows: without(rows, step=1, phase="train"), "no step between 0 and 2"),
        (lambda rows: without(rows, step=3, phase="train"), "end at step 2"),
        (lambda rows: without(rows, step=0, phase="train"), "step 0 are missing"),
        (lambda rows: without(rows, step=1, phase="train", candidate=1), "candidate 2 stands"),
        (lambda rows: without(rows, step=1, phase="train", group=1), "batches of training with 3"),
        (lambda rows: [*rows[:9], *rows[3:]], "more than once|stands behind"),
        (lambda rows: without(rows, step=4, phase="eval"), "without candidates of evaluation of"),
        (lambda rows: [], "have no candidates of training"),
    ],
)
def test_books_that_are_not_whole_are_refused(output, spoil, what):
    before = (output / EVALUATIONS).read_bytes()
    write_ledger(output, spoil(rows_of(steps=6, evaluations=(0, 2, 4))))
    with pytest.raises(RunError, match=what) as caught:
        resumed(output)
    assert "restore the files, or give another output folder" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (output / EVALUATIONS).read_bytes() == before


@pytest.mark.parametrize("lost", [0, 2, 4])
def test_a_lost_evaluation_is_refused(output, lost):
    cut(output / EVALUATIONS, lost // 2)
    with pytest.raises(RunError, match=f"without the evaluation of step {lost}, which was there"):
        resumed(output)


@pytest.mark.parametrize("name", [EVALUATIONS, ledger_name(0)])
@pytest.mark.parametrize("emptied", [False, True])
def test_a_lost_file_is_one_sentence(output, name, emptied):
    if emptied:
        (output / name).write_bytes(b"")
    else:
        (output / name).unlink()
    state = "(is empty|is without)" if emptied else "is missing"
    with pytest.raises(RunError, match=rf"{name}.* {state}.*restore .*another output folder"):
        resumed(output)


def test_a_lost_ledger_of_another_process_is_one_sentence(output, monkeypatch):
    monkeypatch.setattr(watching, "processes", lambda: 2)
    with pytest.raises(RunError, match=r"ledger.rank1.jsonl.*is missing"):
        resumed(output)


def test_several_updates_a_batch_are_gone_on_with(tmp_path):
    write_ledger(tmp_path, rows_of(steps=6, every=2, evaluations=()))
    for step in (1, 2, 3, 4, 5):
        assert resumed(tmp_path, step, iterations=2).evaluations == []
    with pytest.raises(RunError, match="end at step 4, before the checkpoint of 7"):
        resumed(tmp_path, 7, iterations=2)
    resumed(tmp_path, 7, iterations=2, trl={"steps_per_generation": 4})
