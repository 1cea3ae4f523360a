"""The pictures of a training: the measures of each chart, what is said of it, and its table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kardiabench.stats import Estimate
from trainer.curve_chart import MOST_LINES, Line, Mark, Point, chart, short
from trainer.curve_data import (
    BY_LENGTH,
    DISTINCT,
    KL,
    LENGTH,
    MASKED,
    NO_SPREAD,
    PART,
    REPETITION,
    REWARD,
    TRUNCATED,
    Course,
    CurveData,
)

if TYPE_CHECKING:
    from markupsafe import Markup

#: Rows of the table under a chart.
_ROWS = 12
_NOTHING = "—"

#: Charts of the log's measures: title, what is to be known, measures and their names.
_CHARTS: tuple[tuple[str, str, Mapping[str, str]], ...] = (
    ("Loss", "As the trainer logs it.", {"loss": "training", "eval_loss": "held-out personas"}),
    (
        "Token accuracy",
        "Share of the reply's tokens that were the most probable.",
        {"mean_token_accuracy": "training", "eval_mean_token_accuracy": "held-out personas"},
    ),
    (
        "What teaches nothing",
        "Shares. A candidate without a required judgement is left out of the step; one that was "
        "cut off has no end to judge; a group of candidates whose rewards are all equal moves no "
        "weight.",
        {
            MASKED: "candidates without a reward",
            TRUNCATED: "candidates that were cut off",
            NO_SPREAD: "groups without spread",
        },
    ),
    (
        "Length and reward",
        "Rank correlation of a candidate's tokens and its reward within its group. Far above 0: "
        "longer candidates get more; far below: shorter ones do.",
        {BY_LENGTH: "correlation"},
    ),
    (
        "Repetition",
        "Shares. Of a candidate's four-word sequences, those that stood in it before, on average; "
        "and of all candidates' two-word sequences, those that are distinct.",
        {REPETITION: "repeated sequences", DISTINCT: "distinct sequences"},
    ),
    ("KL", "Estimated divergence from the model at the beginning.", {KL: "KL"}),
    ("Length", "Tokens of a candidate, on average.", {LENGTH: "tokens"}),
    ("Entropy", "Of the policy's next token, in nats, on average.", {"entropy": "entropy"}),
)


@dataclass(frozen=True)
class Picture:
    """A chart with what is said of it, and its numbers as a table."""

    title: str
    about: str
    #: What it shows in words, for those who can't see it.
    label: str
    svg: Markup
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    #: How many steps the table is a selection of.
    of: int


def pictures(data: CurveData) -> Iterator[Picture]:
    """The charts that there are numbers for."""
    marks = marks_of(data)
    yield from _rewards(data, marks)
    if data.evaluations:
        yield from _scores(data, marks)
        yield from _each_judge(data, marks)
    for title, about, names in _CHARTS:
        lines = [
            line(name, data.courses[key]) for key, name in names.items() if key in data.courses
        ]
        yield from _pictured(title, about, lines, marks)


def marks_of(data: CurveData) -> list[Mark]:
    """The alarms, and the checkpoint that is best so far."""
    marks = [Mark(step, "alarm") for step, _ in data.alarms]
    if data.choice is not None and data.choice.step is not None:
        marks.append(Mark(data.choice.step, "chosen"))
    return marks


def _rewards(data: CurveData, marks: Sequence[Mark]) -> Iterator[Picture]:
    parts = sorted(name for name in data.courses if name.startswith(PART))
    lines = [line(name.removeprefix(PART), data.courses[name]) for name in parts]
    if REWARD in data.courses:
        lines = [line("reward", data.courses[REWARD]), *lines]
    told = "the ledger" if data.source == "ledger" else "TRL's log"
    about = f"Mean of a step's candidates, from {told}: the reward and each judge's part of it."
    for at in range(0, len(lines), MOST_LINES):
        title = "Reward and its parts" if at == 0 else "Further parts of the reward"
        yield from _pictured(title, about, lines[at : at + MOST_LINES], marks)


def score_picture(data: CurveData) -> Picture | None:
    """Rewarded and held-out score at the evaluations; None where there is none."""
    return next(_scores(data, marks_of(data)), None) if data.evaluations else None


def _scores(data: CurveData, marks: Sequence[Mark]) -> Iterator[Picture]:
    done = data.evaluations
    independent = all(one.independent for one in done)
    watched = "held-out judges" if independent else "what stands in for a held-out judge"
    yield from _pictured(
        "Rewarded and held-out score",
        "Replies to held-out personas at each evaluation, with 95% intervals over personas. When "
        "the rewarded score rises and the other one doesn't, the policy may be learning to please "
        f"the judges. Watched: {done[-1].held_out_source}.",
        [
            estimates("rewarded judges", [(one.step, one.rewarded) for one in done]),
            estimates(watched, [(one.step, one.watched) for one in done]),
        ],
        marks,
    )


def _each_judge(data: CurveData, marks: Sequence[Mark]) -> Iterator[Picture]:
    done = data.evaluations
    judges = sorted({judge for one in done for judge in one.components})
    lines = [
        estimates(judge, [(one.step, one.components.get(judge)) for one in done])
        for judge in judges
    ]
    for at in range(0, len(lines), MOST_LINES):
        yield from _pictured(
            "Each judge at the evaluations" if at == 0 else "Further judges at the evaluations",
            "Replies to held-out personas, with 95% intervals over personas; rewarded or not.",
            lines[at : at + MOST_LINES],
            marks,
        )


def _pictured(
    title: str, about: str, lines: Sequence[Line], marks: Sequence[Mark]
) -> Iterator[Picture]:
    """The chart of `lines`, if any of them has a value."""
    lines = [one for one in lines if any(point.value is not None for point in one.points)]
    if not lines:
        return
    label = f"{title}. " + " ".join(map(in_words, lines))
    steps = sorted({int(point.step) for one in lines for point in one.points})
    yield Picture(
        title=title,
        about=about,
        label=label,
        svg=chart(lines, marks, label=label),
        head=["Step", *(one.name for one in lines)],
        rows=[_row(step, lines) for step in selected(steps)],
        of=len(steps),
    )


def line(name: str, course: Course) -> Line:
    """A measure of the log as a line."""
    return Line(name, [Point(step, value) for step, value in course])


def estimates(name: str, found: Sequence[tuple[int, Estimate | None]]) -> Line:
    """Estimates at evaluations as a line with intervals."""
    return Line(
        name,
        [
            Point(step, None) if one is None else Point(step, one.mean, one.low, one.high)
            for step, one in found
        ],
    )


def in_words(one: Line) -> str:
    """What a line shows, for those who can't see it."""
    known = [(point.step, point.value) for point in one.points if point.value is not None]
    (first, begun), (last, ended) = known[0], known[-1]
    low, high = min(known, key=lambda at: at[1]), max(known, key=lambda at: at[1])
    return (
        f"{short(one.name)}: {begun:.4g} at step {first:g}, {ended:.4g} at step {last:g}, lowest "
        f"{low[1]:.4g} at step {low[0]:g}, highest {high[1]:.4g} at step {high[0]:g}."
    )


def selected(steps: Sequence[int], most: int = _ROWS) -> list[int]:
    """At most `most` of `steps`, evenly apart, the first and the last among them."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(at * (len(steps) - 1) / (most - 1))] for at in range(most)]


def _row(step: int, lines: Sequence[Line]) -> list[str]:
    found = [next((p for p in one.points if p.step == step), None) for one in lines]
    return [str(step), *map(_cell, found)]


def _cell(point: Point | None) -> str:
    if point is None or point.value is None:
        return _NOTHING
    span = (
        ""
        if point.low is None or point.high is None
        else (f" ({point.low:.3f} to {point.high:.3f})")
    )
    return f"{point.value:.4g}{span}" if not span else f"{point.value:.3f}{span}"


def evaluation_table(data: CurveData) -> Iterator[Mapping[str, str]]:
    """A row an evaluation: scores with intervals, and what they rest on."""
    chosen = None if data.choice is None else data.choice.step
    alarms = {step for step, _ in data.alarms}
    for one in data.evaluations:
        marks = [word for word, is_it in (
            ("chosen", one.step == chosen), ("alarm", one.step in alarms)
        ) if is_it]  # fmt: skip
        yield {
            "step": str(one.step),
            "marks": ", ".join(marks),
            "rewarded": with_span(one.rewarded),
            "watched": with_span(one.watched),
            "format": with_span(one.format_rate),
            "emotion": with_span(one.emotion_accuracy),
            "safety": with_span(one.safety),
            "coverage": f"{one.rewarded.coverage:.1%}",
            "rows": str(one.rows),
            "tokens": f"{one.tokens:.0f}",
            "truncated": f"{one.truncated:.1%}",
        }


def with_span(found: Estimate | None) -> str:
    """A mean with its interval; a dash for what is not known."""
    if found is None or found.mean is None:
        return _NOTHING
    return _cell(Point(0, found.mean, found.low, found.high))
