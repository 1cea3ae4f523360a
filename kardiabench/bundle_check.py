"""Checks a bundle: every figure recomputed from its rows, and what differs named.

A bundle carries no signature: who changes rows and figures alike is not found out here, except
where the rows contradict each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeGuard

import kardiabench
from kardiabench.bundle import SUFFIX, Bundle, read_bundle
from kardiabench.bundle_data import data_mismatches
from kardiabench.bundle_rows import TurnText, word_counts
from kardiabench.emotions import match_emotion
from kardiabench.errors import ConfigError
from kardiabench.records import Dimension
from kardiabench.results import JudgeResult, TurnResult
from kardiabench.scoring import JUDGED
from kardiabench.spans import SPAN_NAMES, parse_spans

ABSENT = "(absent)"
#: Floats that differ by less are the same figure from another machine.
_RELATIVE, _TINY = 1e-12, 1e-15
#: The mean of samples comes from a sum in another order.
_ROUNDING = 1e-9
#: What a judge that is a rule can say of a turn; with any other status it said nothing.
_RULED = JUDGED | {"skipped"}
#: The judges that are rules, as of the versions whose rules stand here.
EMOTION_RULE = {"judge": "emotion", "version": "1"}
FORMAT_RULE = {"judge": "format", "version": "1"}
#: Judges of ours whose score is the mean of their samples.
_MEANS = frozenset(("rubric", "safety", "pairwise"))


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of a bundle that is not what its rows give. `where` is its path."""

    where: str
    packed: object
    recomputed: object

    def __str__(self) -> str:
        return f"{self.where} is {_shown(self.packed)}, its rows give {_shown(self.recomputed)}"


def verify_bundle(path: str | Path) -> list[Difference]:
    """Everything in which the bundle at `path` contradicts itself; empty when it holds.

    Raises `RunError` for a file that is no whole bundle or has a changed member.
    """
    return list(differences(read_bundle(path)))


def differences(bundle: Bundle) -> Iterator[Difference]:
    """Everything in which `bundle` contradicts itself."""
    yield from _figures(bundle)
    for mismatch in data_mismatches(bundle.results, bundle.manifest):
        yield Difference(*mismatch)
    for turn_id, turn in bundle.results.turns.items():
        yield from _turn(turn_id, turn, bundle)
    if bundle.has_texts:
        yield from _texts(bundle)


def find_bundles(paths: Sequence[Path]) -> list[Path]:
    """The bundles that `paths` are or that lie in them. Raises `ConfigError` for none."""
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise ConfigError(f"there is no {path}; give bundles (*{SUFFIX}) or their folder")
        inside = sorted(path.rglob(f"*{SUFFIX}")) if path.is_dir() else [path]
        if not inside:
            raise ConfigError(f"{path} holds no bundle (*{SUFFIX}); give bundles or their folder")
        found += inside
    return list(dict.fromkeys(found))


# --- figures --------------------------------------------------------------------------------------


def _figures(bundle: Bundle) -> Iterator[Difference]:
    """The summary against what its rows give; a later version may have more keys."""
    same_version = bundle.kardiabench == kardiabench.__version__
    for found in compare("summary", bundle.summary, bundle.summarise()):
        if same_version or found.packed != ABSENT:
            yield found


def compare(where: str, packed: object, recomputed: object) -> Iterator[Difference]:
    """The leaves in which two JSON values differ; numbers may by 1e-12 of their size."""
    if isinstance(packed, Mapping) and isinstance(recomputed, Mapping):
        for key in sorted(packed.keys() | recomputed.keys()):
            mine, theirs = packed.get(key, ABSENT), recomputed.get(key, ABSENT)
            yield from compare(f"{where}.{key}", mine, theirs)
    elif isinstance(packed, list | tuple) and isinstance(recomputed, list | tuple):
        pairs = zip_longest(packed, recomputed, fillvalue=ABSENT)
        for at, (mine, theirs) in enumerate(pairs):
            yield from compare(f"{where}[{at}]", mine, theirs)
    elif not _same(packed, recomputed):
        yield Difference(where, packed, recomputed)


def _same(packed: object, recomputed: object) -> bool:
    if _is_number(packed) and _is_number(recomputed):
        return math.isclose(packed, recomputed, rel_tol=_RELATIVE, abs_tol=_TINY)
    return type(packed) is type(recomputed) and packed == recomputed


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


# --- rows -----------------------------------------------------------------------------------------


def _turn(turn_id: str, turn: TurnResult, bundle: Bundle) -> Iterator[Difference]:
    """What a row says of itself: rules that need no text, and means of samples."""
    where, words = f"turns.{turn_id}", bundle.notes[turn_id].words
    if not turn.problems and turn.status != "error" and _lacks_span(words):
        yield Difference(f"{where}.problems", [], "a missing span")
    if turn.predicted is not None and words.get("emotion") is None:
        yield Difference(f"{where}.predicted", turn.predicted, None)
    judges = bundle.manifest["protocol"]["scorer"]["judges"]
    for name, verdict in turn.verdicts.items():
        identity, at = judges[name]["identity"], f"{where}.verdicts.{name}"
        if identity in (EMOTION_RULE, FORMAT_RULE):
            yield from _ruled(at, verdict, _by_rule(identity, turn))
        elif verdict.parts and identity.get("judge") in _MEANS and verdict.status in JUDGED:
            yield from _means(at, verdict, bundle.results.dimensions[name])


def _lacks_span(words: Mapping[str, int | None]) -> bool:
    return any(words.get(name) is None for name in SPAN_NAMES)


def _by_rule(identity: Mapping[str, Any], turn: TurnResult) -> float | None:
    """What a judge that is a rule scores; None where there is no reply."""
    if turn.status == "error":
        return None
    if identity == EMOTION_RULE:
        return float(turn.predicted == turn.gold_emotion)
    return float(turn.status == "ok" and not turn.problems)


def _ruled(where: str, verdict: JudgeResult, score: float | None) -> Iterator[Difference]:
    status = "skipped" if score is None else "ok"
    if verdict.status in _RULED and (verdict.status, verdict.scores) != (status, (score,)):
        packed = {"status": verdict.status, "scores": list(verdict.scores)}
        yield from compare(where, packed, {"status": status, "scores": [score]})


def _means(
    where: str, verdict: JudgeResult, dimensions: Sequence[Dimension]
) -> Iterator[Difference]:
    columns = zip(*verdict.parts, strict=True)
    for score, dimension, column in zip(verdict.scores, dimensions, columns, strict=True):
        there = [value for value in column if value is not None]
        mean = sum(there) / len(there) if there else None
        if mean is None or score is None:
            same = mean is score
        else:
            same = math.isclose(score, mean, rel_tol=_ROUNDING, abs_tol=_ROUNDING)
        if not same:
            yield Difference(f"{where}.{dimension.name}", score, mean)


# --- texts ----------------------------------------------------------------------------------------


def _texts(bundle: Bundle) -> Iterator[Difference]:
    """Rows against the replies: read again, they name the same emotion and have the same flaws."""
    seen = 0
    for text in bundle.texts():
        seen += 1
        yield from _text(text, bundle.results.turns[text.turn_id], bundle)
    if seen != len(bundle.results.turns):
        yield Difference("texts", seen, len(bundle.results.turns))


def _text(text: TurnText, turn: TurnResult, bundle: Bundle) -> Iterator[Difference]:
    spans = dict(text.spans)
    if text.raw is not None:
        again = parse_spans(text.raw)
        spans = {name: getattr(again, name) for name in SPAN_NAMES}
        yield from compare(f"texts.{text.turn_id}.spans", dict(text.spans), spans)
        problems = list(again.problems)
    else:
        problems = [f"missing:{name}" for name in sorted(SPAN_NAMES) if spans.get(name) is None]
    emotion = spans.get("emotion")
    packed = {
        "predicted": turn.predicted,
        "problems": list(turn.problems),
        "words": dict(bundle.notes[text.turn_id].words),
    }
    recomputed = {
        "predicted": match_emotion(emotion) if emotion else None,
        "problems": [] if turn.status == "error" else problems,
        "words": word_counts(spans),
    }
    if packed != recomputed:
        yield from compare(f"turns.{text.turn_id}", packed, recomputed)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
