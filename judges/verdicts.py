"""What the built-in judges share: verdicts on replies that need no judging, and short text."""

from __future__ import annotations

from kardiabench.contracts import Judge
from kardiabench.fingerprints import fingerprint
from kardiabench.records import Item, Verdict, clean_text, missing_scores


def skipped(judge: Judge, item: Item) -> Verdict:
    """The verdict on a reply of status `error`: nothing was generated, so nothing is scored."""
    return Verdict(
        turn_id=item.turn.id,
        judge=judge.name,
        fingerprint=fingerprint(judge.identity),
        scores=missing_scores(judge.dimensions),
        status="skipped",
        evidence={"judge": clip(f"no reply: {item.reply.detail or item.reply.status}", 200)},
    )


def clip(text: str, limit: int) -> str:
    """`text` as valid Unicode, cut to at most `limit` characters; a cut shows as `…`."""
    whole = len(text) <= limit
    return clean_text(text if whole else text[: limit - 1] + "…")
