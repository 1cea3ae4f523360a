"""Whether the rewards of a first batch tell candidates apart: else there is nothing to learn."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from kardiabench.errors import PreflightError
from kardiabench.records import clean_text
from kardiabench.scoring import JUDGED
from trainer.groups import ROUNDING, group_codes, spreads, to_array
from trainer.ledger import Row

_LONGEST = 200


def check_spread(rows: Sequence[Row]) -> str:
    """A line about the rewards of `rows`, the candidates of a first batch.

    Raises `PreflightError`, which says why, when there is none or when all rewards of every group
    are equal: advantages would then be 0 throughout, and no weight would move. What a group is,
    and when it has no spread, is as in `trainer.watch`.
    """
    rewards = [row.reward for row in rows if row.reward is not None]
    if not rewards:
        raise PreflightError(
            f"no candidate of the first batch has a reward: {_why_unjudged(rows)}; mend the judge "
            "or leave it out of judging.judges"
        )
    found = spreads(to_array([row.reward for row in rows]), group_codes(rows))
    if not len(found):
        raise PreflightError(
            "no two candidates of a prompt in the first batch have a reward: "
            f"{_why_unjudged(rows)}; mend the judge or leave it out of judging.judges"
        )
    flat = int((found <= ROUNDING).sum())
    if flat == len(found):
        raise PreflightError(f"{_what_is_equal(rewards)}: {_why_equal(rows)}")
    masked = len(rows) - len(rewards)
    return (
        f"rewards of the first {len(rows)} candidates: {min(rewards):.3f} to {max(rewards):.3f}, "
        f"mean {sum(rewards) / len(rewards):.3f}; {flat} of {len(found)} groups without spread, "
        f"{masked} masked"
    )


def _what_is_equal(rewards: Sequence[float]) -> str:
    if len(set(rewards)) == 1:
        what = f"all {len(rewards)} candidates of the first batch have the same reward"
        return f"{what}, {rewards[0]:.3f}"
    return "in every group of the first batch all candidates have the same reward"


def _why_equal(rows: Sequence[Row]) -> str:
    """The likeliest reason, and what to do."""
    cut = sum(row.status == "truncated" for row in rows)
    if cut == len(rows):
        longest = max(row.tokens for row in rows)
        return f"every candidate was cut off at {longest} tokens; raise max_tokens"
    if _are_repeated(rows):
        return "the candidates of a prompt are the same text; raise temperature"
    if not any(row.status == "ok" and row.reply().spans.complete for row in rows):
        hint = f" ({cut} were cut off: max_tokens may be too low)" if cut else ""
        return f"no candidate has the four spans{hint}; train `sft` first"
    return (
        "the judges see no difference; take harder dialogues (data.subset: hard), more candidates, "
        "or a judge that tells them apart"
    )


def _are_repeated(rows: Sequence[Row]) -> bool:
    texts: dict[tuple[int, int, int], set[str]] = defaultdict(set)
    for row in rows:
        texts[row.step, row.call, row.group].add(row.text)
    return all(len(said) == 1 for said in texts.values())


def _why_unjudged(rows: Sequence[Row]) -> str:
    """What the judges said most often instead of judging."""
    reasons = Counter(
        f"judge {verdict.judge} ({verdict.status}: "
        f"{' '.join(verdict.evidence.values()) or 'no reason given'}"[:_LONGEST]
        + ")"
        for row in rows
        for verdict in row.verdicts
        if verdict.status not in JUDGED or None in verdict.scores.values()
    )
    if not reasons:
        return "no verdict is there"
    return clean_text(reasons.most_common(1)[0][0])
