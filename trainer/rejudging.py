"""The judges of a ledger, asked again: built-in deterministic ones anew, others from the cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

from kardiabench.cache import Cache, default_path
from kardiabench.contracts import Judge
from kardiabench.dialogues import load
from kardiabench.errors import DataError, KardiaBenchError, RunError
from kardiabench.guards import NamedJudge
from kardiabench.plugins import load_registry
from kardiabench.records import Item, Turn, Verdict, missing_scores
from kardiabench.registry import Registry, parse_spec
from kardiabench.scoring import DEFAULT_WEIGHTS, Scorer
from kardiabench.session import Models, make_scorer
from kardiabench.settings import RunSettings
from trainer.ledger import Header, Row

How = Literal["anew", "cache", "not opened"]
_NOT_CACHED = "not cached"
_WAY_OUT = "--composites-only checks the composites without data and judges"


@dataclass
class JudgeCount:
    """How a judge's verdicts were looked at, and how many candidates' each.

    `how`: judged `anew`, from the `cache`, or `not opened` where the ledger does not say how.
    `compared` verdicts were made again; of the others the stored one was kept: `not_cached`, or
    `failed`, since a failure is nothing to repeat.
    """

    how: How
    compared: int = 0
    not_cached: int = 0
    failed: int = 0


class CachedOnly(NamedJudge):
    """A judge with the identity of `judge` that never judges: what the cache lacks is skipped."""

    def __init__(self, judge: Judge) -> None:
        super().__init__(judge, judge.name)

    async def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """A verdict an item that says that it is not cached."""
        return [
            Verdict(
                turn_id=item.turn.id,
                judge=self.name,
                fingerprint="",  # the Scorer writes it
                scores=missing_scores(self.dimensions),
                status="skipped",
                evidence={"judge": _NOT_CACHED},
            )
            for item in items
        ]


@dataclass
class Rejudger:
    """Turns and judges of a ledger. `live` are the judges that are not judged anew here."""

    turns: Mapping[str, Turn]
    scorer: Scorer
    live: Scorer
    models: Models
    counts: dict[str, JudgeCount] = field(default_factory=dict)

    async def again(self, rows: Sequence[Row]) -> list[tuple[Verdict, ...]]:
        """The verdicts of every row made again, in the stored order, or the stored ones."""
        items = self.items(rows)
        fresh: dict[tuple[int, str], Verdict] = {}
        for judge in self.scorer.judges:
            fresh |= await self._of_judge(judge, rows, items)
        return [
            tuple(self._kept(fresh.get((place, v.judge), v)) for v in row.verdicts)
            for place, row in enumerate(rows)
        ]

    def items(self, rows: Sequence[Row]) -> list[Item]:
        """What the judges were shown; raises `DataError` for a turn that is no longer there."""
        for row in rows:
            if row.turn_id not in self.turns:
                raise DataError(
                    f"the ledger has candidates for turn {row.turn_id}, which the dataset lacks: "
                    f"it changed since the training; restore it, or use {_WAY_OUT}"
                )
        return [Item(self.turns[row.turn_id], row.reply()) for row in rows]

    def persona_id(self, row: Row) -> str:
        """The persona of the row's turn, as the dataset has it."""
        return self.turns[row.turn_id].dialogue.persona_id

    async def aclose(self) -> None:
        """Close the judges' models and the cache."""
        for model in self.models.opened.values():
            await model.aclose()
        if isinstance(self.scorer.cache, Cache):
            self.scorer.cache.close()

    async def _of_judge(
        self, judge: Judge, rows: Sequence[Row], items: Sequence[Item]
    ) -> dict[tuple[int, str], Verdict]:
        """The judge's new verdicts by row, where the stored one is a whole judgement."""
        count = self.counts[judge.name]
        there = [place for place, row in enumerate(rows) if _is_whole(row, judge.name)]
        verdicts = await self.scorer.verdicts(judge, [items[place] for place in there])
        found = {
            (place, judge.name): verdict
            for place, verdict in zip(there, verdicts, strict=True)
            if not _was_not_cached(verdict)
        }
        count.compared += len(found)
        count.not_cached += len(there) - len(found)
        return found

    def _kept(self, verdict: Verdict) -> Verdict:
        """`verdict`, counted where nobody looked at it."""
        count = self.counts.setdefault(verdict.judge, JudgeCount("not opened"))
        count.failed += verdict.status != "ok"
        return verdict


def open_rejudger(header: Header, where: str, registry: Registry | None = None) -> Rejudger:
    """The Rejudger of a ledger, opened from its header without calling a model.

    Raises a `KardiaBenchError`, one sentence, when the dataset or a judge cannot be had, or when a
    judge is no longer the one that the ledger names.
    """
    with _hinted():
        settings = RunSettings.from_json(header.settings, where)
        registry = registry or load_registry(settings.plugins)
        models = Models(registry, settings)
        cache = Cache(default_path()) if settings.cache else None
        scorer = make_scorer(settings, registry, models, cache)
        source = registry.open_dataset(settings.dataset, settings.split, settings.revision)
        dialogues = load(source, settings.selection, settings.on_bad_row)
        turns = {turn.id: turn for turn in dialogues.turns()}
    _check_fingerprints(header, scorer, where)
    anew = _repeatable(settings, scorer, registry)
    judges = [j if j.name in anew else CachedOnly(j) for j in scorer.judges]
    ways: dict[str, How] = {j.name: "anew" if j.name in anew else "cache" for j in judges}
    live = [judge for judge in scorer.judges if judge.name not in anew]
    return Rejudger(
        turns=turns,
        scorer=_with(scorer, judges),
        live=replace(_with(scorer, live), cache=None),
        models=models,
        counts={name: JudgeCount(how) for name, how in ways.items()},
    )


def _with(scorer: Scorer, judges: Sequence[Judge]) -> Scorer:
    """`scorer` with other judges; its weights are not used here."""
    weights = {judge.name: 1.0 for judge in judges} or dict(DEFAULT_WEIGHTS)
    return replace(scorer, judges=judges, weights=weights, _flights={})


def _repeatable(settings: RunSettings, scorer: Scorer, registry: Registry) -> frozenset[str]:
    """The built-in judges that compute their verdict: they say so by not being cacheable."""
    return frozenset(
        judge.name
        for spec, judge in zip(settings.judge_specs, scorer.judges, strict=True)
        if registry.judges[parse_spec(spec)[0]].built_in and not getattr(judge, "cacheable", True)
    )


def _was_not_cached(verdict: Verdict) -> bool:
    return verdict.status == "skipped" and verdict.evidence.get("judge") == _NOT_CACHED


def _is_whole(row: Row, judge: str) -> bool:
    return any(verdict.judge == judge and verdict.status == "ok" for verdict in row.verdicts)


def _check_fingerprints(header: Header, scorer: Scorer, where: str) -> None:
    parts = (header.scorer, header.held_out or {})
    stored = [part["judges"] for part in parts if isinstance(part.get("judges"), Mapping)]
    other = [
        name
        for name, mark in scorer.fingerprints.items()
        if any(name in judges and judges[name].get("fingerprint") != mark for judges in stored)
    ]
    if other:
        raise RunError(
            f"{where}: {', '.join(other)} judged otherwise then (another version, prompt or "
            f"model); use the version of kardiabench that wrote it, or {_WAY_OUT}"
        )


@contextmanager
def _hinted() -> Iterator[None]:
    try:
        yield
    except KardiaBenchError as error:
        raise type(error)(f"{error}; {_WAY_OUT}") from error
