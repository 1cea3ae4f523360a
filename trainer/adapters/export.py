"""A recipe's training data as rows for another engine: prompts, and which turn each is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kardiabench.errors import ConfigError, did_you_mean
from kardiabench.models.local.marks import disarmed
from kardiabench.plugins import load_registry
from kardiabench.records import ChatRequest, Message, Turn
from kardiabench.shortening import without_oldest
from trainer.adapters.scoring import read_texts
from trainer.data import open_data
from trainer.texts import Texts

if TYPE_CHECKING:
    from trainer.config import Grpo

ENGINES = ("verl", "openrlhf", "swift")
_SOURCE = "kardiabench"


def export(stage: Grpo, engine: str, path: Path) -> list[str]:
    """Write the rows to train on to `path`, and those of held-out personas beside it.

    verl gets Parquet where `path` ends so, else JSON lines, as the others do. Returns sentences
    about what was written. Raises a `KardiaBenchError`, one sentence.
    """
    if engine not in ENGINES:
        raise ConfigError(f"--engine {engine}: {did_you_mean(engine, ENGINES)}")
    if path.suffix not in (".jsonl", ".json", *((".parquet",) if engine == "verl" else ())):
        raise ConfigError(f"{path}: {engine} reads JSON lines; give a name that ends in .jsonl")
    registry = load_registry([str(plugin) for plugin in stage.plugins])
    data = open_data(stage.data, stage.held_out, registry)
    texts = read_texts(stage)
    parts = {path: data.train, path.with_stem(f"{path.stem}.held-out"): data.held_out}
    said = list(data.notes)
    for place, turns in parts.items():
        if turns:
            _write(place, [_row(engine, texts, turn, n) for n, turn in enumerate(turns)])
            said.append(f"{len(turns)} rows for {engine}: {place}")
    said.append("they are the dataset's text under its licence: keep them to yourself")
    return said


def prompt_messages(texts: Texts, turn: Turn) -> list[dict[str, str]]:
    """The prompt's messages so that the chat template itself makes `texts.prompt(turn)` of them.

    Marks of the chat inside a message are disarmed, the system prompt is folded into the first
    user's message where the template has no system role, and the oldest exchanges are left out
    where the recipe's `max_prompt_tokens` wants it.
    """
    messages = _shortened(texts, turn)
    safe = [Message(m.role, disarmed(m.content, texts.format.tokenizer)) for m in messages]
    if texts.format.kind == "folded" and safe[0].role == "system":
        system, first, *rest = safe
        safe = [Message("user", f"{system.content}\n\n{first.content}"), *rest]
    return [{"role": message.role, "content": message.content} for message in safe]


def _shortened(texts: Texts, turn: Turn) -> Sequence[Message]:
    wanted, left_out = texts.prompt(turn).ids, 0
    request = ChatRequest(texts.plan.messages(turn), turn.id)
    shorter: ChatRequest | None = request
    while shorter is not None and texts.format.prompt(shorter.messages).ids != wanted:
        left_out += 1
        shorter = without_oldest(request, left_out)
    return request.messages if shorter is None else shorter.messages


def _row(engine: str, texts: Texts, turn: Turn, number: int) -> dict[str, Any]:
    if engine == "openrlhf":  # its own templating splits and strips what messages say
        return {"input": _prompt_text(texts, turn), "label": turn.id}
    messages = prompt_messages(texts, turn)
    if engine == "swift":
        return {"messages": messages, "turn_id": turn.id}
    return {
        "data_source": _SOURCE,
        "prompt": messages,
        "ability": "emotional support",
        "reward_model": {"style": "rule", "ground_truth": turn.id},
        "extra_info": {"index": number, "turn_id": turn.id},
    }


def _prompt_text(texts: Texts, turn: Turn) -> str:
    """The prompt with its BOS, which OpenRLHF does not add."""
    prompt, bos = texts.prompt(turn), texts.format.tokenizer.bos_token
    lacks = texts.format.begins_with_bos and not prompt.text.startswith(bos)
    return bos + prompt.text if lacks else prompt.text


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(list(rows)), path)
        return
    with path.open("w", encoding="utf-8") as file:
        file.writelines(_lines(rows))


def _lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for row in rows:
        yield json.dumps(row, ensure_ascii=False) + "\n"
