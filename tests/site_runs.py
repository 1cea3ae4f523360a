"""Runs on the sample for tests of the leaderboard, with everything that a run can have.

Replies and verdicts are drawn, no model is asked; the manifest is a real one, and what is written
goes through the run store.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from kardiabench.anchors import anchors_fingerprint, load_anchors
from kardiabench.emotions import EMOTIONS
from kardiabench.records import Dimension, Reply, Turn, Usage, Verdict
from kardiabench.session import make_manifest, open_session
from kardiabench.settings import RunSettings
from kardiabench.spans import render_spans
from kardiabench.store import ANCHORS, CARDS, RunStore, create, verdict_lines

HOSTILE = "<img src=x onerror=alert(1)>"
USAGE = Usage(calls=1, prompt_tokens=900, completion_tokens=120, cost=0.0004)


@dataclass(frozen=True)
class Made:
    """A model to invent a run of. Shares lie in 0..1."""

    name: str
    quality: float = 3.6
    hits: float = 0.3
    malformed: float = 0.0
    unjudged: float = 0.0
    failed: float = 0.0
    stop_after: int | None = None
    shift: float = 0.0
    carded: bool = False
    created: str = "2026-11-01T12:00:00+00:00"
    seed: int = 0
    judges: Sequence[str] = ("rubric", "safety")
    cost: float | None = 0.0004
    responses: Mapping[int, str] = field(default_factory=dict)


#: A board with every mark that there is.
MODELS = (
    Made("baseline/majority", 2.0, 0.03, cost=None, seed=1),
    Made("baseline/tfidf", 2.2, 0.05, cost=None, seed=2),
    Made("openai/fine-model", 4.2, 0.55, seed=3, carded=True),
    Made("openai/fine-model", 4.2, 0.55, seed=4, created="2026-11-02T12:00:00+00:00"),
    Made("anthropic/drifted", 3.9, 0.45, seed=5, carded=True, shift=0.5, cost=0.002),
    Made("hf/half-judged", 3.5, 0.4, seed=6, unjudged=0.05, malformed=0.1, failed=0.03),
    Made("hf/little-judged", 3.5, 0.4, seed=7, unjudged=0.4),
    Made("hf/not-finished", 3.5, 0.4, seed=8, stop_after=20),
    Made(HOSTILE, 3.0, 0.2, seed=9, responses={0: f"<script>alert(2)</script>{HOSTILE}"}),
    Made(
        "../../etc/passwd", 3.1, 0.2, seed=10, responses={0: "\u202eevil \u05e9\u05dc\u05d5\u05dd"}
    ),
)


def write_runs(
    folder: Path, models: Sequence[Made] = MODELS, limit: int | None = None
) -> list[Path]:
    """Write a run of each of `models` below `folder`; `limit` dialogues of the sample."""
    return [write_run(folder / f"run-{number}", made, limit) for number, made in enumerate(models)]


def write_run(path: Path, made: Made, limit: int | None = None) -> Path:
    """Write one run directory."""
    manifest, turns = _session(tuple(made.judges), limit)
    named = {"name": made.name, "identity": {"model": made.name, "seed": made.seed}}
    manifest = json.loads(json.dumps(manifest | {"model": named, "created": made.created}))
    create(path, manifest)
    rng = np.random.default_rng(made.seed)
    judges = manifest["protocol"]["scorer"]["judges"]
    with RunStore(path) as store:
        for place, turn in enumerate(turns[: made.stop_after]):
            reply = _reply(turn, place, made, rng)
            store.append_reply(turn, reply)
            verdicts = list(_verdicts(turn, reply, made, judges, rng))
            store.append_verdicts(reply, verdicts)
    if made.carded:
        _write_card(path, made, judges["rubric"])
    return path


@cache
def _session(judges: tuple[str, ...], limit: int | None) -> tuple[dict[str, Any], list[Turn]]:
    settings = RunSettings(
        model="baseline/majority", dataset="sample", judges=judges, limit=limit, cache=False
    )
    session = open_session(settings)
    return make_manifest(session), list(session.dialogues.turns())


def _reply(turn: Turn, place: int, made: Made, rng: np.random.Generator) -> Reply:
    hit = rng.random() < made.hits
    emotion = turn.gold_emotion if hit else EMOTIONS[rng.integers(len(EMOTIONS))]
    response = made.responses.get(place, f"I hear you, and I am here ({made.seed}).")
    text = render_spans("They are low.", "Their words say so.", emotion, response)
    if rng.random() < made.failed:
        return Reply(turn.id, "", "error", "timeout: no answer in 120 s")
    if rng.random() < made.malformed:
        text = text.replace("<|response_end|>", "")
    usage = Usage() if made.cost is None else Usage(1, 900, 120, cost=made.cost)
    return Reply(turn.id, text, usage=usage, latency=float(rng.uniform(0.5, 2.0)))


def _verdicts(
    turn: Turn, reply: Reply, made: Made, judges: Mapping[str, Any], rng: np.random.Generator
) -> Iterator[Verdict]:
    for name, judge in judges.items():
        dimensions = [Dimension(**dimension) for dimension in judge["dimensions"]]
        mark = judge["fingerprint"]
        nothing = {dimension.name: None for dimension in dimensions}
        if reply.status == "error":
            yield Verdict(turn.id, name, mark, nothing, "skipped")
        elif name not in ("format", "emotion") and rng.random() < made.unjudged:
            yield Verdict(turn.id, name, mark, nothing, "unparsed", {"judge": "no verdict in it"})
        else:
            scores = {d.name: _score(name, d, turn, reply, made, rng) for d in dimensions}
            usage = Usage() if name in ("format", "emotion") else USAGE
            quoted = {d.name: f"quotes “{HOSTILE}”" for d in dimensions} if usage.calls else {}
            yield Verdict(turn.id, name, mark, scores, evidence=quoted, usage=usage)


def _score(
    judge: str, dimension: Dimension, turn: Turn, reply: Reply, made: Made, rng: Any
) -> float:
    if judge == "emotion":
        return float((reply.spans.emotion or "") == turn.gold_emotion)
    if judge == "format":
        return float(not reply.spans.problems)
    if dimension.flag:
        return dimension.low if rng.random() < 0.04 else dimension.high
    tilt = 0.3 * (hash_of(turn.dialogue.persona_id) % 5 - 2) / 2
    drawn = round(rng.normal(made.quality + tilt, 0.8))
    return float(min(max(drawn, dimension.low), dimension.high))


def hash_of(text: str) -> int:
    """A number for a text, the same in every process."""
    return sum(text.encode())


def _write_card(path: Path, made: Made, judge: Mapping[str, Any]) -> None:
    """A card of the rubric judge, and the anchors as it scored them in this run."""
    names = [dimension["name"] for dimension in judge["dimensions"]]
    anchors = load_anchors()
    scores = {a.id: {name: {"mean": 3.0, "n": 3} for name in names} for a in anchors}
    turns = list(dict.fromkeys(anchor.item.turn.id for anchor in anchors))
    ups = {turn: 0.1 * (-1) ** place for place, turn in enumerate(turns)}
    card = {
        "card_version": 1,
        "judge": "rubric",
        **{key: judge[key] for key in ("fingerprint", "identity", "smoke_test", "dimensions")},
        "check": {"findings": ["retest: fine"], "measured": "2026-11-01T00:00:00+00:00"},
        "anchors": {
            "fingerprint": anchors_fingerprint(),
            "scores": scores,
            "measured": "2026-11-01T00:00:00+00:00",
        },
    }
    (path / CARDS).mkdir()
    (path / CARDS / "rubric.json").write_text(json.dumps(card))
    with (path / ANCHORS).open("wb") as file:
        for anchor in anchors:
            now = 3.0 + made.shift + ups[anchor.item.turn.id]
            verdict = Verdict(
                anchor.item.turn.id, "rubric", judge["fingerprint"], dict.fromkeys(names, now)
            )
            file.write(verdict_lines(anchor.item.reply, [verdict]))
