"""What came of a comparison of two runs: `comparison.json`, schema in docs/compare.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import kardiabench
from kardiabench.cases import Case
from kardiabench.comparing import PREFERENCE, Pair
from kardiabench.contracts import Judge
from kardiabench.families import family_of
from kardiabench.own_family import codes, own_family
from kardiabench.records import Usage, Verdict
from kardiabench.results import count
from kardiabench.scoring import JUDGED, describe
from kardiabench.stats import Floats
from kardiabench.winrate import Share, length_controlled, orders, outcomes, win_rate

#: The version of the schema.
SCHEMA_VERSION = 1
#: The two orders of a pair, as verdicts name their parts (`first`, or `first 1`, `first 2`, …).
_PLACES = ("first", "second")


@dataclass(frozen=True)
class Scored:
    """A case with what the judge said. Scores are preferences for A, None where there is none."""

    case: Case
    verdict: Verdict | None

    @property
    def score(self) -> float | None:
        """The mean of both orders."""
        if self.verdict is None or self.verdict.status not in JUDGED:
            return None
        return self.verdict.scores[PREFERENCE]

    @property
    def missing(self) -> str | None:
        """Why there is no score."""
        if self.verdict is None:
            return self.case.missing
        return None if self.score is not None else f"judge {self.verdict.status}"

    def shown(self, place: str) -> float | None:
        """The score with A's reply in that place, the mean over samples."""
        if self.verdict is None or self.score is None:
            return None
        parts = self.verdict.parts.items()
        return _mean(s.get(PREFERENCE) for part, s in parts if part.split()[:1] == [place])

    @property
    def row(self) -> dict[str, Any]:
        """Ids and numbers: no text of a run, a dataset or a judge."""
        words = self.case.words or (None, None)
        return {
            "turn_id": self.case.turn.id,
            "persona_id": self.case.persona_id,
            "score": self.score,
            "first": self.shown("first"),
            "second": self.shown("second"),
            "words_a": words[0],
            "words_b": words[1],
            "missing": self.missing,
        }


def compare_cases(
    pair: Pair, judge: Judge, cases: Sequence[Case], verdicts: Mapping[str, Verdict]
) -> dict[str, Any]:
    """The comparison of the runs on `cases` by the judge's `verdicts`, by turn."""
    scored = [Scored(case, verdicts.get(case.turn.id)) for case in cases]
    return {
        "schema_version": SCHEMA_VERSION,
        "kardiabench": kardiabench.__version__,
        "a": pair.a.identity,
        "b": pair.b.identity,
        "dataset": {**pair.a.manifest["dataset"], "fingerprint": pair.fingerprint},
        "judge": {"name": judge.name, **describe(judge), "own_family": _own(pair, judge)},
        "missing": count([one.missing for one in scored if one.missing]),
        "verdicts": count([verdict.status for verdict in verdicts.values()]),
        **_statistics(scored),
        "words": _words_json([case.words for case in cases if case.words]),
        "personas": _by_persona(scored),
        "usage": asdict(Usage.total(verdict.usage for verdict in verdicts.values())),
        "cases": [one.row for one in scored],
    }


def _statistics(scored: Sequence[Scored]) -> dict[str, Any]:
    personas = codes([one.case.persona_id for one in scored])
    scores = _floats(one.score for one in scored)
    first, second = (_floats(one.shown(place) for one in scored) for place in _PLACES)
    apart = _floats(one.case.words_apart for one in scored)
    rate, order = win_rate(scores, personas), orders(first, second, personas)
    return {
        "coverage": rate.estimate.coverage,
        "outcomes": asdict(outcomes(scores)),
        "win_rate": _share_json(rate) | {"p": rate.p},
        "length_controlled": asdict(length_controlled(scores, personas, apart)),
        "order": {
            **{key: getattr(order, key) for key in ("cases", "agree", "first", "second", "half")},
            "consistency": _share_json(order.consistency),
            "first_shown": _share_json(order.first_shown) | {"p": order.first_shown.p},
        },
    }


def _share_json(found: Share) -> dict[str, Any]:
    value = found.estimate
    return asdict(value) | {"coverage": value.coverage, "why": found.why}


def _own(pair: Pair, judge: Judge) -> list[str]:
    """Whose replies come from the judge's own model family, as far as names tell."""
    family = own_family(judge.identity)
    sides = (("a", pair.a), ("b", pair.b))
    return [name for name, side in sides if family and family_of(side.model) == family]


def _words_json(pairs: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Lengths where both sides have a response, and how often either has none."""
    both = [(a, b) for a, b in pairs if a and b]
    return {
        "mean_a": _mean(a for a, _ in both),
        "mean_b": _mean(b for _, b in both),
        "longer_a": sum(a > b for a, b in both),
        "longer_b": sum(a < b for a, b in both),
        "without_response_a": sum(not a for a, _ in pairs),
        "without_response_b": sum(not b for _, b in pairs),
    }


def _by_persona(scored: Sequence[Scored]) -> dict[str, Any]:
    found: dict[str, list[float | None]] = {}
    for one in scored:
        found.setdefault(one.case.persona_id, []).append(one.score)
    return {persona: _persona(scores) for persona, scores in sorted(found.items())}


def _persona(scores: Sequence[float | None]) -> dict[str, Any]:
    judged = sum(score is not None for score in scores)
    return {"win_rate": _mean(scores), "scored": judged, "total": len(scores)}


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of those that are there."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None


def _floats(values: Iterable[float | None]) -> Floats:
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)
