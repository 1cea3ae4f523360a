"""A judge outside of a run: every judgement kept as it comes, failures told, none invented."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from rundata import StubJudge, make_item

from kardiabench import bench as benches
from kardiabench.bench import PATIENCE, InstrumentError, open_bench, spent
from kardiabench.errors import PreflightError, RunError
from kardiabench.journal import Journal, iterate_journal
from kardiabench.records import Usage, Verdict

ITEMS = [make_item(f"d{number}") for number in range(25)]


class Failing(StubJudge):
    """Fails on the items named, with the status and words given."""

    def __init__(self, bad, status="unparsed", words="fives all round", **more):
        super().__init__(**more)
        self.bad, self.status, self.words = set(bad), status, words

    async def judge(self, items):
        return [
            Verdict(i.turn.id, self.name, "", {"d": None}, self.status, {"judge": self.words})
            if i.turn.id in self.bad
            else (await super(Failing, self).judge([i]))[0]
            for i in items
        ]


def measure(judge, items=ITEMS, task="t", journal=None):
    bench = open_bench(quiet=True)
    bench.journal = journal
    return benches.run(bench, lambda: bench.verdicts(judge, items, task)), bench


def test_verdicts_come_in_the_order_of_the_items_and_their_price_is_summed():
    judge = StubJudge()
    verdicts, bench = measure(judge)
    assert [verdict.turn_id for verdict in verdicts] == [item.turn.id for item in ITEMS]
    assert bench.usage == Usage(calls=25, cost=6.25)
    assert spent(bench.usage) == "25 calls, $6.2500"


def test_what_is_in_the_journal_is_not_asked_again_and_another_task_is(tmp_path: Path):
    judge = StubJudge()
    with Journal(tmp_path / "j.jsonl") as journal:
        measure(judge, ITEMS[:10], journal=journal)
    with Journal(tmp_path / "j.jsonl") as journal:
        verdicts, bench = measure(judge, journal=journal)
        assert (len(verdicts), bench.usage.calls) == (25, 15)
        _, again = measure(judge, task="another", journal=journal)
        assert again.usage.calls == 25
        _, other = measure(StubJudge(version="2"), journal=journal)
        assert other.usage.calls == 25


def test_failed_judgements_are_not_kept(tmp_path: Path):
    bad = {ITEMS[3].turn.id}
    with Journal(tmp_path / "j.jsonl") as journal:
        verdicts, _ = measure(Failing(bad), journal=journal)
        assert [v.status for v in verdicts].count("unparsed") == 1
        mended, bench = measure(StubJudge(), journal=journal)
    assert (bench.usage.calls, {v.status for v in mended}) == (1, {"ok"})


def test_a_torn_line_is_cut_off_and_a_damaged_one_is_named(tmp_path: Path):
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        measure(StubJudge(), ITEMS[:2], journal=journal)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:40])
    with Journal(path) as journal:
        _, bench = measure(StubJudge(), ITEMS[:2], journal=journal)
        assert bench.usage.calls == 0
    path.write_bytes(b"{}\n" + whole)
    with pytest.raises(RunError, match=r"j\.jsonl, byte 0: this line was changed"):
        Journal(path)
    path.write_bytes(whole)
    assert len(iterate_journal(path)) == 2
    Journal(path).__exit__()  # the failed opening left no lock behind


def test_two_processes_do_not_share_a_journal(tmp_path: Path):
    with Journal(tmp_path / "j.jsonl"), pytest.raises(RunError, match="in use by another"):
        Journal(tmp_path / "j.jsonl")


def test_a_judge_that_answers_nonsense_ends_it_with_its_first_three_answers():
    everything = {item.turn.id for item in ITEMS}
    with pytest.raises(InstrumentError) as caught:
        measure(Failing(everything))
    said = str(caught.value)
    assert said.count("unparsed: fives all round") == 3
    assert f"none of the first {PATIENCE} replies" in said
    with pytest.raises(InstrumentError, match="none of the first 2 replies"):
        measure(Failing(everything), ITEMS[:2])


def test_a_judge_that_fails_at_first_and_then_judges_is_measured():
    verdicts, _ = measure(Failing({item.turn.id for item in ITEMS[1:]}))
    assert [v.status for v in verdicts] == ["ok", *["unparsed"] * 24]


def test_a_refused_key_stops_at_once_with_what_to_do():
    judge = Failing({ITEMS[0].turn.id}, "error", "auth: 401 bad key")
    with pytest.raises(InstrumentError, match=r"judge stub: auth: 401 bad key; .*key"):
        measure(judge)


def test_preflight_names_a_judge_that_cannot_judge():
    bench = open_bench(quiet=True)

    class Broken(StubJudge):
        async def judge(self, items):
            raise RuntimeError("no model")

    with pytest.raises(PreflightError, match="RuntimeError: no model"):
        asyncio.run(bench.preflight(Broken()))
    asyncio.run(bench.preflight(StubJudge()))
