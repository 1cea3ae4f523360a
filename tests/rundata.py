"""Turns, judges and run directories, invented for tests of scoring, storing and summing up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kardiabench.fingerprints import digest, fingerprint
from kardiabench.records import Dialogue, Dimension, Item, Message, Reply, Turn, Usage, Verdict
from kardiabench.scoring import DEFAULT_WEIGHTS, describe
from kardiabench.spans import render_spans
from kardiabench.store import RunStore, create

Scores = Mapping[str, float | None]


def say(emotion: str = "sad", response: str = "I am here.") -> str:
    return render_spans("They are low.", "The message says so.", emotion, response)


def make_dialogue(name: str = "d0", persona: str = "p0", exchanges: int = 3, **changes: Any):
    messages = [Message("system", "You are kind.")]
    for index in range(exchanges):
        messages += [Message("user", f"{name} speaks, {index}."), Message("assistant", say())]
    values = {
        "id": name,
        "persona_id": persona,
        "profile": f"About: {persona}.",
        "mbti": "INFP",
        "emotion": "sad",
        "situation": f"What happened to {name}.",
        "messages": tuple(messages),
    }
    return Dialogue(**(values | changes))


def make_turn(
    name: str = "d0", index: int = 0, persona: str = "p0", gold: str = "sad", **changes: Any
) -> Turn:
    dialogue = make_dialogue(name, persona, index + 1, **changes)
    return Turn(dialogue, index, 2 + 2 * index, say(gold), gold, "span")


def make_item(name: str = "d0", index: int = 0, text: str | None = None, **reply: Any) -> Item:
    turn = make_turn(name, index)
    return Item(turn, Reply(turn.id, say() if text is None else text, **reply))


class StubJudge:
    """A judge that answers with `score(item)` and remembers the batches that it was asked for."""

    def __init__(
        self,
        score: Callable[[Item], Scores] = lambda item: {"d": 1.0},
        name: str = "stub",
        dimensions: Sequence[Dimension] = (Dimension("d", 0.0, 1.0, "a number"),),
        **identity: object,
    ) -> None:
        self.name, self.score, self.dimensions = name, score, tuple(dimensions)
        self.identity = {"judge": name, **identity}
        self.batches: list[list[str]] = []

    @property
    def asked(self) -> list[str]:
        return [turn_id for batch in self.batches for turn_id in batch]

    async def judge(self, items: Sequence[Item]) -> list[Verdict]:
        self.batches.append([item.turn.id for item in items])
        return [self.verdict(item) for item in items]

    def verdict(self, item: Item, **changes: Any) -> Verdict:
        values = {"evidence": {"judge": f"read {item.turn.id}"}, "usage": Usage(calls=1, cost=0.25)}
        scores = {} if "scores" in changes else {"scores": self.score(item)}
        values |= {"judge": self.name, "fingerprint": fingerprint(self.identity), **scores}
        return Verdict(item.turn.id, **(values | changes))


def make_manifest(
    judges: Sequence[Any],
    turns: int,
    weights: Mapping[str, float] = DEFAULT_WEIGHTS,
    missing: str = "mask",
    skipped: int = 0,
) -> dict[str, Any]:
    protocol = {
        "dataset": {"turns": turns, "dialogues": turns, "personas": 1},
        "scorer": {
            "judges": {judge.name: describe(judge) for judge in judges},
            "weights": dict(weights),
            "missing": missing,
        },
    }
    return {
        "kardiabench": "0",
        "manifest_version": 1,
        "config": {"model": "scripted/x"},
        "model": {"name": "scripted/x", "identity": {}},
        "dataset": {"name": "mem"},
        "protocol": protocol,
        "protocol_id": digest(protocol),
        "rows": {"read": turns, "skipped": skipped, "examples": []},
    }


def make_run(
    path: Path,
    manifest: Mapping[str, Any],
    lines: Sequence[tuple[Turn, Reply, Sequence[Verdict]]],
) -> Path:
    """A run directory whose logs hold `lines`."""
    create(path, manifest)
    with RunStore(path) as store:
        for turn, reply, verdicts in lines:
            store.append_reply(turn, reply)
            store.append_verdicts(reply, verdicts)
    return path
