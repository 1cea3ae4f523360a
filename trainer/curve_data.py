"""What the curves show, read from a training's folder: numbers and names, never anybody's text.

A file that is missing or damaged is said to be so, and what the others hold is shown.
"""

from __future__ import annotations

import heapq
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, TypeVar

from kardiabench.errors import KardiaBenchError
from kardiabench.records import Dimension
from trainer.alarm import RewardAlarm
from trainer.best import Choice, choose
from trainer.evaluation import Evaluation
from trainer.evaluations import EVALUATIONS, read
from trainer.ledger import LEDGER, Header, Row, iterate_rows, ledgers_of, read_header
from trainer.log import LOG, read_log
from trainer.manifest import MANIFEST, read_manifest
from trainer.rewards import part_of
from trainer.watch import watch

Source = Literal["log", "ledger"]
#: One measure: steps, rising, and values; None where it was not measured.
Course = Sequence[tuple[int, float | None]]

PART, WATCH = "parts/", "watch/"
REWARD, MASKED, LENGTH, KL = "reward", "masked_share", "completions/mean_length", "kl"
#: Ours, by `trainer.watch`. TRL's `frac_reward_zero_std` is another thing wherever rewards are
#: scaled over the batch: there it tells of the batch, not of groups.
NO_SPREAD, TRUNCATED = f"{WATCH}zero_spread_share", f"{WATCH}truncated_share"
BY_LENGTH = f"{WATCH}length_correlation"
REPETITION, DISTINCT = f"{WATCH}repetition", f"{WATCH}distinct_2"
#: What of the log is drawn, beside the parts of judges.
MEASURES = (
    REWARD, MASKED, NO_SPREAD, TRUNCATED, BY_LENGTH, REPETITION, DISTINCT, LENGTH, KL, "loss",
    "eval_loss", "mean_token_accuracy", "eval_mean_token_accuracy", "entropy",
)  # fmt: skip
#: The log's name of what `trainer.watch` calls otherwise.
_WATCHED = {REWARD: "reward", MASKED: "masked_share", LENGTH: "tokens"} | {
    name: name.removeprefix(WATCH)
    for name in (NO_SPREAD, TRUNCATED, BY_LENGTH, REPETITION, DISTINCT)
}

Dimensions = Mapping[str, Sequence[Dimension]]

T = TypeVar("T")


@dataclass(frozen=True)
class CurveData:
    """All that is known of a training. `missing` are sentences about what is not.

    `name` is that of its folder, without where it lies.

    `source` is where the rewards are from; `choice` is None before any evaluation.
    """

    name: str
    manifest: Mapping[str, Any]
    courses: Mapping[str, Course]
    source: Source
    evaluations: Sequence[Evaluation]
    alarms: Sequence[tuple[int, str]]
    choice: Choice | None
    missing: Sequence[str]

    @property
    def last_step(self) -> int:
        """The last step that anything is known of."""
        ends = [course[-1][0] for course in self.courses.values() if course]
        return max([*ends, *(one.step for one in self.evaluations)], default=0)


def read_folder(folder: Path, source: Source = "log") -> CurveData:
    """Read the curves of the training in `folder`; raises nothing for what it lacks.

    `source` says where rewards are taken from: TRL's log, which is short, or the ledger itself,
    which is read through in time that grows with the candidates. Where the log has none, it is the
    ledger.
    """
    folder = folder.absolute()
    missing: list[str] = []
    manifest = _told(lambda: read_manifest(folder), missing) or {}
    recipe = mapping(manifest.get("recipe"))
    rewarded = recipe.get("stage") != "sft"
    courses, taken = _courses(folder, source, missing, rewarded=rewarded)
    done = _told(lambda: read(folder / EVALUATIONS), missing) or []
    if not done and rewarded:
        missing.append("there is no evaluation yet")
    return CurveData(
        name=Path(os.path.normpath(folder)).name,
        manifest=manifest,
        courses=courses,
        source=taken,
        evaluations=done,
        alarms=_told(lambda: alarms_of(done, recipe), missing) or [],
        choice=_told(lambda: choice_of(done, recipe), missing) if done else None,
        missing=[_without_place(sentence, folder) for sentence in missing],
    )


def is_training(folder: Path) -> bool:
    """Whether `folder` has any of the files that a training writes."""
    return any((folder / name).is_file() for name in (MANIFEST, LOG, EVALUATIONS)) or bool(
        ledgers_of(folder)
    )


def _without_place(sentence: str, folder: Path) -> str:
    """What a page says to others holds no path of this machine."""
    return sentence.replace(f"{folder}/", "").replace(str(folder), "the folder")


def mapping(value: object) -> Mapping[str, Any]:
    """`value` if it is a JSON object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def alarms_of(
    evaluations: Sequence[Evaluation], recipe: Mapping[str, Any]
) -> list[tuple[int, str]]:
    """The alarms that these evaluations set off under the recipe: steps and sentences."""
    from trainer.config import Alarm

    if "alarm" not in recipe:
        return []
    alarm = RewardAlarm(Alarm(**recipe["alarm"]))
    said = ((one.step, alarm.add(one)) for one in evaluations)
    return [(step, sentence) for step, sentence in said if sentence]


def choice_of(evaluations: Sequence[Evaluation], recipe: Mapping[str, Any]) -> Choice:
    """The checkpoint that is best so far under the recipe's floors."""
    from trainer.config import Best

    return choose(evaluations, Best(**recipe.get("best", {})))


def _told(read: Callable[[], T], missing: list[str]) -> T | None:
    """What `read` gives; where it can't, the sentence goes to `missing`."""
    try:
        return read()
    except KardiaBenchError as error:
        missing.append(str(error))
    except (OSError, ValueError, TypeError, KeyError) as error:  # a file that others changed
        missing.append(f"a file cannot be read ({type(error).__name__})")
    return None


def _courses(
    folder: Path, source: Source, missing: list[str], *, rewarded: bool
) -> tuple[dict[str, Course], Source]:
    logged = _told(lambda: log_courses(folder / LOG), missing) or {}
    if not logged:
        missing.append(f"there is no {LOG} with a step in it")
    if not ledgers_of(folder):
        if rewarded:
            missing.append(f"there is no {LEDGER}")
        return logged, "log"
    if source == "log" and REWARD in logged:
        return logged, "log"
    exact = _told(lambda: ledger_courses(folder), missing) or {}
    return {**logged, **exact}, "ledger" if REWARD in exact else "log"


def log_courses(path: Path) -> dict[str, Course]:
    """The measures of TRL's log, by TRL's names."""
    found: dict[str, dict[int, float | None]] = {}
    for entry in read_log(path):
        for name, value in entry.items():
            if name in MEASURES or name.startswith(PART):
                found.setdefault(name, {})[entry["step"]] = _number(value)
    return {name: sorted(values.items()) for name, values in found.items()}


def _number(value: Any) -> float | None:
    """A number of the log; None for what is none. Whole numbers may be beyond floats."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _measures(pairs: Sequence[tuple[Row, Dimensions]]) -> dict[str, float | None]:
    """The numbers of one step's candidates by the log's names; None for what is undefined."""
    numbers = watch([row for row, _ in pairs], {})
    parts: dict[str, list[float | None]] = {}
    for row, dimensions in pairs:
        for verdict in row.verdicts:
            if verdict.judge in dimensions:
                part = part_of(verdict.scores, dimensions[verdict.judge])
                parts.setdefault(f"{PART}{verdict.judge}", []).append(part)
    return {
        **{name: numbers.get(watched) for name, watched in _WATCHED.items()},
        **{name: _known_mean(values) for name, values in parts.items()},
    }


def _known_mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def ledger_courses(folder: Path) -> dict[str, Course]:
    """The means of the ledger's training candidates by the step that they were used for.

    In one pass over the ledgers of all processes, side by side, which holds one step at a time.
    Raises `RunError` for a ledger that is damaged.
    """
    found: dict[str, list[tuple[int, float | None]]] = {}
    for step, pairs in groupby(_training_rows(folder), key=lambda pair: pair[0].step):
        for name, value in _measures(list(pairs)).items():
            # A row's step counts what was finished before; the log's, what the row was used for.
            found.setdefault(name, []).append((step + 1, value))
    return dict(found)


def _training_rows(folder: Path) -> Iterable[tuple[Row, Dimensions]]:
    ledgers = [_rows_of(path) for path in ledgers_of(folder)]
    return heapq.merge(*ledgers, key=lambda pair: pair[0].step)


def _rows_of(path: Path) -> Iterator[tuple[Row, Dimensions]]:
    dimensions = dimensions_of(read_header(path))
    return ((row, dimensions) for row in iterate_rows(path) if row.phase == "train")


def dimensions_of(header: Header) -> dict[str, tuple[Dimension, ...]]:
    """The dimensions of the rewarded judges."""
    return {
        judge: tuple(
            Dimension(one["name"], one["low"], one["high"], one.get("description", ""))
            for one in described["dimensions"]
        )
        for judge, described in header.scorer["judges"].items()
    }
