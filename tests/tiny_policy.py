"""A model small enough to learn in a test, and dialogues made of the few words that it knows.

The tokenizer has one token a word. Replies have at most 16 tokens, the end of the turn among them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kardiabench.emotions import EMOTIONS
from kardiabench.spans import SPAN_NAMES, render_spans

TAGS = tuple(f"<|{name}_{end}|>" for name in SPAN_NAMES for end in ("begin", "end"))
MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>", "<unk>")
PLAIN = ("a", "i", "you", "we", "is", "are", "am", "feel", "felt", "today", "now", "so", "very",
         "kind", "system", "user", "assistant")  # fmt: skip
#: What each span but the emotion's is made of: both words, or the first.
UNDERSTANDING = ("they hurt", "they hope", "they worry", "they shine")
REASONING = ("tone tells", "words tell", "past matters", "news matters")
RESPONSE = ("take time", "tell more", "breathe slowly", "that counts", "well done")
SYSTEM = "you are kind"
ASKED = ("i feel {} today", "today i felt {}", "i am so {} now", "we are very {}", "now i am {}")
#: Tokens of the longest reply, its end included.
REPLY_TOKENS = 16
#: What leaves a lesson to reinforcement learning: after so many steps of SFT in batches of 32 at
#: this rate, which falls linearly to 0, about 0.7 of sampled replies are well formed.
SFT_STEPS, SFT_BATCH, SFT_RATE = 60, 32, 6e-3

_TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""


def build_policy(folder: str | Path, *, special_tags: bool, seed: int) -> Path:
    """Save a Qwen 3 of about 76,000 random weights with its tokenizer, and give the folder.

    `special_tags`: the eight span tags are special tokens, else ordinary words.
    """
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    folder = Path(folder)
    tokenizer = build_tokenizer(special_tags=special_tags)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(_config(tokenizer), dtype=torch.float32)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_tokenizer(*, special_tags: bool) -> Any:
    """A tokenizer with one token a word, its chat template in the style of Qwen's."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(_words())}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"<\|[a-z_]+\|>"), "isolated"),
            pre_tokenizers.WhitespaceSplit(),
        ]
    )
    special = [*MARKS, *(TAGS if special_tags else ())]
    raw.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        unk_token="<unk>",
        extra_special_tokens=[*MARKS[:2], *(TAGS if special_tags else ())],
        model_max_length=128,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = _TEMPLATE
    return tokenizer


def write_rows(
    folder: str | Path, *, personas: int = 8, dialogues: int = 64, turns: int = 1, seed: int = 0
) -> Path:
    """Write `train.jsonl` and `test.jsonl` in KardiaBench's schema into `folder`, and give it.

    `dialogues` of `personas` are for training, a quarter as many of others for testing.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    for split, first, count in (("train", 0, dialogues), ("test", dialogues, dialogues // 4)):
        rows = [
            make_row(number, f"{split} {number % personas}", turns, draw)
            for number in range(first, first + count)
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines, "utf-8")
    return folder


def make_row(number: int, persona: str, turns: int, draw: random.Random) -> dict[str, Any]:
    """A dialogue in which the user names an emotion in every message."""
    emotion = draw.choice(EMOTIONS)
    messages = [{"role": "system", "content": SYSTEM}]
    for _ in range(turns):
        messages.append({"role": "user", "content": draw.choice(ASKED).format(emotion)})
        messages.append({"role": "assistant", "content": gold(emotion, draw)})
    return {
        "person": f"persona {persona}",
        "mbti": "INFJ",
        "emotion": emotion,
        "situation": f"situation {number}",
        "anon_username": "someone",
        "messages": messages,
    }


def gold(emotion: str, draw: random.Random) -> str:
    """A reply of at most 15 tokens: one or two words a span, the emotion's always one."""
    spans = [draw.choice(words) for words in (UNDERSTANDING, REASONING, RESPONSE)]
    understanding, reasoning, response = (draw.choice((s, s.split()[0])) for s in spans)
    return render_spans(understanding, reasoning, emotion, response)


def _words() -> Iterator[str]:
    """The vocabulary, every word once."""
    spans = " ".join((*UNDERSTANDING, *REASONING, *RESPONSE)).split()
    yield from dict.fromkeys((*MARKS, *TAGS, *PLAIN, *spans, *EMOTIONS))


def _config(tokenizer: Any) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(
        "qwen3",
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=120,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=128,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
