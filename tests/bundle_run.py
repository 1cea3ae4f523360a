"""A run with everything that a bundle can have, and words in it that no bundle may have."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from rundata import StubJudge, make_manifest, make_run, make_turn, say

from judges.emotion import EmotionJudge
from judges.format import FormatJudge
from kardiabench.anchors import anchors_fingerprint, load_anchors
from kardiabench.bundle_archive import INDEX, checksum, dump_json, write_archive
from kardiabench.bundle_packing import pack_run
from kardiabench.calibration import keep_calibration, make_calibration
from kardiabench.cards import keep_cards
from kardiabench.emotions import EMOTIONS
from kardiabench.fingerprints import digest, fingerprint
from kardiabench.manifests import read_manifest
from kardiabench.records import Dimension, Item, Reply, Usage, Verdict
from kardiabench.store import ANCHORS, verdict_lines

SECRET = "XYZZY"
#: Stands in replies and evidence, which may go out.
SAID = "PLUGH"
HOME = f"/home/{SECRET}/runs"
WEIGHTS = {"format": 1.0, "emotion": 1.0, "rubric": 2.0}
DIMENSIONS = tuple(Dimension(name, 1.0, 5.0, f"how {name}") for name in ("warm", "clear"))
RUBRIC = StubJudge(lambda item: {}, "rubric", DIMENSIONS)
RUBRIC.identity = {"judge": "rubric", "version": "x", "model": {"model": "openai/judge"}}
MARK = fingerprint(RUBRIC.identity)


def rated(item: Item, number: int) -> Verdict:
    """Two samples and their mean, or a failure on every fifth turn."""
    usage = Usage(2, 100 + number, 7, 3, 1, 0.01 * number)
    if number % 5 == 4:
        why = {"judge": f"timeout: see {HOME}/log"}
        scores = dict.fromkeys([d.name for d in DIMENSIONS])
        return Verdict(item.turn.id, "rubric", MARK, scores, "error", why, usage)
    first, second = 1.0 + number % 4, 1.0 + number % 3
    parts = {"1": {"warm": first, "clear": 5.0}, "2": {"warm": second, "clear": None}}
    scores = {"warm": (first + second) / 2, "clear": 5.0}
    evidence = {"warm": f"{SAID} is quoted"}
    return Verdict(item.turn.id, "rubric", MARK, scores, "partial", evidence, usage, parts)


def item_of(number: int) -> Item:
    secret = {"profile": SECRET, "situation": SECRET, "mbti": SECRET}
    turn = make_turn(
        f"d{number // 2}", number % 2, f"p{number // 2 % 3}", EMOTIONS[number % 7], **secret
    )
    text = say(EMOTIONS[number % 5], f"{SAID} {'word ' * number}")
    reply = Reply(turn.id, text, usage=Usage(1, 50, number, cost=0.5), latency=1.0 + number)
    changes: dict[int, dict[str, Any]] = {
        3: {"text": f"no spans, {SAID}", "finish_reason": "stop"},
        5: {"status": "truncated", "finish_reason": f"length of {SECRET}"},
        7: {"text": "", "status": "error", "detail": f"timeout: {SECRET} at {HOME}"},
        8: {"text": "", "status": "error", "detail": f"{SECRET} without a kind"},
    }
    return Item(turn, replace(reply, **changes.get(number, {})))


def judged(number: int) -> tuple[Any, Reply, Sequence[Verdict]]:
    item = item_of(number)
    rules = [asyncio.run(judge.judge([item]))[0] for judge in (FormatJudge(), EmotionJudge())]
    return item.turn, item.reply, [*rules, rated(item, number)]


def with_data(manifest: dict[str, Any], turns: int, dialogues: Sequence[str], personas: int):
    """`manifest` with the parts of the protocol that say what was asked, and of what data."""
    protocol = manifest["protocol"] | {
        "dataset": {
            "fingerprint": digest(sorted(dialogues)),
            "dialogues": len(dialogues),
            "turns": turns,
            "personas": personas,
        },
        "prompts": {
            "history": "gold",
            "history_content": "spans",
            "system_prompt": "dataset",
            "system_prompt_hash": "0" * 16,
        },
        "gold_emotion": {"span": turns, "dialogue": 0},
    }
    created = "2026-01-02T03:04:05+00:00"
    made = {"protocol": protocol, "protocol_id": digest(protocol), "created": created}
    return manifest | made


def a_manifest(turns: int, **changes: Any) -> dict[str, Any]:
    manifest = make_manifest([FormatJudge(), EmotionJudge(), RUBRIC], turns, WEIGHTS)
    dialogues = [f"d{number}" for number in range((turns + 1) // 2)]
    manifest = with_data(manifest, turns, dialogues, min(3, len(dialogues)))
    name = f"replay/{HOME}/replies.jsonl"
    return {
        **manifest,
        "config": {
            "model": name,
            "dataset": f"{HOME}/test.jsonl",
            "api_base": f"http://{SECRET}.example:8000/v1",
            "judge_api_base": f"http://{SECRET}.example:8001/v1",
            "judge_model": "openai/judge",
            "judges": [f"rubric:api_base=http://{SECRET}.example/v1,model=openai/judge"],
            "plugins": [f"{HOME}/my_judge.py"],
            "system_prompt": f"{HOME}/prompt.j2",
            "model_args": {"top_p": 0.5, "user": SECRET, "extra_body": {"top_k": 3, "tag": SECRET}},
            "max_tokens": 512,
            "weights": WEIGHTS,
            "of_a_later_version": SECRET,
        },
        "model": {"name": name, "identity": {"backend": "replay", "model": name, "seed": 1}},
        "dataset": {"name": f"{HOME}/test.jsonl", "split": "test", "sha256": "0" * 64},
        "rows": {"read": 9, "skipped": 1, "examples": [f"test.jsonl line 3: {SECRET!r}"]},
        "environment": {
            "python": "3.11.7",
            "platform": f"Linux-{SECRET}-x86_64",
            "packages": {"numpy": "2.4.6", "vllm": None},
            "plugins": {"judges.mine": f"{HOME}/my_judge.py", "models.x": "their-package 1.2"},
            "host": SECRET,
        },
        **changes,
    }


def a_card(**sections: Any) -> dict[str, Any]:
    scores = {a.id: {d.name: {"mean": 3.0, "n": 3} for d in DIMENSIONS} for a in load_anchors()}
    return {
        "card_version": 1,
        "judge": "rubric",
        "fingerprint": MARK,
        "identity": dict(RUBRIC.identity),
        "smoke_test": False,
        "dimensions": [{"name": d.name, "low": d.low, "high": d.high} for d in DIMENSIONS],
        "anchors": {
            "fingerprint": anchors_fingerprint(),
            "repeats": 3,
            "measured": "2026-01-01T00:00:00+00:00",
            "scores": scores,
        },
        "check": {"findings": ["warm: no spread"], "measured": "2026-01-01T00:00:00+00:00"},
    } | sections


def a_calibration() -> dict[str, Any]:
    rectifier = {"mean": 0.25, "standard_error": 0.1, "df": 2, "clusters": 3}
    people = {"by_persona": {"p0": 0.1, "p1": 0.2, SECRET: 0.3}}
    curve = {"x": [1.0, 5.0], "y": [1.5, 4.0], "low": 1.0, "high": 5.0, "items": 30}
    curves = {"warm": curve | {"rectifier": rectifier | people}}
    ratings = {"sha256": "1" * 64, "raters": 3, "items": 30}
    return make_calibration("rubric", MARK, curves, {"clear": f"clear: {HOME}/x"}, ratings)


def a_run(path: Path, turns: int = 12, planned: int | None = None, **changes: Any) -> Path:
    """A run of `turns` turns on local data, with a card, a calibration and scores of anchors."""
    manifest = a_manifest(turns if planned is None else planned, **changes)
    make_run(path, manifest, [judged(number) for number in range(turns)])
    keep_cards(path, {"rubric": a_card(later=SECRET)})
    keep_calibration(path, a_calibration())
    lines = []
    for place, anchor in enumerate(load_anchors()):
        scores = {"warm": 3.0 + 0.25 * (place % 3), "clear": 3.0}
        evidence = {"warm": SECRET}
        verdict = Verdict(anchor.item.turn.id, "rubric", MARK, scores, "ok", evidence)
        lines.append(verdict_lines(anchor.item.reply, [verdict]))
    (path / ANCHORS).write_bytes(b"".join(lines))
    assert read_manifest(path)["protocol_id"] == manifest["protocol_id"]
    return path


def a_bundle(folder: Path, **options: Any) -> Path:
    """A bundle of such a run."""
    return pack_run(a_run(folder / "run"), folder / "one.kardia.zip", **options).path


def members(bundle: Path) -> dict[str, bytes]:
    with ZipFile(bundle) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewrite(
    bundle: Path, member: str, change: Callable[[bytes], bytes], *, fix: bool = True
) -> Path:
    """Change a member; with `fix` its checksum too, as somebody would who wants to cheat."""
    content = members(bundle)
    content[member] = change(content[member])
    if fix:
        index = json.loads(content[INDEX])
        index["members"] |= {n: checksum(c) for n, c in content.items() if n in index["members"]}
        content[INDEX] = dump_json(index)
    write_archive(bundle, content)
    return bundle


def edit_json(change: Callable[[Any], None]) -> Callable[[bytes], bytes]:
    """For `rewrite`: change the object that a member is, in place."""

    def edit(content: bytes) -> bytes:
        value = json.loads(content)
        change(value)
        return dump_json(value)

    return edit


def edit_row(number: int, change: Callable[[Any], None]) -> Callable[[bytes], bytes]:
    """For `rewrite`: change one line, in place."""

    def edit(content: bytes) -> bytes:
        lines = content.splitlines()
        row = json.loads(lines[number])
        change(row)
        lines[number] = json.dumps(row).encode()
        return b"".join(line + b"\n" for line in lines)

    return edit
