"""The calibration file: what `judges calibrate` writes and `--calibration` applies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NotRequired,  # pydantic wants this one before Python 3.12
)

from typing_extensions import TypedDict

import kardiabench
from kardiabench.curves import apply_curve, calibrated_estimate
from kardiabench.errors import ConfigError
from kardiabench.files import write_json
from kardiabench.manifests import Manifest
from kardiabench.results import Results
from kardiabench.stats import Floats
from kardiabench.store import CALIBRATION

if TYPE_CHECKING:
    from pydantic import TypeAdapter

CALIBRATION_VERSION = 1


class _Rectifier(TypedDict):
    mean: float
    standard_error: float
    df: int
    clusters: int
    by_persona: NotRequired[dict[str, float]]


class _Curve(TypedDict):
    x: list[float]
    y: list[float]
    low: float
    high: float
    items: int
    rectifier: _Rectifier


class _Judge(TypedDict):
    name: str
    fingerprint: str | None


class _File(TypedDict):
    calibration_version: Literal[1]
    judge: _Judge
    dimensions: dict[str, _Curve]


def make_calibration(
    judge: str,
    mark: str | None,
    curves: Mapping[str, Any],
    refused: Mapping[str, str],
    ratings: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of a calibration file. `mark` is the judge's fingerprint, None if unknown."""
    return {
        "calibration_version": CALIBRATION_VERSION,
        "kardiabench": kardiabench.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "judge": {"name": judge, "fingerprint": mark},
        "ratings": dict(ratings),
        "dimensions": dict(curves),
        "refused": dict(refused),
    }


def read_calibration(path: Path) -> dict[str, Any]:
    """The calibration at `path`; raise `ConfigError` where there is none that can be used."""
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"), parse_constant=_no_number)
        _adapter().validate_python(content)
        for name, curve in content["dimensions"].items():
            _check_curve(name, curve)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: there is no such calibration; make one with: kardiabench judges calibrate "
            "--human FILE --out FILE"
        ) from error
    except (OSError, ValueError, RecursionError) as error:  # pydantic's are ValueErrors
        why = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{path} is no calibration that this version can use ({why}); make it again with: "
            "kardiabench judges calibrate"
        ) from error
    return content


def check_calibration(calibration: Mapping[str, Any], manifest: Manifest) -> str:
    """The judge of the manifest that the calibration is for; raise `ConfigError` for none."""
    name, mark = calibration["judge"]["name"], calibration["judge"]["fingerprint"]
    judges: Mapping[str, Any] = manifest["protocol"]["scorer"]["judges"]
    if mark is None:
        raise ConfigError(
            f"the calibration was made from stored scores of {name!r} and does not say which judge "
            "that was; make it again with --fingerprint, --run or --judge"
        )
    found = judge_calibrated(calibration, manifest)
    if found is None:
        marks = ", ".join(f"{judge} {judges[judge]['fingerprint']}" for judge in sorted(judges))
        raise ConfigError(
            f"the calibration is for the judge {name} with the fingerprint {mark}, and this run "
            f"has {marks}; calibrate the judge that is used"
        )
    ranges = {d["name"]: (d["low"], d["high"]) for d in judges[found]["dimensions"]}
    for dimension, curve in calibration["dimensions"].items():
        if ranges.get(dimension) != (curve["low"], curve["high"]):
            raise ConfigError(
                f"the calibration has a curve for {dimension[:60]!r} from {curve['low']:g} to "
                f"{curve['high']:g}, and judge {found} has no such dimension; make it again"
            )
    return found


def keep_calibration(run: Path, calibration: Mapping[str, Any]) -> None:
    """Store a copy in the run directory, in the place of an older one."""
    write_json(run / CALIBRATION, calibration)


def kept_calibration(run: Path) -> dict[str, Any] | None:
    """The run's own calibration, None where it has none."""
    return read_calibration(run / CALIBRATION) if (run / CALIBRATION).exists() else None


def calibrated_columns(
    results: Results, calibration: Mapping[str, Any] | None, manifest: Manifest
) -> dict[str, dict[str, Floats]]:
    """Calibrated scores by judge and dimension, (turns,) each, NaN where there is no judgement.

    Empty where the calibration is for none of the manifest's judges, as they are now.
    """
    judge = None if calibration is None else judge_calibrated(calibration, manifest)
    if calibration is None or judge is None:
        return {}
    curves = calibration["dimensions"]
    return {
        judge: {
            dimension.name: apply_curve(curves[dimension.name], results.column(judge, at))
            for at, dimension in enumerate(results.dimensions[judge])
            if dimension.name in curves
        }
    }


def calibrated_means(
    results: Results, calibration: Mapping[str, Any] | None, manifest: Manifest, planned: int
) -> dict[str, dict[str, Any]]:
    """The prediction-powered mean of each calibrated dimension by judge, as the summary has it."""
    columns = calibrated_columns(results, calibration, manifest)
    means: dict[str, dict[str, Any]] = {}
    for judge, scores in columns.items():
        curves = (calibration or {})["dimensions"]
        means[judge] = {
            name: _counted(
                calibrated_estimate(
                    column,
                    results.personas,
                    curves[name]["rectifier"],
                    names=results.persona_names,
                ),
                planned,
            )
            for name, column in scores.items()
        }
    return means


def _counted(found: dict[str, Any], planned: int) -> dict[str, Any]:
    return found | {"total": planned, "coverage": found["scored"] / planned if planned else 0.0}


def judge_calibrated(calibration: Mapping[str, Any], manifest: Manifest) -> str | None:
    """The judge of the manifest that the calibration is for, None where there is none."""
    mark: str | None = calibration["judge"]["fingerprint"]
    judges: Mapping[str, Any] = manifest["protocol"]["scorer"]["judges"]
    found = (name for name, one in judges.items() if one["fingerprint"] == mark)
    return next(found, None) if mark is not None else None


def _no_number(name: str) -> float:
    raise ValueError(f"it holds {name}, which is no number")


def _check_curve(name: str, curve: Mapping[str, Any]) -> None:
    x, y = curve["x"], curve["y"]
    rectifier = dict(curve["rectifier"])
    by_persona = rectifier.pop("by_persona", {})
    rest = (curve["low"], curve["high"], *rectifier.values(), *by_persona.values())
    if not all(type(number) in (int, float) and isfinite(number) for number in (*x, *y, *rest)):
        raise ValueError(f"the curve of {name[:60]} holds what is no number")
    rises = all(a < b for a, b in pairwise(x))
    never_falls = all(a <= b for a, b in pairwise(y))
    whole = bool(x) and len(x) == len(y) and rises and never_falls
    if not whole or not curve["low"] <= y[0] <= y[-1] <= curve["high"]:
        raise ValueError(f"the curve of {name[:60]} is none")
    if rectifier["df"] < 1 or rectifier["standard_error"] < 0:
        raise ValueError(f"the rectifier of {name[:60]} is none")


@cache
def _adapter() -> TypeAdapter[_File]:
    from pydantic import TypeAdapter

    return TypeAdapter(_File)
