"""From the model's answers on one item to one verdict's scores, status and notes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev

from judges.asking import Attempt, Question
from kardiabench.records import VerdictStatus

Scores = Mapping[str, float | None]
#: What a judgement without one readable answer is called: what may pass by itself comes first.
_FAILURES: tuple[VerdictStatus, ...] = ("error", "refused", "unparsed")


def parts_of(
    questions: Sequence[Question], attempts: Sequence[Attempt]
) -> dict[str, dict[str, float | None]]:
    """The scores of each part (a sample, an order); None where its answer could not be read."""
    parts: dict[str, dict[str, float | None]] = {}
    for question, attempt in zip(questions, attempts, strict=True):
        scores = attempt.answer.scores if attempt.answer else dict.fromkeys(question.form.names)
        parts.setdefault(question.part, {}).update(scores)
    return parts


def mean_scores(parts: Mapping[str, Scores], names: Sequence[str]) -> dict[str, float | None]:
    """The mean of each name over the parts that have a score for it; None where none has."""
    columns = {name: [part.get(name) for part in parts.values()] for name in names}
    found = {name: [s for s in scores if s is not None] for name, scores in columns.items()}
    return {name: fmean(scores) if scores else None for name, scores in found.items()}


def evidence_of(attempts: Sequence[Attempt]) -> dict[str, str]:
    """The first evidence for each thing that was asked."""
    evidence: dict[str, str] = {}
    for attempt in attempts:
        for name, text in attempt.answer.evidence.items() if attempt.answer else ():
            evidence.setdefault(name, text)
    return evidence


def status_of(attempts: Sequence[Attempt]) -> VerdictStatus:
    """`ok` when every answer was read, `partial` when some were, else how they failed."""
    read = sum(attempt.answer is not None for attempt in attempts)
    if read == len(attempts):
        return "ok"
    return "partial" if read else failure(attempts).status


def failure(attempts: Sequence[Attempt]) -> Attempt:
    """The attempt that stands for an item on which none could be read."""
    failed = [attempt for attempt in attempts if attempt.answer is None]
    return min(failed, key=lambda attempt: _FAILURES.index(attempt.status))


def asking_note(
    questions: Sequence[Question], attempts: Sequence[Attempt], parts: Mapping[str, Scores]
) -> str:
    """How the asking went: `samples 2/3, 1 unparsed, 1 repaired, sd empathy 0.47`; or nothing.

    The standard deviation is that of the population of parts; what has no spread is left out.
    """
    read = sum(attempt.answer is not None for attempt in attempts)
    whole = sum(all(s is not None for s in part.values()) for part in parts.values())
    failed = Counter(attempt.status for attempt in attempts if attempt.answer is None)
    repaired = sum(attempt.repaired for attempt in attempts if attempt.answer is not None)
    asked = sum(question.weighted for question in questions)
    weighted = sum(attempt.weighted for attempt in attempts)
    notes = [f"samples {whole}/{len(parts)}"] if len(parts) > 1 else []
    notes += [f"{count} {status}" for status, count in sorted(failed.items())]
    notes += [f"{repaired} repaired"] if repaired else []
    notes += [f"{read - weighted} without chances"] if asked and weighted < read else []
    return ", ".join([*notes, *_spread(parts)])


def _spread(parts: Mapping[str, Scores]) -> list[str]:
    names = dict.fromkeys(name for part in parts.values() for name in part)
    notes = []
    for name in names:
        scores = [s for part in parts.values() if (s := part.get(name)) is not None]
        if len(scores) > 1 and (deviation := pstdev(scores)):
            notes.append(f"sd {name} {deviation:.2f}")
    return notes
