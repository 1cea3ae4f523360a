"""A protocol's data files: its dialogues, and their text where it may be shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kardiabench.records import Dialogue
from leaderboard.extract import DialogueNote
from leaderboard.scripts import PACKED, packed, size, write_script
from leaderboard.turn_files import LONGEST, cut

_TITLE = 160
_SHORTER = (2_000, 500, 100, 20)


def write_dialogue_files(
    folder: Path,
    protocol: str,
    notes: Sequence[DialogueNote],
    dialogues: Mapping[str, Dialogue] | None,
) -> None:
    """Write `data/PROTOCOL/dialogues.js` and, with `dialogues` by id, its `text-K.js`."""
    shards, titles = None, None
    if dialogues is not None:
        texts = [_text(dialogues.get(note.id)) for note in notes]
        shards = packed([size(text) for text in texts])
        titles = [_title(text["situation"]) for text in texts]
        _write_texts(folder, protocol, notes, texts, shards)
    index = {
        "ids": [note.id for note in notes],
        "personas": [note.persona for note in notes],
        "emotions": [note.emotion for note in notes],
        "turns": [note.turns for note in notes],
        "shards": shards,
        "titles": titles,
    }
    write_script(folder, f"{protocol}/dialogues", index)


def all_notes(lists: Iterable[Sequence[DialogueNote]]) -> list[DialogueNote]:
    """The dialogues of several runs, by id; of two notes the one with more turns."""
    found: dict[str, DialogueNote] = {}
    for note in (note for notes in lists for note in notes):
        if note.id not in found or found[note.id].turns < note.turns:
            found[note.id] = note
    return [found[name] for name in sorted(found)]


def _title(situation: str) -> str:
    words = " ".join(situation[: 2 * _TITLE].split())
    return words if len(words) <= _TITLE else f"{words[:_TITLE]}…"


def _write_texts(
    folder: Path,
    protocol: str,
    notes: Sequence[DialogueNote],
    texts: Sequence[dict[str, Any]],
    shards: Sequence[int],
) -> None:
    for shard in sorted(set(shards)):
        content = {
            note.id: text
            for note, text, place in zip(notes, texts, shards, strict=True)
            if place == shard
        }
        write_script(folder, f"{protocol}/text-{shard}", content)


def _text(dialogue: Dialogue | None) -> dict[str, Any]:
    """What is shown of a dialogue; cut ever shorter until it fills no file alone."""
    if dialogue is None:
        return {"profile": "", "mbti": "", "situation": "", "messages": []}
    shown = _shown(dialogue, LONGEST)
    for longest in _SHORTER:
        if size(shown) <= PACKED:
            break
        shown = _shown(dialogue, longest)
    return shown


def _shown(dialogue: Dialogue, longest: int) -> dict[str, Any]:
    return {
        "profile": cut(dialogue.profile, longest),
        "mbti": cut(dialogue.mbti, longest),
        "situation": cut(dialogue.situation, longest),
        "messages": [
            {"role": message.role, "content": cut(message.content, longest)}
            for message in dialogue.messages
            if message.role != "system"
        ],
    }
