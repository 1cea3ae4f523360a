"""Instrument checks: what scores on replies of known quality tell of a judge. Pure functions.

Every check ends as `clear`, `found` (the fault that it looks for is there) or `unknown`, which has
a reason. Arrays have a last axis of dimensions; NaN is a judgement that is missing. Least effects
are shares of a dimension's range: an eighth is 0.5 and a fortieth 0.10 on a scale of 1 to 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from kardiabench.agreement import row_mean
from kardiabench.effects import Effect, effect, holm
from kardiabench.records import Dimension
from kardiabench.stats import Codes, Floats

Result = Literal["clear", "found", "unknown"]
Check = dict[str, Any]
#: The least drop of a degraded reply on its own dimension, as a share of the range.
LEAST_DROP = 1 / 8
#: The least shift, rise or difference that is worth a word, as a share of the range.
LEAST_SHIFT = 1 / 40
#: A drop elsewhere has to stay below this share of the drop on the dimension that was degraded.
SPECIFIC = 0.5
#: Below it Krippendorff (2004) lets no conclusion be drawn from the ratings, not even a tentative.
LEAST_ALPHA = 0.667
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Sample:
    """Which base turn and persona each of n items belongs to, as codes from 0."""

    bases: Codes
    personas: Codes


def check(
    result: Result, sentences: Sequence[str], reason: str | None = None, **more: Any
) -> Check:
    """A check as the judge card has it; `sentences` are the findings in words."""
    return {"result": result, "reason": reason, "sentences": list(sentences), **more}


def unknown(reason: str, **more: Any) -> Check:
    """A check that tells nothing, and why."""
    return check("unknown", [], reason, **more)


def over_repeats(scores: Floats) -> Floats:
    """(repeats, items, dimensions) to (items, dimensions): the mean of the repeats there are."""
    return row_mean(np.moveaxis(scores, 0, -1))


# --- test and retest ------------------------------------------------------------------------------


def retest(scores: Floats, dimensions: Sequence[Dimension]) -> Check:
    """Whether the judge says the same again; `scores` is (repeats, items, dimensions).

    For each dimension Krippendorff's alpha for interval data among the repeats (what matters is by
    how much they differ), the mean over items of the standard deviation over repeats, and the
    share of items with identical scores; over the items that have two scores.
    """
    if len(scores) < 2:
        return unknown("one repeat says nothing of the next; give --repeats 2 or more")
    parts = {d.name: _retested(scores[:, :, i].T) for i, d in enumerate(dimensions)}
    said = [
        f"{name} is not repeatable: alpha {part['alpha']:.2f} among the repeats, at least "
        f"{LEAST_ALPHA} is wanted"
        for name, part in parts.items()
        if part["result"] == "found"
    ]
    return _together(parts, said, repeats=len(scores))


def _retested(table: Floats) -> Check:
    """One dimension; `table` is (items, repeats)."""
    count = np.count_nonzero(~np.isnan(table), axis=1)
    repeated = table[count >= 2]
    figures: dict[str, Any] = {
        "alpha": None,
        "sd": _mean(np.nanstd(repeated, axis=1, ddof=1)),
        "identical": _mean(np.ptp(_filled(repeated), axis=1) <= _ROUNDING),
        "items": len(repeated),
        "total": len(table),
    }
    if not len(repeated):
        return unknown("no item has two scores", **figures)
    alpha = interval_alpha(repeated)
    if alpha is None:
        return unknown("all scores are the same, so alpha is not defined", **figures)
    figures["alpha"] = alpha
    return check("found" if alpha < LEAST_ALPHA else "clear", [], **figures)


def interval_alpha(table: Floats) -> float | None:
    """Krippendorff's alpha for interval data (Krippendorff 2011) of `table`, (items, ratings).

    Every item has at least two ratings, NaN being no rating. 1 less the quotient of the mean
    squared difference within items and that among all ratings; None where no rating differs.
    """
    count = np.count_nonzero(~np.isnan(table), axis=1)
    within = np.nanvar(table, axis=1, ddof=1)
    everything = table[~np.isnan(table)]
    if np.ptp(everything) <= _ROUNDING:
        return None
    return 1 - float(np.average(within, weights=count) / everything.var(ddof=1))


def _filled(table: Floats) -> Floats:
    """`table` with what is missing replaced by a score of the same row."""
    return np.where(np.isnan(table), np.nanmax(table, axis=1, keepdims=True), table)


def _mean(values: Floats | Any) -> float | None:
    return float(np.mean(values)) if len(values) else None


# --- sensitivity ----------------------------------------------------------------------------------


def sensitivity(
    scores: Floats,
    kinds: Sequence[str],
    sample: Sample,
    dimensions: Sequence[Dimension],
    targets: Mapping[str, str],
) -> Check:
    """Whether degraded replies score lower where they were degraded, and not elsewhere.

    `scores` (items, dimensions) are means over repeats of items of `kinds`; `targets` has the
    dimension that each kind is worse in. Drops are gold less degraded, paired by base turn, by
    persona. A kind is seen when its drop on its own dimension is above 0 (one-sided t test of the
    personas' means, Holm over the kinds) and at least `LEAST_DROP` of the range; it is specific
    when, in shares of the range, every other drop is below half of it.
    """
    drops = {kind: _drops(scores, np.array(kinds), kind, sample, dimensions) for kind in targets}
    own = {kind: found[targets[kind]] for kind, found in drops.items() if targets[kind] in found}
    tests = holm(own)
    ranges = {d.name: d.high - d.low for d in dimensions}
    parts = {
        kind: _seen(kind, target, drops[kind], tests.get(kind), ranges)
        for kind, target in targets.items()
    }
    said = [sentence for part in parts.values() for sentence in part.pop("sentences")]
    return _together(parts, said, "kinds")


def _drops(
    scores: Floats, kinds: Any, kind: str, sample: Sample, dimensions: Sequence[Dimension]
) -> dict[str, Effect]:
    gold, worse = _by_base(scores, kinds == "gold", sample), _by_base(scores, kinds == kind, sample)
    personas = _persona_of_base(sample)
    return {
        d.name: effect(gold[:, i] - worse[:, i], personas, "greater")
        for i, d in enumerate(dimensions)
    }


def _by_base(scores: Floats, chosen: Any, sample: Sample) -> Floats:
    """The scores of the chosen items, one a base, in the order of the bases' codes."""
    table = np.full((int(sample.bases.max()) + 1, scores.shape[1]), np.nan)
    table[sample.bases[chosen]] = scores[chosen]
    return table


def _persona_of_base(sample: Sample) -> Codes:
    personas = np.zeros(int(sample.bases.max()) + 1, dtype=np.int64)
    personas[sample.bases] = sample.personas
    return personas


def _seen(
    kind: str,
    target: str,
    drops: Mapping[str, Effect],
    own: Effect | None,
    ranges: Mapping[str, float],
) -> Check:
    shown = {name: found.to_json() for name, found in drops.items()}
    figures: dict[str, Any] = {"target": target, "passed": None, "specific": None}
    if own is None:
        return unknown(f"the judge has no dimension {target}", **figures, drops=shown)
    shown[target] = own.to_json()
    if own.mean is None:
        return unknown(f"no pair has both scores of {target}", **figures, drops=shown)
    if own.mean >= (least := LEAST_DROP * ranges[target]) - _ROUNDING and not own.significant:
        why = f"{own.clusters} personas are too few to tell the drop from chance"
        return unknown(why, **figures, drops=shown)
    passed = own.mean >= least - _ROUNDING
    wide = [
        name
        for name, found in drops.items()
        if name != target and found.mean is not None and passed
        if found.mean / ranges[name] >= SPECIFIC * own.mean / ranges[target]
    ]
    figures |= {"passed": passed, "specific": not wide if passed else None}
    said = _unseen(kind, target, own, least) if not passed else _halo(kind, target, wide, drops)
    return check("found" if said else "clear", said, **figures, drops=shown)


def _unseen(kind: str, target: str, own: Effect, least: float) -> list[str]:
    return [
        f"{_words(kind)} replies: the drop in {target} is {own.mean:.2f}, at least {least:g} is "
        "wanted"
    ]


def _halo(kind: str, target: str, wide: Sequence[str], drops: Mapping[str, Effect]) -> list[str]:
    if not wide:
        return []
    others = ", ".join(f"{name} by {drops[name].mean:.2f}" for name in wide)
    return [
        f"{_words(kind)} replies: the drop in {target} is {drops[target].mean:.2f}, and half of it "
        f"or more elsewhere: {others}"
    ]


def _words(kind: str) -> str:
    return kind.replace("_", " ")


# --- shifts: padding, order -----------------------------------------------------------------------


def padding(
    plain: Floats, padded: Floats, personas: Codes, dimensions: Sequence[Dimension]
) -> Check:
    """Whether neutral filler raises the scores of good replies; both are (pairs, dimensions).

    Unknown for a dimension on which the plain replies are so near the top that no rise would show.
    """
    parts = shifts(padded - plain, personas, dimensions)
    tops = row_mean(plain.T)
    for d, top in zip(dimensions, tops, strict=True):
        part = parts[d.name]
        if part["result"] == "clear" and d.high - top < LEAST_SHIFT * (d.high - d.low):
            why = f"the plain replies have {top:.2f} already, which leaves no room for a rise"
            parts[d.name] = part | {"result": "unknown", "reason": why}
        elif part["result"] == "found" and part["mean"] < 0:
            parts[d.name] = part | {"result": "clear"}
    return _together(parts, _said("neutral filler raises", parts))


def order(
    fixed: Floats, reversed_: Floats, personas: Codes, dimensions: Sequence[Dimension]
) -> Check:
    """Whether the order of the dimensions in the prompt matters; both are (items, dimensions)."""
    parts = shifts(reversed_ - fixed, personas, dimensions)
    return _together(parts, _said("asked for in reversed order, scores shift:", parts))


def position(
    first: Floats, second: Floats, personas: Codes, dimensions: Sequence[Dimension]
) -> Check:
    """Whether a judge of pairs prefers the reply that it sees first; both are (pairs, dimensions).

    `first` is the preference for a reply when it stands first, `second` when it stands second. The
    preference for the first place is the mean of `first` and 1 - `second`, on the dimension's
    range, less its middle; `flips` is the share of pairs that prefer another reply in each order.
    """
    middles = np.array([(d.low + d.high) / 2 for d in dimensions])
    parts = shifts((first - second) / 2, personas, dimensions)
    for i, d in enumerate(dimensions):
        sides = np.sign(first[:, i] - middles[i]) * np.sign(second[:, i] - middles[i])
        there = ~np.isnan(sides)
        parts[d.name]["flips"] = _mean(sides[there] < 0)
    return _together(parts, _said("the first reply of a pair is favoured:", parts))


def shifts(
    differences: Floats, clusters: Codes, dimensions: Sequence[Dimension]
) -> dict[str, Check]:
    """For each dimension the mean of `differences` (items, dimensions), Holm over dimensions.

    Found when `p_holm` < .05 and the mean is at least `LEAST_SHIFT` of the range, either way.
    """
    tested = holm({d.name: effect(differences[:, i], clusters) for i, d in enumerate(dimensions)})
    return {d.name: _shift(d, tested[d.name]) for d in dimensions}


def _shift(dimension: Dimension, found: Effect) -> Check:
    figures = found.to_json()
    if found.mean is None:
        return unknown("no pair has both scores", **figures)
    if found.clusters < 2:
        return unknown("all pairs are of one persona: nothing can be tested", **figures)
    is_large = abs(found.mean) >= LEAST_SHIFT * (dimension.high - dimension.low) - _ROUNDING
    return check("found" if is_large and found.significant else "clear", [], **figures)


# --- self-preference ------------------------------------------------------------------------------


def self_preference(
    gap: Floats, reference: Floats | None, personas: Codes, dimensions: Sequence[Dimension]
) -> Check:
    """Whether the judge likes its own family's replies better than another judge does.

    `gap` (turns, dimensions) is the own family's score less the mean of the other families' on the
    same turn, `reference` the same by a judge of another family. Their difference is the
    self-preference. Without a reference a gap may as well be quality: unknown.
    """
    gaps = shifts(gap, personas, dimensions)
    if reference is None:
        why = "without --reference, liking its own family and its family being better look alike"
        return unknown(why, gaps=_figures(gaps))
    parts = shifts(gap - reference, personas, dimensions)
    for name, part in parts.items():
        if part["result"] == "found" and part["mean"] < 0:
            parts[name] = part | {"result": "clear"}
    said = _said("its own family is favoured more than by the reference:", parts)
    there = _figures(shifts(reference, personas, dimensions))
    return _together(parts, said, gaps=_figures(gaps), reference_gaps=there)


def _figures(parts: Mapping[str, Check]) -> dict[str, Any]:
    """What was measured, less the verdict on it."""
    dropped = ("result", "reason", "sentences")
    return {
        name: {key: value for key, value in part.items() if key not in dropped}
        for name, part in parts.items()
    }


# --- spread ---------------------------------------------------------------------------------------


def spread(scores: Floats, dimensions: Sequence[Dimension]) -> Check:
    """Whether each dimension varies at all over `scores` (items, dimensions)."""
    parts = {d.name: _spread_of(d, scores[:, i]) for i, d in enumerate(dimensions)}
    constant = {n: f"{p['lowest']:g}" for n, p in parts.items() if p["result"] == "found"}
    said = _grouped(constant, "{names}: the judge says {what} to everything")
    return _together(parts, said)


def _spread_of(dimension: Dimension, column: Floats) -> Check:
    there = column[~np.isnan(column)]
    if len(there) < 2:
        return unknown(f"{len(there) or 'no'} items have a score", scored=len(there))
    low, high = float(there.min()), float(there.max())
    figures: dict[str, Any] = {
        "scored": len(there),
        "values": len(np.unique(there)),
        "lowest": low,
        "highest": high,
        "at_top": float(np.mean(there >= dimension.high)),
    }
    return check("found" if low == high else "clear", [], **figures)


# --- putting parts together -----------------------------------------------------------------------


def _together(
    parts: Mapping[str, Check], said: Sequence[str], key: str = "dimensions", **more: Any
) -> Check:
    """Found when any part is, clear when any is and none is found, else unknown."""
    results = {part["result"] for part in parts.values()}
    unsaid = {name: part["reason"] for name, part in parts.items() if part["result"] == "unknown"}
    reasons = _grouped(unsaid, "{names}: {what}")
    shown = {
        name: {k: value for k, value in part.items() if k != "sentences"}
        for name, part in parts.items()
    }
    worst: Result = next((r for r in ("found", "clear") if r in results), "unknown")
    return check(worst, said, "; ".join(reasons) or None, **{key: shown}, **more)


def _said(words: str, parts: Mapping[str, Check]) -> list[str]:
    """One sentence for all parts that are found, with their means; none where there is none."""
    found = [f"{n} {p['mean']:+.2f}" for n, p in parts.items() if p["result"] == "found"]
    return [f"{words} {', '.join(found)}"] if found else []


def _grouped(values: Mapping[str, str], form: str) -> list[str]:
    """What is said of each name, names of which the same is said together."""
    names: dict[str, list[str]] = {}
    for name, value in values.items():
        names.setdefault(value, []).append(name)
    return [form.format(names=", ".join(who), what=value) for value, who in names.items()]
