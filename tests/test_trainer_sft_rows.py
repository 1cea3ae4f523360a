"""Rows of supervised fine-tuning: what the model reads and what it learns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import tiny_policy
from rowdata import exchange, gold, in_memory, make_row, message
from sft_runs import texts, weights

from kardiabench.contracts import RawRow
from kardiabench.errors import DataError, PreflightError
from kardiabench.records import Turn
from kardiabench.rows import read_row, turns_of
from kardiabench.spans import parse_spans
from trainer.sft_rows import IGNORED, Example, GoldReplies, gold_text, write_rows

XML = (
    "<understanding>a</understanding><reasoning>b</reasoning>"
    "<emotion>sad</emotion><response>c</response>"
)


def turns(*replies: str, **changes: Any) -> list[Turn]:
    """The turns of a dialogue with these gold replies."""
    messages = [message("system", "You are kind.")]
    for number, reply in enumerate(replies):
        messages += exchange(f"message {number}", reply)
    row = make_row(messages=messages, **changes)
    return list(turns_of(read_row(RawRow("mem", 1, row))))


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "llama", "mistral"])
@pytest.mark.parametrize("special", [True, False])
def test_a_row_is_the_prompt_of_an_evaluation_and_the_reply_with_its_end(
    family: str, special: bool
) -> None:
    shown = texts(tiny_models.build_tokenizer(family, special_tags=special))
    turn = turns(gold(), gold("sad"))[1]
    (row,) = GoldReplies(shown, 4096).examples([turn])
    assert row.prompt == texts(shown.format.tokenizer).prompt(turn).ids
    assert row.reply[-1] == shown.end_id
    read = shown.reply(turn, row.reply)
    assert read.text == turn.gold and read.finish_reason == "stop"
    assert row.labels == [IGNORED] * len(row.prompt) + list(row.reply)
    assert row.input_ids == [*row.prompt, *row.reply]


def test_a_model_without_a_chat_template_learns_the_plain_format() -> None:
    plain = texts(tiny_models.build_tokenizer(template=None))
    (row,) = GoldReplies(plain, 4096).examples(turns(gold()))
    assert plain.format.tokenizer.decode(row.prompt).endswith("Assistant:\n")
    assert row.reply[-1] == plain.format.tokenizer.eos_token_id


def test_the_other_dialect_of_tags_is_written_as_kardiabench_does() -> None:
    (turn,) = turns(f" {XML} ")
    text = gold_text(turn)
    assert text is not None and parse_spans(text).dialect == "pipe"
    assert parse_spans(text) == replace(parse_spans(XML), dialect="pipe")


def test_a_gold_reply_with_spans_stays_as_it_is() -> None:
    spaced = gold().replace("<|reasoning_begin|>", "\n<|reasoning_begin|>")
    assert gold_text(turns(f"{spaced}\n")[0]) == spaced


def test_replies_without_all_four_spans_are_left_out_and_counted() -> None:
    replies = GoldReplies(texts(tiny_models.build_tokenizer()), 4096)
    rows = list(replies.examples(turns(gold(), "no spans", gold().replace("sad", ""))))
    assert len(rows) == 2 and replies.left_out == 1


def test_a_chat_mark_in_a_gold_reply_cannot_end_it() -> None:
    shown = texts(tiny_models.build_tokenizer())
    (turn,) = turns(gold(response="so <|im_end|> long"))
    (row,) = GoldReplies(shown, 4096).examples([turn])
    assert row.reply.count(shown.end_id) == 1


def test_a_long_history_loses_its_oldest_exchanges_until_the_reply_fits() -> None:
    shown = texts(tiny_models.build_tokenizer())
    turn = turns(*[gold(response="long " * 30)] * 5, gold())[-1]
    (whole,) = GoldReplies(shown, 4096).examples([turn])
    limit = len(whole.input_ids) - 1
    (row,) = GoldReplies(texts(shown.format.tokenizer), limit).examples([turn])
    assert len(row.input_ids) <= limit and row.reply == whole.reply
    text = shown.format.tokenizer.decode(row.prompt)
    assert "message 0" not in text and "message 5" in text and "You are kind." in text


def test_a_turn_that_cannot_be_shortened_enough_is_named() -> None:
    replies = GoldReplies(texts(tiny_models.build_tokenizer()), 40)
    with pytest.raises(PreflightError, match=r"/0: .* longer than max_length 40; raise max_length"):
        list(replies.examples(turns(gold(response="long " * 50))))


TEMPLATE = (
    "{%- for m in messages -%}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant\nTAIL{%- endif -%}"
)


def test_what_a_template_has_written_ahead_is_not_learnt_again() -> None:
    ahead = TEMPLATE.replace("TAIL", "<|understanding_begin|>\n")
    shown = texts(tiny_models.build_tokenizer(template=ahead))
    (turn,) = turns(gold())
    (row,) = GoldReplies(shown, 4096).examples([turn])
    assert shown.format.tokenizer.decode(row.reply).startswith("They are worried.")
    assert shown.reply(turn, row.reply).spans == parse_spans(gold())


def test_a_think_block_that_a_template_opens_is_closed_at_once() -> None:
    opens = TEMPLATE.replace("TAIL", "<think>")
    shown = texts(tiny_models.build_tokenizer("qwen3", think_tags=True, template=opens))
    (turn,) = turns(gold())
    (row,) = GoldReplies(shown, 4096).examples([turn])
    assert shown.reply(turn, row.reply).text == gold()


def test_a_template_that_begins_replies_otherwise_is_refused() -> None:
    shown = texts(tiny_models.build_tokenizer(template=TEMPLATE.replace("TAIL", "<understanding>")))
    with pytest.raises(PreflightError, match="begins every reply with '<understanding>'"):
        list(GoldReplies(shown, 4096).examples(turns(gold())))


def test_rows_come_back_from_the_disk_as_they_were(tmp_path: Path) -> None:
    examples = [Example((1, 2, number), (number, 5)) for number in range(600)]
    rows = write_rows(tmp_path / "rows" / "train.arrow", iter(examples))
    assert rows["labels"][599] == [IGNORED] * 3 + [599, 5]
    assert [list(ids) for ids in rows["input_ids"]] == [one.input_ids for one in examples]
    assert rows.cache_files  # they are mapped, not held
    with pytest.raises(DataError, match="nothing to learn"):
        write_rows(tmp_path / "none.arrow", iter(()))


def test_the_tiny_policy_leaves_a_lesson(tmp_path: Path) -> None:
    folder = tiny_policy.build_policy(tmp_path / "policy", special_tags=False, seed=0)
    rows = tiny_policy.write_rows(tmp_path / "rows", dialogues=20)
    assert 70_000 < sum(w.numel() for w in weights(folder).values()) < 80_000
    tokens = tiny_policy.build_tokenizer(special_tags=False)
    lines = [json.loads(line) for line in (rows / "train.jsonl").open()]
    every = [turn for raw in in_memory(lines).rows() for turn in turns_of(read_row(raw))]
    for row in GoldReplies(texts(tokens), 128).examples(every):
        assert len(row.reply) <= tiny_policy.REPLY_TOKENS
        assert tokens.unk_token_id not in row.input_ids
