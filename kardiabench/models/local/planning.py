"""Which prompts are read together: those that share a beginning form a group around a trunk.

A prompt's trunk is the longest prompt of its group. Whether a chat template makes one turn's
prompt a beginning of the next is seen in the token ids themselves: where it does not, a prompt
shares little or nothing and becomes a group of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kardiabench.models.local.jobs import Job

#: A prompt joins a group when it shares at least so many tokens, and so much of itself.
_LEAST_SHARED, _LEAST_SHARE = 32, 0.5
#: And so much of what it shares with the prompt that is closest to it.
_CLOSE = 0.8
#: Rows of a batch are a rectangle, groups by rows: at most so many for each real row.
_MOST_PADDING = 1.5
#: Tokens that a reply is thought to need when memory is planned; more is found as it comes.
_EXPECTED = 512


@dataclass(frozen=True)
class Row:
    """A job in a group: the first `shared` tokens of its prompt are those of the trunk.

    At least the last token of a prompt is its own: what follows it is what is asked for.
    """

    place: int
    job: Job
    shared: int
    #: Tokens of the prompt that were read for another one: none of the one the trunk was read for.
    cached: int = 0

    @property
    def own(self) -> tuple[int, ...]:
        """The tokens that are not read off the trunk."""
        return self.job.ids[self.shared :]


@dataclass(frozen=True)
class Group:
    """Prompts with one beginning. `trunk` has every token that two of them share, no more."""

    trunk: tuple[int, ...]
    rows: tuple[Row, ...]


def plan(jobs: Sequence[Job]) -> list[Group]:
    """The groups of `jobs`, in the order of their token ids, so that alike prompts are close."""
    waiting = [sorted(range(len(jobs)), key=lambda place: jobs[place].ids)]
    groups: list[Group] = []
    while waiting:
        for alike in _runs(jobs, waiting.pop()):
            trunk = max(alike, key=lambda place: len(jobs[place].ids))
            closest = _closest(jobs, alike)
            joined = {
                place
                for place in alike
                if place == trunk or _joins(jobs[place].ids, jobs[trunk].ids, closest[place])
            }
            groups.append(_group(jobs, joined, jobs[trunk].ids))
            rest = [place for place in alike if place not in joined]
            waiting += [rest] if rest else []
    return sorted(groups, key=lambda group: group.rows[0].job.ids)


def _runs(jobs: Sequence[Job], order: Sequence[int]) -> Iterator[list[int]]:
    """Neighbours of `order` that share much: whatever shares most stands side by side."""
    run: list[int] = []
    for place in order:
        if run:
            one, other = sorted((jobs[run[-1]].ids, jobs[place].ids), key=len)
            if not _joins(one, other):
                yield run
                run = []
        run.append(place)
    if run:
        yield run


def _closest(jobs: Sequence[Job], order: Sequence[int]) -> dict[int, int]:
    """The most tokens that each prompt shares with any other: with a neighbour, in this order."""
    ids = [jobs[place].ids for place in order]
    between = [0, *map(shared_length, ids, ids[1:]), 0]
    return {place: max(between[n : n + 2]) for n, place in enumerate(order)}


def batches(groups: Sequence[Group], max_rows: int, max_tokens: int) -> Iterator[list[Group]]:
    """Groups to be run together: alike in size, within a number of rows and of tokens of memory.

    A group that is too large by itself is cut into pieces that each keep the trunk.
    """
    pieces = [piece for group in groups for piece in _cut(group, max_rows, max_tokens)]
    batch: list[Group] = []
    for piece in sorted(pieces, key=lambda piece: len(piece.rows)):
        if batch and not _fits([*batch, piece], max_rows, max_tokens):
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch


def shared_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    length = min(len(one), len(other))
    different = np.flatnonzero(np.asarray(one[:length]) != np.asarray(other[:length]))
    return int(different[0]) if different.size else length


def distinct_tokens(groups: Sequence[Group]) -> int:
    """The tokens of the groups' prompts, those of a shared beginning counted once in each group."""
    return sum(len(g.trunk) + sum(len(row.own) for row in g.rows) for g in groups)


def _joins(ids: Sequence[int], trunk: Sequence[int], closest: int = 0) -> bool:
    """Whether a prompt is read off a trunk: not when another prompt is much closer to it.

    Dialogues begin alike with the fixed text of a system prompt, and are still two.
    """
    shared = min(shared_length(ids, trunk), len(ids) - 1)
    return shared >= max(
        _LEAST_SHARED, _LEAST_SHARE * len(ids), _CLOSE * min(closest, len(ids) - 1)
    )


def _group(jobs: Sequence[Job], places: Collection[int], longest: Sequence[int]) -> Group:
    rows: list[Row] = []
    for place in sorted(places, key=lambda place: (-len(jobs[place].ids), place)):
        ids = jobs[place].ids
        shared = min(shared_length(ids, longest), len(ids) - 1)
        rows.append(Row(place, jobs[place], shared, cached=shared if rows else 0))
    return Group(tuple(longest[: max(row.shared for row in rows)]), tuple(rows))


def _cut(group: Group, max_rows: int, max_tokens: int) -> Iterator[Group]:
    """Pieces of `group` that each fit, as far as one row can."""
    if len(group.rows) == 1 or _fits([group], max_rows, max_tokens):
        yield group
        return
    half = (len(group.rows) + 1) // 2
    for rows in (group.rows[:half], group.rows[half:]):
        piece = Group(group.trunk[: max(row.shared for row in rows)], rows)
        yield from _cut(piece, max_rows, max_tokens)


def _fits(groups: Sequence[Group], max_rows: int, max_tokens: int) -> bool:
    most = max(len(group.rows) for group in groups)
    rows, real = most * len(groups), sum(len(group.rows) for group in groups)
    if rows > max_rows or rows > real * _MOST_PADDING:
        return False
    own = max(
        len(row.own) + min(row.job.max_tokens, _EXPECTED) for group in groups for row in group.rows
    )
    return max(len(group.trunk) for group in groups) * len(groups) + own * rows <= max_tokens
