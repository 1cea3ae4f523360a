"""Rewards and ledgers as a training makes them, without a training: replies are texts by number.

with Rewarding(tmp_path, judges=["smoke"]) as it:
    it.batch([gold, "nonsense"], step=0)  # two candidates of the first turn
rescore(it.path)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from kardiabench.dialogues import load
from kardiabench.records import Reply, Scorecard, Turn, Usage
from kardiabench.registry import Registry
from trainer.config import Data, Grpo, Judging
from trainer.ledger import Header, Ledger, Row, ledger_name
from trainer.rewards import Reward
from trainer.scorers import Scorers, open_scorers, run_settings
from trainer.scoring_thread import ScoringThread


class Rewarding:
    """Judges, a ledger and a `Reward` over a dataset (the sample's train part).

    A candidate's token ids are the one number of its text in `texts`. `options` are those of
    `Judging`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        held_out: Sequence[str] = (),
        dataset: str = "sample",
        plugins: Sequence[Path] = (),
        rank: int = 0,
        registry: Registry | None = None,
        limit: float | None = None,
        make_reply: Callable[[Turn, Sequence[int]], Reply] | None = None,
        **options: Any,
    ) -> None:
        self.warnings: list[str] = []
        self.texts: list[str] = []
        self.rank = rank
        self.path = folder / ledger_name(rank)
        stage = Grpo(
            model="nobody/none",
            output=folder,
            data=Data(dataset=dataset, split="train" if dataset == "sample" else None),
            judging=Judging(**options),
            plugins=list(plugins),
        )
        self.scorers: Scorers = open_scorers(
            stage, stage.judging, tuple(held_out), warn=self.warnings.append, registry=registry
        )
        settings = run_settings(stage, stage.judging, tuple(held_out))
        source = self.scorers.registry.open_dataset(settings.dataset, settings.split)
        self.turns = {turn.id: turn for turn in load(source).turns()}
        header = Header(
            scorer=self.scorers.rewarded.identity,
            settings=settings.to_json(),
            data={"name": dataset},
            held_out=self.scorers.watched.identity if held_out else None,
            model="nobody/none",
        )
        self.ledger = Ledger(self.path, header, resume_at=None)
        self.thread = ScoringThread(
            self.scorers.fresh, limit or self.scorers.limit + 30, self.warnings.append
        )
        self.rows: list[Row] = []
        self.reward = Reward(
            self.turns, make_reply or self._reply, self.thread, self._write, rank=rank
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self.scorers.aclose(), self.thread._running_loop()).result(
            10
        )
        self.thread.close()
        self.ledger.close()
        self.scorers.close()

    def turn_ids(self, number: int, each: int = 1) -> list[str]:
        """The first `number` turns' ids, each so often."""
        return [turn_id for turn_id in list(self.turns)[:number] for _ in range(each)]

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids that stand for `texts`."""
        start = len(self.texts)
        self.texts += texts
        return [[start + place] for place in range(len(texts))]

    def call(self, texts: Sequence[str], turn_ids: Sequence[str], **more: Any) -> list[Any]:
        """Rewards as TRL asks for them."""
        ids = self.ids(texts)
        return asyncio.run(self.reward(completion_ids=ids, turn_id=turn_ids, **more))

    def batch(
        self,
        texts: Sequence[str],
        turn_ids: Sequence[str] | None = None,
        *,
        step: int = 0,
        phase: Any = "train",
        per_group: int | None = None,
        advantages: Sequence[float] | None = None,
    ) -> list[Row]:
        """Judge a batch and write it."""
        ids = turn_ids or self.turn_ids(1, each=len(texts))
        self.reward.begin(
            ids, self.ids(texts), phase=phase, step=step, per_group=per_group or len(texts)
        )
        return self.reward.settle(advantages)

    def cards(self) -> list[Scorecard]:
        """Scorecards of the rows so far."""
        return [Scorecard(row.turn_id, row.verdicts, row.composite) for row in self.rows]

    def _reply(self, turn: Turn, ids: Sequence[int]) -> Reply:
        return Reply(turn.id, self.texts[ids[0]], usage=Usage(calls=1, completion_tokens=len(ids)))

    def _write(self, rows: Sequence[Row]) -> None:
        self.rows += rows
        self.ledger.append(rows)


def changed(path: Path, change: Callable[[dict[str, Any]], None], line: int) -> Path:
    """The ledger with the JSON of a line changed in place, written as a training writes it."""
    import json

    lines = path.read_bytes().splitlines(keepends=True)
    content = json.loads(lines[line])
    change(content)
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    lines[line] = text.encode() + b"\n"
    path.write_bytes(b"".join(lines))
    return path


def without_usage(row: Row) -> Row:
    """The row less what was paid for its verdicts."""
    verdicts = tuple(replace(verdict, usage=Usage()) for verdict in row.verdicts)
    return replace(row, verdicts=verdicts)
