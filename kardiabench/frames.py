"""A run as pandas tables: `kardiabench.load_run(path)`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kardiabench.results import judges_of, turn_order
from kardiabench.scoring import composite
from kardiabench.store import (
    SUMMARY,
    Manifest,
    StoredReply,
    StoredVerdict,
    iterate_replies,
    iterate_verdicts,
    read_manifest,
    read_summary,
    reply_digest,
)

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Run:
    """A run read from disk.

    `replies`: one row a turn, indexed by turn_id: persona_id, gold and predicted emotion, text,
    the four spans, problems, status, detail, usage, latency in seconds.
    `verdicts`: one row a turn, judge and dimension: score (NaN where there is none), status,
    evidence, fingerprint.
    `scores`: one row a turn: a column `judge.dimension` each, and `composite`.
    """

    path: Path
    manifest: Manifest

    @property
    def summary(self) -> dict[str, Any]:
        """`summary.json`."""
        return read_summary(self.path)

    @property
    def has_summary(self) -> bool:
        """Whether the run has been summarised yet."""
        return (self.path / SUMMARY).exists()

    @cached_property
    def replies(self) -> pd.DataFrame:
        """One row a turn."""
        import pandas as pd

        rows = [_reply_row(stored) for _, stored in sorted(self._current.items(), key=_order)]
        return pd.DataFrame(rows).set_index("turn_id") if rows else pd.DataFrame()

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """One row a turn, judge and dimension."""
        import pandas as pd

        rows = [row for line in self._current_verdicts() for row in _verdict_rows(line)]
        return pd.DataFrame(rows)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """One row a turn, a column a dimension, and the composite."""
        import pandas as pd

        wide = self.verdicts.assign(
            column=self.verdicts["judge"] + "." + self.verdicts["dimension"]
        ).pivot_table(index="turn_id", columns="column", values="score", dropna=False)
        wide.columns.name = None
        return wide.assign(composite=pd.Series(self._composites()))

    @cached_property
    def _current(self) -> dict[str, StoredReply]:
        return {s.reply.turn_id: s for _, s in iterate_replies(self.path)}

    def _current_verdicts(self) -> Iterator[StoredVerdict]:
        latest = {
            (line.verdict.turn_id, line.verdict.judge): line
            for line in iterate_verdicts(self.path)
            if (stored := self._current.get(line.verdict.turn_id)) is not None
            and line.reply_digest == reply_digest(stored.reply)
        }
        for key in sorted(latest, key=lambda pair: (*turn_order(pair[0]), pair[1])):
            yield latest[key]

    def _composites(self) -> dict[str, float | None]:
        scorer, dimensions = self.manifest["protocol"]["scorer"], judges_of(self.manifest)
        by_turn: dict[str, dict[str, Any]] = {}
        for line in self._current_verdicts():
            by_turn.setdefault(line.verdict.turn_id, {})[line.verdict.judge] = line.verdict.scores
        return {
            turn: composite(scores, dimensions, scorer["weights"], scorer["missing"])
            for turn, scores in by_turn.items()
        }


def load_run(path: str | Path) -> Run:
    """Open the run directory `path`; raises `RunError` where it is none."""
    return Run(Path(path), read_manifest(Path(path)))


def _order(pair: tuple[str, StoredReply]) -> tuple[str, int]:
    return turn_order(pair[0])


def _reply_row(stored: StoredReply) -> dict[str, Any]:
    from kardiabench.emotions import match_emotion

    reply, spans = stored.reply, stored.reply.spans
    return {
        "turn_id": reply.turn_id,
        "dialogue_id": reply.turn_id.rpartition("/")[0],
        "persona_id": stored.persona_id,
        "gold_emotion": stored.gold_emotion,
        "predicted_emotion": match_emotion(spans.emotion) if spans.emotion else None,
        "status": reply.status,
        "detail": reply.detail,
        "text": reply.text,
        "understanding": spans.understanding,
        "reasoning": spans.reasoning,
        "emotion": spans.emotion,
        "response": spans.response,
        "problems": " ".join(spans.problems),
        "finish_reason": reply.finish_reason,
        "latency": reply.latency,
        **asdict(reply.usage),
    }


def _verdict_rows(line: StoredVerdict) -> Iterator[dict[str, Any]]:
    verdict = line.verdict
    for dimension, score in verdict.scores.items():
        yield {
            "turn_id": verdict.turn_id,
            "judge": verdict.judge,
            "dimension": dimension,
            "score": score,
            "status": verdict.status,
            "evidence": verdict.evidence.get(dimension) or verdict.evidence.get("judge", ""),
            "fingerprint": verdict.fingerprint,
        }
