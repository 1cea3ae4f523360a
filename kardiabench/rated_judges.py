"""The judge's side of a calibration: its scores of the items that people rated.

They come from the ratings file itself, from the stored verdicts of a run, or from the judge, asked
now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kardiabench.anchors import item_with_response
from kardiabench.bench import Bench
from kardiabench.contracts import Identity, Judge
from kardiabench.dialogues import load
from kardiabench.errors import ConfigError, DataError, did_you_mean
from kardiabench.fingerprints import fingerprint
from kardiabench.frames import load_run
from kardiabench.human_ratings import ItemTexts, Ratings
from kardiabench.records import Dialogue, Dimension, Item, Message, Reply, Turn, Verdict
from kardiabench.results import judges_of
from kardiabench.spans import render_spans
from kardiabench.stats import Floats

#: What stands in the spans that nobody rated.
_NOT_RATED = "(not rated)"
TASK = "calibrate"


@dataclass
class RecordedJudge:
    """A judge as a run's manifest records it: for its card, not for judging."""

    name: str
    identity: Identity
    dimensions: tuple[Dimension, ...]
    smoke_test: bool = False

    async def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """Recorded judges judge nothing."""
        raise ConfigError(f"judge {self.name} is a record of a run and cannot judge {len(items)}")


@dataclass(frozen=True)
class JudgeScores:
    """A judge's scores of the rated items, (items, dimensions), NaN where there is none.

    `mark` is its fingerprint, None where nobody knows which judge it was. `words` are the lengths
    of the responses and `personas` their clusters (empty text: unknown).
    """

    name: str
    mark: str | None
    scores: Floats
    words: Floats
    personas: tuple[str, ...]
    judge: Judge | None = None


def from_file(ratings: Ratings, name: str | None, mark: str | None) -> JudgeScores:
    """The scores under a judge column of the file: `name`, else the only one there is."""
    if not ratings.stored:
        raise ConfigError(
            "the ratings hold no judge's scores (no column judge or judge:NAME); name the judge to "
            "ask with --judge, or a run with --run"
        )
    chosen = name or next(iter(ratings.stored))
    if name is None and len(ratings.stored) > 1:
        known = ", ".join(sorted(ratings.stored))
        raise ConfigError(f"the ratings hold scores of several judges; say --column with: {known}")
    if chosen not in ratings.stored:
        hint = did_you_mean(chosen, ratings.stored)
        raise ConfigError(f"the ratings have no column judge:{chosen[:60]}; {hint}")
    return JudgeScores(
        chosen, mark, ratings.stored[chosen], _words(ratings.texts), _personas(ratings)
    )


def from_run(ratings: Ratings, path: Path, name: str) -> JudgeScores:
    """The stored verdicts of judge `name` on the run's replies; items are turn ids."""
    run = load_run(path)
    described: Mapping[str, Any] = run.manifest["protocol"]["scorer"]["judges"]
    if name not in described:
        raise ConfigError(f"{path} has no judge {name!r}; {did_you_mean(name, described)}")
    lacks = [item for item in ratings.items if item not in run.scores.index]
    if lacks:
        raise DataError(
            f"{path} has no reply to {len(lacks)} of the rated items (first {lacks[0][:60]!r}); "
            "items are turn ids of the run that was rated"
        )
    dimensions = {d.name: d for d in judges_of(run.manifest)[name]}
    check_dimensions(ratings, name, dimensions)
    rows = list(ratings.items)
    columns = [f"{name}.{dimension}" for dimension in ratings.dimensions]
    replies = run.replies.loc[rows]
    return JudgeScores(
        name=name,
        mark=described[name]["fingerprint"],
        scores=run.scores.loc[rows, columns].to_numpy(dtype=np.float64),
        words=np.array([_length(text) for text in replies["response"]]),
        personas=tuple(replies["persona_id"]),
        judge=RecordedJudge(
            name,
            described[name]["identity"],
            tuple(dimensions.values()),
            bool(described[name].get("smoke_test")),
        ),
    )


async def from_judge(
    bench: Bench, judge: Judge, ratings: Ratings, dataset: str | None
) -> JudgeScores:
    """The scores of `judge`, asked now about every item; the journal keeps them."""
    check_dimensions(ratings, judge.name, {d.name: d for d in judge.dimensions})
    items = items_of(ratings, bench, dataset)
    await bench.preflight(judge)
    with bench.measuring(len(items), TASK):
        verdicts = await bench.verdicts(judge, items, TASK)
    scores = [[verdict.scores[name] for name in ratings.dimensions] for verdict in verdicts]
    table = np.array([[np.nan if s is None else s for s in row] for row in scores])
    words = _words(ratings.texts)
    known = [_length(item.reply.spans.response) for item in items]
    return JudgeScores(
        name=judge.name,
        mark=fingerprint(judge.identity),
        scores=table,
        words=np.where(np.isnan(words), known, words),
        personas=_personas(ratings),
        judge=judge,
    )


def items_of(ratings: Ratings, bench: Bench, dataset: str | None) -> list[Item]:
    """The items as a judge reads them, with their context from the file or from a dataset."""
    turns: dict[str, Turn] = {}
    if dataset is not None:
        source = bench.registry.open_dataset(dataset)
        wanted = frozenset(ratings.items)
        turns = {turn.id: turn for turn in load(source).turns() if turn.id in wanted}
    pairs = list(zip(ratings.items, ratings.texts, strict=True))
    items = [_item(name, texts, turns, dataset) for name, texts in pairs]
    for (name, texts), item in zip(pairs, items, strict=True):
        if item.reply.spans.response != texts.response.strip():
            raise DataError(
                f"the response of item {name[:60]!r} holds tags (of spans or of thinking), so the "
                "judge would read another text than people rated; take them out"
            )
    return items


def check_dimensions(ratings: Ratings, judge: str, known: Mapping[str, Dimension]) -> None:
    """Raise `DataError` for a rated dimension that the judge does not have."""
    for name in ratings.dimensions:
        if name not in known:
            raise DataError(
                f"the ratings have a dimension {name[:60]!r} that judge {judge} does not score; "
                f"{did_you_mean(name, known)}"
            )
        span = known[name].low, known[name].high
        if span != ratings.scale:
            low, high = ratings.scale
            raise DataError(
                f"the ratings are on {low:g} to {high:g} and judge {judge} scores {name} on "
                f"{span[0]:g} to {span[1]:g}; use ratings on that scale, with --scale"
            )


def _item(name: str, texts: ItemTexts, turns: Mapping[str, Turn], dataset: str | None) -> Item:
    if not texts.response:
        raise DataError(
            f"the ratings give no response for item {name[:60]!r}; add a column response, or use "
            "--run, or a column with the judge's scores"
        )
    if name in turns:
        return item_with_response(turns[name], texts.response)
    if dataset is not None:
        raise DataError(
            f"--dataset {dataset} has no turn {name[:60]!r}; items are its turn ids "
            "(<dialogue>/<number>), or leave --dataset out"
        )
    if not texts.message:
        raise DataError(
            f"the ratings give no message for item {name[:60]!r}, which the response answers; add "
            "a column message, or name the --dataset that has the turn"
        )
    return _own_item(name, texts)


def _own_item(name: str, texts: ItemTexts) -> Item:
    """An item whose whole context stands in the file."""
    messages = (*texts.history, Message("user", texts.message))
    persona = texts.persona or name
    dialogue = Dialogue(name, persona, texts.profile, "", "", texts.situation, messages)
    turn = Turn(dialogue, 0, len(messages), "", "", "dialogue")
    spans = render_spans(_NOT_RATED, _NOT_RATED, _NOT_RATED, texts.response)
    return Item(turn, Reply(turn.id, spans))


def _words(texts: Sequence[ItemTexts]) -> Floats:
    return np.array([t.words if t.words is not None else _length(t.response) for t in texts])


def _length(response: object) -> float:
    words = len(response.split()) if isinstance(response, str) else 0
    return float(words) if words else float("nan")


def _personas(ratings: Ratings) -> tuple[str, ...]:
    return tuple(texts.persona for texts in ratings.texts)
