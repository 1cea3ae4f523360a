"""Datasets of any size for benchmarks, in KardiaBench's schema, text of the right length."""

from __future__ import annotations

import json
import random
from pathlib import Path

from kardiabench.emotions import EMOTIONS
from kardiabench.spans import render_spans

_WORDS = [
    "the",
    "a",
    "my",
    "his",
    "her",
    "it",
    "was",
    "and",
    "but",
    "then",
    "with",
    "from",
    "over",
    "after",
    "when",
    "nobody",
    "somebody",
    "evening",
    "garden",
    "letter",
    "kitchen",
    "window",
    "sister",
    "work",
    "week",
    "quiet",
    "road",
    "money",
    "rain",
    "call",
    "friend",
    "night",
    "morning",
    "house",
    "said",
    "asked",
    "thought",
    "knew",
    "waited",
    "left",
    "stayed",
    "wanted",
    "forgot",
    "kept",
    "told",
    "heard",
    "lost",
    "found",
]


def write_dataset(path: Path, *, dialogues: int, personas: int, exchanges: int = 8) -> Path:
    """Write `dialogues` rows over `personas` profiles, the same ones every time."""
    rng = random.Random(0)
    profiles = [_profile(rng, number) for number in range(personas)]
    with path.open("w", encoding="utf-8") as file:
        for number in range(dialogues):
            row = _row(rng, number, profiles[number % personas], exchanges)
            file.write(json.dumps(row) + "\n")
    return path


def write_replies(dataset: Path, path: Path) -> Path:
    """Write a reply to every turn of `dataset`, for `replay/`: well formed, label at random."""
    from kardiabench.dialogues import load
    from kardiabench.sources import open_path

    rng = random.Random(1)
    with path.open("w", encoding="utf-8") as file:
        for turn in load(open_path(str(dataset), None, None)).turns():
            text = _spans(rng, rng.choice(EMOTIONS))
            file.write(json.dumps({"turn_id": turn.id, "text": text}) + "\n")
    return path


def _row(rng: random.Random, number: int, profile: str, exchanges: int) -> dict[str, object]:
    emotion = EMOTIONS[number % len(EMOTIONS)]
    messages = [{"role": "system", "content": f"{profile}\n{_text(rng, 150)}"}]
    for _ in range(exchanges):
        messages.append({"role": "user", "content": _text(rng, 51)})
        messages.append({"role": "assistant", "content": _spans(rng, emotion)})
    return {
        "person": profile,
        "mbti": "INFP",
        "emotion": emotion,
        "situation": f"{number} {_text(rng, 30)}",
        "anon_username": f"user{number}",
        "messages": messages,
    }


def _profile(rng: random.Random, number: int) -> str:
    return f"MBTI: INFP\nAbout: {number} {_text(rng, 120)}\nSignature: {_text(rng, 8)}"


def _spans(rng: random.Random, emotion: str) -> str:
    return render_spans(_text(rng, 41), _text(rng, 53), emotion, _text(rng, 27))


def _text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(_WORDS, k=words))
