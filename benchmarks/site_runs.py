"""Run directories of many models at the benchmark's real size, made without asking any model.

Replies and verdicts are drawn: every model has a quality of its own, and personas, dialogues and
turns move its scores. What is written is what `kardiabench run` writes, judges and all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from synthetic import write_dataset

from kardiabench.emotions import EMOTIONS
from kardiabench.records import Reply, Turn
from kardiabench.session import make_manifest, open_session
from kardiabench.settings import RunSettings
from kardiabench.spans import render_spans
from kardiabench.store import REPLIES, VERDICTS, create, reply_digest

PERSONA_SD, DIALOGUE_SD, TURN_SD = 0.15, 0.2, 0.8
_DIMENSIONS = ("relevance", "fluency", "empathy", "persona_consistency", "safety")
_USAGE = (
    '{"calls":1,"prompt_tokens":900,"completion_tokens":150,"reasoning_tokens":0,'
    '"cached_tokens":0,"cost":0.0004}'
)
_WORDS = "what was said before weighs on them and they would rather not be alone with it now "


def write_runs(folder: Path, models: int, dialogues: int = 2547, personas: int = 32) -> list[Path]:
    """Write `models` runs below `folder`, two of them baselines; about 8 turns a dialogue."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = write_dataset(folder / "test.jsonl", dialogues=dialogues, personas=personas)
    replies = folder / "none.jsonl"
    replies.write_text("")
    settings = RunSettings(model=f"replay/{replies}", dataset=str(dataset), cache=False)
    session = open_session(settings)
    turns = list(session.dialogues.turns())
    return [
        write_run(folder / f"run-{number:02}", name(number), make_manifest(session), turns, number)
        for number in range(models)
    ]


def name(number: int) -> str:
    """The first two are floors."""
    floors = ("baseline/majority", "baseline/tfidf")
    return floors[number] if number < len(floors) else f"provider/model-{number:02}"


def write_run(
    path: Path, model: str, manifest: dict[str, Any], turns: list[Turn], seed: int
) -> Path:
    """Write one run directory."""
    created = f"2026-11-{1 + seed % 28:02}T12:00:00+00:00"
    named = {"name": model, "identity": {"model": model}}
    create(path, manifest | {"model": named, "created": created})
    marks = {
        judge: described["fingerprint"]
        for judge, described in manifest["protocol"]["scorer"]["judges"].items()
    }
    rng = np.random.default_rng(seed)
    scores, right = _scores(turns, rng), rng.random(len(turns)) < 0.2 + 0.012 * seed
    answers = rng.integers(0, len(EMOTIONS), len(turns))
    with (path / REPLIES).open("w") as replies, (path / VERDICTS).open("w") as verdicts:
        for place, turn in enumerate(turns):
            emotion = turn.gold_emotion if right[place] else EMOTIONS[answers[place]]
            text = _text(emotion)
            replies.write(_reply_line(turn, text))
            mark = reply_digest(Reply(turn.id, text))
            hit = float(emotion == turn.gold_emotion)
            for judge, found in (
                ("format", {"format": 1.0}),
                ("emotion", {"emotion": hit}),
                ("rubric", dict(zip(_DIMENSIONS, scores[place], strict=True))),
            ):
                verdicts.write(_verdict_line(mark, turn.id, judge, marks[judge], found))
    return path


def _text(emotion: str) -> str:
    return render_spans(_WORDS * 3, _WORDS * 4, emotion, _WORDS * 2)


def _scores(turns: list[Turn], rng: np.random.Generator) -> list[list[float]]:
    """(turns, 5) whole scores of 1 to 5."""
    personas = np.unique([turn.dialogue.persona_id for turn in turns], return_inverse=True)[1]
    dialogues = np.unique([turn.dialogue.id for turn in turns], return_inverse=True)[1]
    size = (len(turns), len(_DIMENSIONS))
    drawn = rng.normal(3.6, 0.25) + TURN_SD * rng.standard_normal(size)
    drawn += PERSONA_SD * rng.standard_normal((personas.max() + 1, size[1]))[personas]
    drawn += DIALOGUE_SD * rng.standard_normal((dialogues.max() + 1, size[1]))[dialogues]
    whole: list[list[float]] = np.clip(np.round(drawn), 1, 5).tolist()
    return whole


def _reply_line(turn: Turn, text: str) -> str:
    return (
        f'{{"persona_id":"{turn.dialogue.persona_id}","gold_emotion":"{turn.gold_emotion}",'
        f'"gold_source":"{turn.gold_source}","reply":{{"turn_id":"{turn.id}",'
        f'"text":{json.dumps(text)},"status":"ok","detail":"","finish_reason":"stop",'
        f'"reasoning":"","usage":{_USAGE},"latency":1.25,"text_source":"server"}}}}\n'
    )


def _verdict_line(
    mark: str, turn: str, judge: str, fingerprint: str, scores: dict[str, float]
) -> str:
    return (
        f'{{"reply_digest":"{mark}","verdict":{{"turn_id":"{turn}","judge":"{judge}",'
        f'"fingerprint":"{fingerprint}","scores":{json.dumps(scores)},"status":"ok",'
        f'"evidence":{{"{judge}":"they say that they would rather not be alone"}},'
        f'"usage":{_USAGE},"parts":{{}}}}}}\n'
    )
