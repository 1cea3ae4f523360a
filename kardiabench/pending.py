"""What a run still has to do, read off its logs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from kardiabench.records import Turn
from kardiabench.store import StoredReply, iterate_replies, iterate_verdicts, reply_digest

_RETRIED = frozenset({"error", "partial", "unparsed", "refused"})


class _Stored(NamedTuple):
    offset: int
    digest: str
    is_error: bool


class Pending:
    """Which turns lack a reply, and which replies lack a judge's verdict.

    `fingerprints` are the judges of this run by name: a verdict of another fingerprint, or on a
    reply that was replaced since, does not count. With `retry_replies` replies that ended in
    an error count as missing, with `retry_verdicts` verdicts that failed.
    """

    def __init__(
        self,
        path: Path,
        fingerprints: Mapping[str, str],
        *,
        retry_replies: bool = False,
        retry_verdicts: bool = False,
    ) -> None:
        self.judges = tuple(fingerprints)
        self._retry_replies, self._retry_verdicts = retry_replies, retry_verdicts
        self._replies: dict[str, _Stored] = {}
        for offset, stored in iterate_replies(path):
            self._replies[stored.reply.turn_id] = _remembered(offset, stored)
        self._judged: dict[str, frozenset[str]] = {}
        self._read_verdicts(path, fingerprints)

    def needs_reply(self, turn: Turn) -> bool:
        """Whether the turn has to be generated."""
        stored = self._replies.get(turn.id)
        return stored is None or self._is_retried(stored)

    def missing_judges(self, turn: Turn) -> tuple[str, ...]:
        """The judges that have not judged the turn's stored reply."""
        judged = self._judged.get(turn.id, frozenset())
        return tuple(name for name in self.judges if name not in judged)

    def offset(self, turn: Turn) -> int:
        """Where the turn's stored reply begins, for `store.reply_at`."""
        return self._replies[turn.id].offset

    @property
    def n_replied(self) -> int:
        """Turns that have a reply to keep."""
        return sum(1 for stored in self._replies.values() if not self._is_retried(stored))

    @property
    def n_judged(self) -> int:
        """Turns whose reply has a verdict of every judge."""
        return sum(1 for judged in self._judged.values() if len(judged) == len(self.judges))

    def _is_retried(self, stored: _Stored) -> bool:
        return self._retry_replies and stored.is_error

    def _read_verdicts(self, path: Path, fingerprints: Mapping[str, str]) -> None:
        shared: dict[frozenset[str], frozenset[str]] = {}  # equal sets are kept once
        for line in iterate_verdicts(path):
            verdict = line.verdict
            stored = self._replies.get(verdict.turn_id)
            if stored is None or line.reply_digest != stored.digest or self._is_retried(stored):
                continue
            if fingerprints.get(verdict.judge) != verdict.fingerprint:
                continue
            judged = self._judged.get(verdict.turn_id, frozenset())
            again = self._retry_verdicts and verdict.status in _RETRIED
            judged = judged - {verdict.judge} if again else judged | {verdict.judge}
            self._judged[verdict.turn_id] = shared.setdefault(judged, judged)


def _remembered(offset: int, stored: StoredReply) -> _Stored:
    return _Stored(offset, reply_digest(stored.reply), stored.reply.status == "error")
