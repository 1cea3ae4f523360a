"""A run as pandas tables: `kardiabench.load_run(path)`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kardiabench.calibration import judge_calibrated, kept_calibration
from kardiabench.curves import apply_curve
from kardiabench.emotions import match_emotion
from kardiabench.manifests import Manifest, read_manifest
from kardiabench.records import Dimension, Usage, Verdict
from kardiabench.results import current_verdicts, judges_of, turn_order
from kardiabench.scoring import composite
from kardiabench.spans import SPAN_NAMES
from kardiabench.store import StoredReply, iterate_replies, read_summary, reply_digest

if TYPE_CHECKING:
    import pandas as pd

REPLY_COLUMNS = (
    "turn_id", "dialogue_id", "persona_id", "gold_emotion", "predicted_emotion", "status",
    "detail", "text", *SPAN_NAMES, "problems", "finish_reason", "latency",
    *(item.name for item in fields(Usage)),
)  # fmt: skip
VERDICT_COLUMNS = (
    "turn_id", "judge", "dimension", "score", "status", "evidence", "fingerprint",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A run read from disk.

    `replies`: one row a turn, indexed by turn_id: persona_id, gold and predicted emotion, text,
    the four spans, problems, status, detail, usage, latency in seconds.
    `verdicts`: one row a turn, judge and dimension: score (NaN where there is none), status,
    evidence, fingerprint.
    `scores`: one row a turn, indexed as `replies`: a column `judge.dimension` each, and
    `composite`; NaN where there is none. `calibrated`: the same for the run's calibration.
    """

    path: Path
    manifest: Manifest

    @property
    def summary(self) -> dict[str, Any]:
        """`summary.json`."""
        return read_summary(self.path)

    @cached_property
    def replies(self) -> pd.DataFrame:
        """One row a turn."""
        rows = [_reply_row(stored) for stored in self._current.values()]
        return _frame(rows, REPLY_COLUMNS).astype({"cost": "float64"}).set_index("turn_id")

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """One row a turn, judge and dimension."""
        rows = [row for verdict in self._verdicts for row in _verdict_rows(verdict)]
        return _frame(rows, VERDICT_COLUMNS).astype({"score": "float64"})

    @cached_property
    def scores(self) -> pd.DataFrame:
        """One row a turn, a column a dimension, and the composite."""
        import pandas as pd

        columns = [f"{judge}.{d.name}" for judge, dims in self._judges.items() for d in dims]
        rows: dict[str, dict[str, float | None]] = {turn_id: {} for turn_id in self._current}
        by_turn: dict[str, dict[str, Mapping[str, float | None]]] = {t: {} for t in rows}
        for verdict in self._verdicts:
            by_turn[verdict.turn_id][verdict.judge] = verdict.scores
            for name, score in verdict.scores.items():
                rows[verdict.turn_id][f"{verdict.judge}.{name}"] = score
        for turn_id, scores in by_turn.items():
            rows[turn_id]["composite"] = self._composite(scores)
        frame = pd.DataFrame.from_dict(rows, orient="index", columns=[*columns, "composite"])
        return frame.astype("float64").rename_axis("turn_id")

    @cached_property
    def calibrated(self) -> pd.DataFrame:
        """One row a turn, a column `judge.dimension` for each that the run's calibration has."""
        import pandas as pd

        calibration = kept_calibration(self.path) or {}
        judge = judge_calibrated(calibration, self.manifest) if calibration else None
        curves = calibration["dimensions"] if judge else {}
        names = [d.name for d in self._judges.get(judge or "", ()) if d.name in curves]
        columns = {
            f"{judge}.{name}": apply_curve(curves[name], self.scores[f"{judge}.{name}"].to_numpy())
            for name in names
        }
        return pd.DataFrame(columns, index=self.scores.index, dtype="float64")

    @cached_property
    def _judges(self) -> dict[str, tuple[Dimension, ...]]:
        return judges_of(self.manifest)

    @cached_property
    def _current(self) -> dict[str, StoredReply]:
        """The last reply to each turn, in the canonical order."""
        latest = {stored.reply.turn_id: stored for _, stored in iterate_replies(self.path)}
        return {turn_id: latest[turn_id] for turn_id in sorted(latest, key=turn_order)}

    @cached_property
    def _verdicts(self) -> list[Verdict]:
        """The last verdict of each judge on each turn, by turn and judge."""
        digests = {turn_id: reply_digest(s.reply) for turn_id, s in self._current.items()}
        latest = {
            (verdict.turn_id, verdict.judge): verdict
            for verdict in current_verdicts(self.path, self.manifest, digests)
        }
        keys = sorted(latest, key=lambda pair: (turn_order(pair[0]), pair[1]))
        return [latest[key] for key in keys]

    def _composite(self, scores: Mapping[str, Mapping[str, float | None]]) -> float | None:
        scorer = self.manifest["protocol"]["scorer"]
        return composite(scores, self._judges, scorer["weights"], scorer["missing"])


def load_run(path: str | Path) -> Run:
    """Open the run directory `path`; raises `RunError` where it is none."""
    return Run(Path(path), read_manifest(Path(path)))


def _frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """`rows` under `columns`, which are there even when there are no rows."""
    import pandas as pd

    return pd.DataFrame(rows, columns=list(columns))


def _reply_row(stored: StoredReply) -> dict[str, Any]:
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


def _verdict_rows(verdict: Verdict) -> Iterator[dict[str, Any]]:
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
