"""From a run's columns to its extract: every figure that does not depend on other runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from kardiabench.emotions import EMOTIONS
from kardiabench.jackknife import ClassificationIntervals, classification_intervals
from kardiabench.records import Usage
from kardiabench.results import Results
from kardiabench.scoring import JUDGED
from kardiabench.stats import Floats, estimate
from leaderboard.columns import Columns
from leaderboard.extract import DialogueNote, Numbers, Scores
from leaderboard.turn_files import group_means
from leaderboard.views import EmotionRow, FailureView, FlagView, Metric

#: Failures that a page names; it counts all.
MOST_FAILURES = 200


def scores_of(columns: Columns, metrics: Sequence[Metric]) -> dict[str, Scores]:
    """Each metric by persona. Metrics that are no means are not among them."""
    return {
        metric.key: _scores(columns, columns.scores[metric.key])
        for metric in metrics
        if metric.key in columns.scores
    }


def _scores(columns: Columns, values: Floats) -> Scores:
    number = len(columns.personas)
    whole = estimate(values, columns.persona)
    scored = np.bincount(columns.persona[~np.isnan(values)], minlength=number)
    return Scores(
        means=listed(group_means(values, columns.persona, number)),
        scored=scored.tolist(),
        mean=whole.mean,
        low=whole.low,
        high=whole.high,
        personas=whole.personas,
        total_scored=whole.scored,
    )


def listed(values: Floats) -> Numbers:
    """`values` for JSON, NaN as None."""
    return [None if np.isnan(value) else float(value) for value in values]


def naming(columns: Columns) -> ClassificationIntervals | None:
    """How well emotions were named, over the answered turns; None for no answer."""
    given = columns.answered
    if not given.any():
        return None
    return classification_intervals(
        columns.gold[given], columns.predicted[given], columns.persona[given]
    )


def notes_of(columns: Columns) -> list[DialogueNote]:
    """What every run knows of its dialogues: the gold emotion is that of the first turn."""
    first = np.unique(columns.dialogue, return_index=True)[1]
    counts = np.bincount(columns.dialogue)
    return [
        DialogueNote(
            id=columns.dialogues[code],
            persona=columns.personas[columns.persona[turn]],
            emotion=EMOTIONS[columns.gold[turn]],
            turns=int(counts[code]),
        )
        for code, turn in enumerate(first)
    ]


def flags_of(columns: Columns, results: Results) -> list[FlagView]:
    """The yes/no questions and the turns whose answer lies below the middle of the range."""
    ids = columns.ids
    planned = len(ids)
    found = []
    for judge, dimensions in results.dimensions.items():
        for dimension in (d for d in dimensions if d.flag):
            values = columns.scores[f"{judge}.{dimension.name}"]
            low = np.flatnonzero(values < (dimension.low + dimension.high) / 2)
            scored = int(np.count_nonzero(~np.isnan(values)))
            turns = [ids[place] for place in low]
            coverage = scored / planned if planned else 0.0
            found.append(
                FlagView(judge, dimension.name, dimension.description, turns, scored, coverage)
            )
    return found


def failures_of(columns: Columns) -> Iterator[FailureView]:
    """What went wrong, turn by turn: with the model, a judge, or on the way to them."""
    for turn_id, turn in zip(columns.ids, columns.turns, strict=True):
        if turn.status == "error":
            yield FailureView(turn_id, "transport", turn.error_kind or "error")
            continue
        if turn.status != "ok":
            yield FailureView(turn_id, "model", turn.status)
        if turn.problems:
            yield FailureView(turn_id, "model", " ".join(turn.problems))
        for judge, verdict in turn.verdicts.items():
            if verdict.status not in JUDGED and verdict.status != "skipped":
                yield FailureView(turn_id, "judge", f"{judge}: {verdict.status}")


def emotions_of(named: ClassificationIntervals | None) -> list[EmotionRow]:
    """The recall of each emotion that is gold somewhere."""
    recalls = named.recall if named is not None else {}
    return [
        EmotionRow(label, recall.support, recall.value, recall.low, recall.high)
        for label, recall in recalls.items()
    ]


def f1_scores(columns: Columns, named: ClassificationIntervals) -> Scores:
    """Macro-F1, by persona its jackknife pseudo-values: they compare like persona means.

    Moved so that their mean is the statistic itself: two runs then differ by what their tables
    show, and the jackknife gives the error of that.
    """
    given = columns.answered
    number = len(columns.personas)
    scored = np.bincount(columns.persona[given], minlength=number)
    pseudo = np.full(number, np.nan)
    found = named.macro_f1
    pseudo[scored > 0] = named.pseudo_values + (found.value - named.pseudo_values.mean())
    return Scores(
        means=listed(pseudo),
        scored=scored.tolist(),
        mean=found.value,
        low=found.low,
        high=found.high,
        personas=int(np.count_nonzero(scored)),
        total_scored=int(given.sum()),
    )


def costs_of(results: Results) -> tuple[float | None, float | None]:
    """US dollars a turn for the model and for its judges, over the turns without an error.

    None where a call has no known price: a part of the price would look cheap.
    """
    turns = [turn for turn in results.turns.values() if turn.status != "error"]
    model = [turn.usage for turn in results.turns.values()]
    judges = [v.usage for turn in results.turns.values() for v in turn.verdicts.values()]
    return _cost(model, len(turns)), _cost(judges, len(turns))


def _cost(usages: Sequence[Usage], turns: int) -> float | None:
    costs = [usage.cost for usage in usages if usage.calls]
    known = [cost for cost in costs if cost is not None]
    if not turns or not costs or len(known) < len(costs):
        return None
    return math.fsum(known) / turns
