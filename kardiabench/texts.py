"""The texts of a run, turn by turn: what the model said and what judges quote, for who shows them.

Numbers come from `results`; nothing here is needed for one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from kardiabench.bundle import Bundle, read_bundle
from kardiabench.bundle_rows import TurnText
from kardiabench.manifests import read_manifest
from kardiabench.records import Reply
from kardiabench.results import current_verdicts, turn_order
from kardiabench.spans import SPAN_NAMES
from kardiabench.store import iterate_replies, reply_digest

__all__ = ["TurnText", "iterate_texts"]


def iterate_texts(source: str | Path | Bundle) -> Iterator[TurnText]:
    """The texts of a run directory or a bundle, in the canonical order of turns.

    Of every turn that was answered; a bundle without replies has none. Raises `RunError`.
    """
    if isinstance(source, Bundle):
        return source.texts()
    path = Path(source)
    return read_bundle(path).texts() if path.is_file() else _texts_of_run(path)


def _texts_of_run(path: Path) -> Iterator[TurnText]:
    manifest = read_manifest(path)
    replies = {line.stored.reply.turn_id: line.stored.reply for line in iterate_replies(path)}
    digests = {turn_id: reply_digest(reply) for turn_id, reply in replies.items()}
    evidence: dict[str, dict[str, Mapping[str, str]]] = {}
    for verdict in current_verdicts(path, manifest, digests):
        evidence.setdefault(verdict.turn_id, {})[verdict.judge] = verdict.evidence
    for turn_id in sorted(replies, key=turn_order):
        said = {judge: words for judge, words in evidence.get(turn_id, {}).items() if words}
        yield text_of(replies[turn_id], said)


def text_of(reply: Reply, evidence: Mapping[str, Mapping[str, str]]) -> TurnText:
    """What there is to show of a reply, with what judges said of it."""
    spans = reply.spans
    return TurnText(
        turn_id=reply.turn_id,
        spans={name: getattr(spans, name) for name in SPAN_NAMES},
        raw=reply.text if reply.text and spans.problems else None,
        evidence=evidence,
    )
