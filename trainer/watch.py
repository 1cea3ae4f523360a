"""What is watched at every training step, from its ledger rows, and when it is a concern.

The limits are ours: no paper of this benchmark publishes any. Each is far from what a sound
training shows, and has to be crossed for `STEPS` steps in a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice, pairwise
from typing import NamedTuple

import numpy as np

from trainer.groups import (
    group_codes,
    known_mean,
    length_correlation,
    spreads,
    to_array,
    zero_spread_share,
)
from trainer.ledger import Row
from trainer.parts import Dimensions, judge_part, verdict_of

Values = Mapping[str, float]

#: So many steps in a row make a concern.
STEPS = 5
#: The words of an n-gram that counts as repeated, and how many of a text's words are looked at
#: for `distinct_2`, which would fall by itself as texts grow.
_GRAM = 4
_WORDS = 50
#: A component has collapsed below this spread in groups while another has more than the second,
#: unless its mean is above the third: what everybody gets right cannot vary.
COLLAPSED, VARIES, SOLVED = 0.01, 0.05, 0.99
#: Below this part of the first steps' `distinct_2` the candidates have become alike.
ALIKE = 0.5


class Limit(NamedTuple):
    """A concern when `sign` times the value is above `sign` times `limit`."""

    key: str
    sign: int
    limit: float
    #: What it means, with `value` filled in.
    words: str


LIMITS = (
    Limit(
        "length_correlation",
        1,
        0.5,
        "longer candidates get more reward (rank correlation within groups {value:+.2f}): is "
        "length what the judges like?",
    ),
    Limit(
        "length_correlation",
        -1,
        -0.5,
        "shorter candidates get more reward (rank correlation within groups {value:+.2f}): are "
        "long ones cut off, or is brevity what the judges like?",
    ),
    Limit(
        "zero_spread_share",
        1,
        0.8,
        "all candidates have the same reward in {value:.0%} of the groups, which teach nothing: "
        "harder prompts, more candidates or a higher temperature may help",
    ),
    Limit("masked_share", 1, 0.1, "{value:.0%} of the candidates have no reward: mend the judges"),
    Limit(
        "truncated_share",
        1,
        0.25,
        "{value:.0%} of the candidates are cut off: raise max_tokens, or look whether they ramble",
    ),
    Limit(
        "repetition",
        1,
        0.2,
        "{value:.0%} of the four-word sequences repeat one in the same text: look at the replies",
    ),
    Limit(
        "kl",
        1,
        0.5,
        "the policy is {value:.2f} nats a token away from the model that it began as: lower "
        "learning_rate or raise beta",
    ),
)


def watch(rows: Sequence[Row], dimensions: Dimensions) -> dict[str, float]:
    """The numbers of one step's candidates, in whatever order; what is undefined is left out.

    - `reward`: the mean reward; `masked_share`, `truncated_share`: shares of all candidates;
      `tokens`: their mean.
    - `length_correlation`: Spearman's, of reward and tokens, both less their group's mean.
    - `zero_spread_share`: of the groups with two rewards or more, those where all are equal.
    - `parts/JUDGE/mean` and `parts/JUDGE/spread`: the judge's scaled score, and its standard
      deviation (of the population) within groups, averaged over them.
    - `repetition`: the mean share of a text's four-word sequences that occurred in it before.
    - `distinct_2`: distinct over all two-word sequences of all candidates' first 50 words
      (Li et al. 2016, "A Diversity-Promoting Objective Function").

    A group is the candidates for one turn in one batch. `dimensions` are the rewarded judges'.
    """
    if not rows:
        return {}
    rows = sorted(rows, key=lambda row: (row.key(), row.turn_id))
    groups = group_codes(rows)
    rewards = to_array([row.reward for row in rows])
    tokens = np.array([row.tokens for row in rows], dtype=np.float64)
    found: dict[str, float | None] = {
        "reward": known_mean(rewards),
        "masked_share": float(np.isnan(rewards).mean()),
        "truncated_share": sum(row.status == "truncated" for row in rows) / len(rows),
        "tokens": float(tokens.mean()),
        "length_correlation": length_correlation(rewards, tokens, groups),
        "zero_spread_share": zero_spread_share(rewards, groups),
        "repetition": known_mean(to_array([repeated_share(row.text) for row in rows])),
        "distinct_2": _distinct([row.text for row in rows]),
    }
    for judge in sorted(dimensions):
        parts = to_array([judge_part(verdict_of(row, judge), dimensions[judge]) for row in rows])
        found[f"parts/{judge}/mean"] = known_mean(parts)
        found[f"parts/{judge}/spread"] = known_mean(spreads(parts, groups))
    return {name: value for name, value in found.items() if value is not None}


def watched_steps(
    rows: Iterable[Row], dimensions: Dimensions
) -> Iterator[tuple[int, dict[str, float]]]:
    """Each step and its numbers, from rows in the order of steps; evaluations are left out."""
    trained = (row for row in rows if row.phase == "train")
    for step, of_step in groupby(trained, key=lambda row: row.step):
        yield step, watch(list(of_step), dimensions)


def concerns(history: Sequence[Values]) -> list[str]:
    """What is worrying now, a sentence each, by the last steps' numbers (oldest first).

    `kl` is looked at where the caller adds it from the trainer's log. A history may leave out
    steps between the first `STEPS` and the last.
    """
    return list(_raised(history).values())


def new_concerns(history: Sequence[Values]) -> list[str]:
    """The concerns that were none one step ago: what to print."""
    before = _raised(history[:-1])
    return [words for name, words in _raised(history).items() if name not in before]


def repeated_share(text: str) -> float | None:
    """The share of four-word sequences that occurred before; None for fewer than four words.

    Words are parted by white space.
    """
    words = text.split()
    grams = list(zip(*(words[start:] for start in range(_GRAM)), strict=False))
    return 1.0 - len(set(grams)) / len(grams) if grams else None


def _raised(history: Sequence[Values]) -> dict[str, str]:
    last = history[-STEPS:]
    if len(last) < STEPS:
        return {}
    found = {
        f"{limit.key} {limit.sign:+d}": _said(limit.words, limit.key, last)
        for limit in LIMITS
        if all(_crossed(limit, values) for values in last)
    }
    return found | _collapses(last) | _sameness(history)


def _crossed(limit: Limit, values: Values) -> bool:
    value = values.get(limit.key)
    return value is not None and limit.sign * value > limit.sign * limit.limit


def _said(words: str, key: str, last: Sequence[Values]) -> str:
    return words.format(value=last[-1][key]) + f" ({len(last)} steps in a row)"


def _collapses(last: Sequence[Values]) -> dict[str, str]:
    ends = "parts/", "/spread"
    keys = [key for key in last[-1] if key.startswith(ends[0]) and key.endswith(ends[1])]
    judges = sorted(key.removeprefix(ends[0]).removesuffix(ends[1]) for key in keys)
    return {
        f"parts/{judge}": (
            f"the judge {judge} gives all candidates of a group about the same score (mean "
            f"{last[-1][f'parts/{judge}/mean']:.2f}) while another judge's vary: its part of the "
            f"reward teaches nothing ({len(last)} steps in a row)"
        )
        for judge in judges
        if all(_collapsed(judge, judges, values) for values in last)
    }


def _collapsed(judge: str, judges: Sequence[str], values: Values) -> bool:
    spreads = {name: values.get(f"parts/{name}/spread") for name in judges}
    own, mean = spreads.pop(judge), values.get(f"parts/{judge}/mean")
    if own is None or mean is None or own >= COLLAPSED or mean > SOLVED:
        return False
    return any(spread is not None and spread > VARIES for spread in spreads.values())


def _sameness(history: Sequence[Values]) -> dict[str, str]:
    begun = [values["distinct_2"] for values in history[:STEPS] if "distinct_2" in values]
    last = [values["distinct_2"] for values in history[-STEPS:] if "distinct_2" in values]
    if len(history) < 2 * STEPS or len(last) < STEPS or not begun:
        return {}
    first = sum(begun) / len(begun)
    if max(last) >= ALIKE * first:
        return {}
    return {
        "distinct_2": (
            f"the candidates have become alike: {last[-1]:.2f} of their two-word sequences are "
            f"distinct, and {first:.2f} were at first ({STEPS} steps in a row)"
        )
    }


def _distinct(texts: Sequence[str]) -> float | None:
    grams: list[tuple[str, str]] = []
    for text in texts:
        words = list(islice(text.split(), _WORDS))
        grams += pairwise(words)
    return len(set(grams)) / len(grams) if grams else None
