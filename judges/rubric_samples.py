"""From the model's answers on one item to one set of scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, pstdev

from judges.rubric_schema import AnswerFormat, Ratings
from judges.verdicts import clip
from kardiabench.records import Completion, Usage, VerdictStatus

#: What a judgement without one readable answer is called: what may pass by itself comes first.
_FAILURES: tuple[VerdictStatus, ...] = ("error", "refused", "unparsed")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One answer as it was read. `note` says what was wrong when there are no ratings."""

    status: VerdictStatus
    ratings: Ratings | None = None
    problem: str = ""
    note: str = ""
    usage: Usage = field(default_factory=Usage)
    repaired: bool = False

    def repaired_by(self, second: Attempt) -> Attempt:
        """The second answer in this one's place, with the usage of both."""
        return replace(second, usage=Usage.total((self.usage, second.usage)), repaired=True)


def read_answer(completion: Completion, answer_format: AnswerFormat) -> Attempt:
    """Read one completion; never raises."""
    usage = completion.usage
    if completion.status in ("error", "refused"):
        note = clip(completion.detail or completion.text or "no reason was given", 300)
        return Attempt(status=completion.status, note=note, usage=usage)
    reading = answer_format.parse(completion.text)
    if isinstance(reading, Ratings):
        return Attempt("ok", reading, usage=usage)
    cut = completion.status == "truncated"
    problem = reading.problem + (" (it was cut off: raise max_tokens)" if cut else "")
    note = f"{problem}: {clip(completion.text.strip(), 300)}"
    return Attempt("unparsed", problem=problem, note=note, usage=usage)


def mean_scores(parsed: Sequence[Ratings]) -> dict[str, float]:
    """The mean level of every dimension over the answers that could be read."""
    return {name: fmean(one.scores[name] for one in parsed) for name in parsed[0].scores}


def sampling_note(attempts: Sequence[Attempt]) -> str:
    """How the sampling went: `samples 2/3, 1 unparsed, 1 repaired, sd empathy 0.47`; or nothing.

    The standard deviation is that of the population of samples; dimensions without spread are
    left out.
    """
    parsed = [attempt.ratings for attempt in attempts if attempt.ratings is not None]
    parts = [f"samples {len(parsed)}/{len(attempts)}"] if len(attempts) > 1 else []
    failed = Counter(attempt.status for attempt in attempts if attempt.ratings is None)
    parts += [f"{count} {status}" for status, count in sorted(failed.items())]
    repaired = sum(attempt.repaired for attempt in attempts if attempt.ratings is not None)
    parts += [f"{repaired} repaired"] if repaired else []
    several = parsed[0].scores if len(parsed) > 1 else ()
    spread = {name: pstdev(one.scores[name] for one in parsed) for name in several}
    parts += [f"sd {name} {deviation:.2f}" for name, deviation in spread.items() if deviation]
    return ", ".join(parts)


def failure(attempts: Sequence[Attempt]) -> Attempt:
    """The attempt that stands for an item on which none could be read."""
    return min(attempts, key=lambda attempt: _FAILURES.index(attempt.status))
