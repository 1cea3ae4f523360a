"""Which dialogues of a dataset are used: filters, and a sample that is fair and repeatable."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from kardiabench.emotions import EMOTIONS, match_emotion
from kardiabench.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Selection:
    """What to use of a dataset; None and () mean everything.

    `limit` counts dialogues, `limit_personas` personas, `emotions` are dialogue labels in any
    spelling that `match_emotion` takes. The emotions are applied first, then the personas, then
    the limit. Raises `ConfigError` for a limit below 1 and for an unknown label.
    """

    limit: int | None = None
    limit_personas: int | None = None
    emotions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_limit("--limit", self.limit)
        _check_limit("--limit-personas", self.limit_personas)
        _ = self.labels

    @property
    def labels(self) -> frozenset[str]:
        """The labels that `emotions` names."""
        return frozenset(map(_label, self.emotions))


class Candidate(NamedTuple):
    """A dialogue that may be chosen; `id` and `persona_id` are content hashes."""

    id: str
    persona_id: str
    emotion: str


def choose(candidates: Iterable[Candidate], selection: Selection) -> tuple[str, ...]:
    """The ids of the chosen dialogues, in the order in which they were picked.

    The choice depends on the candidates' content alone, not on their order, and the sample of n is
    the beginning of every larger one. Personas take turns, so their shares differ by at most one
    while they last; each takes the emotion that was picked least so far.
    """
    kept = _of_personas(_of_emotions(candidates, selection.labels), selection.limit_personas)
    return tuple(candidate.id for candidate in islice(_balanced(kept), selection.limit))


def _of_emotions(candidates: Iterable[Candidate], labels: frozenset[str]) -> list[Candidate]:
    return [candidate for candidate in candidates if not labels or candidate.emotion in labels]


def _of_personas(candidates: Sequence[Candidate], limit: int | None) -> list[Candidate]:
    # Ids are hashes: the first n in their order are as good as any n at random.
    chosen = set(sorted({candidate.persona_id for candidate in candidates})[:limit])
    return [candidate for candidate in candidates if candidate.persona_id in chosen]


def _balanced(candidates: Iterable[Candidate]) -> Iterator[Candidate]:
    """All candidates: one of each persona, then a second of each, and so on."""
    shelves: dict[str, _Shelf] = defaultdict(_Shelf)
    for candidate in sorted(candidates, reverse=True):
        shelves[candidate.persona_id].add(candidate)
    picked: Counter[str] = Counter()
    while shelves:
        for persona in sorted(shelves):
            candidate = shelves[persona].take(picked)
            picked[candidate.emotion] += 1
            yield candidate
            if not shelves[persona].stacks:
                del shelves[persona]


class _Shelf:
    """One persona's dialogues that were not picked yet: a stack for each emotion."""

    def __init__(self) -> None:
        self.stacks: dict[str, list[Candidate]] = defaultdict(list)
        self.taken: Counter[str] = Counter()

    def add(self, candidate: Candidate) -> None:
        self.stacks[candidate.emotion].append(candidate)

    def take(self, picked: Counter[str]) -> Candidate:
        """Remove a dialogue of the emotion that was picked least: by all, then by this persona."""
        emotion = min(
            self.stacks, key=lambda name: (picked[name], self.taken[name], self.stacks[name][-1].id)
        )
        self.taken[emotion] += 1
        candidate = self.stacks[emotion].pop()
        if not self.stacks[emotion]:
            del self.stacks[emotion]
        return candidate


def _check_limit(option: str, limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise ConfigError(f"{option} is {limit}: give a whole number of 1 or more, or leave it out")


def _label(text: str) -> str:
    label = match_emotion(text)
    if label is None:
        raise ConfigError(
            f"--emotions: {text!r} is no emotion label; {did_you_mean(text, EMOTIONS)}"
        )
    return label
