"""What `judges calibrate` reports and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kardiabench.calibration import make_calibration
from kardiabench.curves import fit_curve
from kardiabench.errors import KardiaBenchError
from kardiabench.human_ratings import Ratings
from kardiabench.judge_agreement import Rated, report
from kardiabench.rated_judges import JudgeScores
from kardiabench.report import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_MISSING = "—"
_ROWS: Sequence[tuple[str, str]] = (
    ("kappa", "weighted kappa with people's median"),
    ("expert_ceiling", "  of each rater with the others' median"),
    ("kappa_left_out", "  of the judge with the same medians"),
    ("spearman", "Spearman with people's mean"),
    ("icc_consistency", "ICC, consistency"),
    ("icc_agreement", "ICC, agreement"),
    ("alpha_people", "ordinal alpha among people"),
    ("alpha_with_judge", "ordinal alpha with the judge"),
    ("offset", "judge less people"),
    ("ceiling_judge", "share at the top, judge"),
    ("ceiling_people", "share at the top, people"),
    ("excess_length_slope", "excess rise for each doubling of length"),
)


def agreement(
    ratings: Ratings,
    scores: JudgeScores,
    scale: tuple[float, float],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """The judge against people, as JSON."""
    rated = Rated(ratings.dimensions, scores.scores, ratings.scores, scores.words, scale[1])
    return {
        "judge": {"name": scores.name, "fingerprint": scores.mark},
        "ratings": {"sha256": ratings.sha256, "raters": len(ratings.raters)},
        "scale": list(scale),
        **report(rated, resamples, seed),
    }


def calibration(
    ratings: Ratings, scores: JudgeScores, scale: tuple[float, float], seed: int
) -> dict[str, Any]:
    """The calibration that the ratings allow: a curve a dimension, or why there is none."""
    curves: dict[str, Any] = {}
    refused: dict[str, str] = {}
    means, clusters = ratings.means, _clusters(scores.personas)
    for at, name in enumerate(ratings.dimensions):
        try:
            curves[name] = fit_curve(
                scores.scores[:, at], means[:, at], clusters, *scale, seed=seed
            )
        except KardiaBenchError as error:
            refused[name] = f"{name}: {error}"
    about = {
        "sha256": ratings.sha256,
        "raters": len(ratings.raters),
        "items": len(ratings.items),
    }
    return make_calibration(scores.name, scores.mark, curves, refused, about)


def brief(calibration: Mapping[str, Any]) -> dict[str, Any]:
    """What the report and the card say of the calibration: no curves."""
    kept = ("items", "rectifier", "cross_fitted")
    return {
        "dimensions": {
            name: {key: curve[key] for key in kept}
            for name, curve in calibration["dimensions"].items()
        },
        "refused": dict(calibration["refused"]),
    }


def _clusters(personas: Sequence[str]) -> NDArray[np.str_] | None:
    """Personas as clusters where every item has one."""
    return np.array(personas, dtype=str) if all(personas) else None


def show_agreement(section: Mapping[str, Any], console: Console) -> None:
    """Print a column a dimension, and what was and was not calibrated."""
    console.print(_table(section))
    for line in _notes(section):
        console.print(plain(line), markup=False, highlight=False)


def _table(section: Mapping[str, Any]) -> Table:
    from rich.table import Table
    from rich.text import Text

    title = f"{section['judge']['name']} against {section['raters']} raters"
    table = Table(title=Text(plain(title)), title_justify="left")
    table.add_column("")
    dimensions: Mapping[str, Any] = section["dimensions"]
    for name in dimensions:
        table.add_column(Text(plain(name)), justify="right", overflow="fold")
    judged = [f"{d['judged']} of {d['rated']}\n({d['coverage']:.0%})" for d in dimensions.values()]
    table.add_row("rated items judged", *judged)
    for key, words in _ROWS:
        cells = [_interval(one["figures"][key], wide=True) for one in dimensions.values()]
        table.add_row(words, *cells)
    return table


def _notes(section: Mapping[str, Any]) -> list[str]:
    notes = ["In brackets: 95% bootstrap intervals over items."]
    for key, figure in section["halo"].items():
        notes += [f"Mean correlation between dimensions, {key}: {_interval(figure)}."]
    reasons = {
        (figure["reason"], name)
        for name, one in section["dimensions"].items()
        for figure in one["figures"].values()
        if figure["reason"]
    }
    notes += [f"{name}: {reason}." for reason, name in sorted(reasons)]
    for name, curve in section["calibration"]["dimensions"].items():
        fit = curve["cross_fitted"]
        errors = np.sqrt([fit["mse_raw"], fit["mse"]])
        notes += [
            f"Calibrated {name}: error {errors[0]:.2f} raw, {errors[1]:.2f} calibrated "
            "(root mean square, cross-fitted)."
        ]
    notes += [f"Not calibrated: {why}." for why in section["calibration"]["refused"].values()]
    return notes


def _interval(figure: Mapping[str, Any], *, wide: bool = False) -> str:
    if figure["value"] is None:
        return _MISSING
    if figure["low"] is None:
        return f"{figure['value']:.2f}"
    between = "\n" if wide else " "
    return f"{figure['value']:.2f}{between}[{figure['low']:.2f}, {figure['high']:.2f}]"
