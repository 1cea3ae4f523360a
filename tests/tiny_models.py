"""Tiny language models with random weights, real in everything else: config, weights, tokenizer.

Each family is what transformers has under that name, with its own attention pattern, its style of
chat template, its BOS and its EOS. Weights are drawn wider than for training, so that what a model
writes varies with the prompt and sometimes ends.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from kardiabench.rows import read_row
from kardiabench.sources import open_sample
from kardiabench.spans import SPAN_NAMES

FAMILIES = ("qwen2", "qwen3", "gemma2", "gemma3_text", "llama", "mistral")
SPAN_TAGS = tuple(f"<|{name}_{end}|>" for name in SPAN_NAMES for end in ("begin", "end"))
THINK_TAGS = ("<think>", "</think>")
#: Layers that look back over so many tokens only, where the family has such layers.
WINDOW = 16
_TAG = re.compile("|".join(map(re.escape, SPAN_TAGS)))
#: The template that belongs to the family.
FAMILY = "family"

_CHATML = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""
#: Thinking before the last user's message is dropped; off means an empty block to go on from.
_CHATML_THINKING = """\
{%- set ns = namespace(last=-1) -%}
{%- for message in messages -%}
{%- if message.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
{%- set content = message.content -%}
{%- if message.role == 'assistant' and '</think>' in content and loop.index0 < ns.last -%}
{%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
{%- endif -%}
{{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- if enable_thinking is defined and enable_thinking is false -%}
{{- '<think>\\n\\n</think>\\n\\n' -}}
{%- endif -%}
{%- endif -%}
"""
_GEMMA = """\
{{ bos_token }}
{%- if messages[0].role == 'system' -%}
{{ raise_exception('System role not supported') }}
{%- endif -%}
{%- for message in messages -%}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif -%}
{%- set role = 'model' if message.role == 'assistant' else message.role -%}
{{ '<start_of_turn>' + role + '\\n' + message.content | trim + '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}
"""
_LLAMA = """\
{{- bos_token -}}
{%- for message in messages -%}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' -}}
{{- message.content | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
{%- endif -%}
"""
_MISTRAL = """\
{{- bos_token -}}
{%- set ns = namespace(system='') -%}
{%- for message in messages -%}
{%- if message.role == 'system' -%}
{%- set ns.system = message.content + '\\n\\n' -%}
{%- elif message.role == 'user' -%}
{{- '[INST] ' + ns.system + message.content + '[/INST]' -}}
{%- set ns.system = '' -%}
{%- else -%}
{{- ' ' + message.content + eos_token -}}
{%- endif -%}
{%- endfor -%}
"""

#: Per family: BOS, tokens that end a reply (the first is the tokenizer's EOS), padding, chat marks
#: that end nothing, template. BOS is put before every text by the tokenizer itself, except Qwen's.
_SPECIAL: dict[str, tuple[str | None, tuple[str, ...], str, tuple[str, ...], str]] = {
    "qwen2": (None, ("<|im_end|>", "<|endoftext|>"), "<|endoftext|>", ("<|im_start|>",), _CHATML),
    "qwen3": (
        None,
        ("<|im_end|>", "<|endoftext|>"),
        "<|endoftext|>",
        ("<|im_start|>",),
        _CHATML_THINKING,
    ),
    "gemma2": ("<bos>", ("<eos>", "<end_of_turn>"), "<pad>", ("<start_of_turn>",), _GEMMA),
    "gemma3_text": ("<bos>", ("<eos>", "<end_of_turn>"), "<pad>", ("<start_of_turn>",), _GEMMA),
    "llama": (
        "<|begin_of_text|>",
        ("<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"),
        "<|finetune_right_pad_id|>",
        ("<|start_header_id|>", "<|end_header_id|>"),
        _LLAMA,
    ),
    "mistral": ("<s>", ("</s>",), "<pad>", ("[INST]", "[/INST]"), _MISTRAL),
}


def build(
    folder: str | Path,
    family: str = "qwen2",
    *,
    special_tags: bool = True,
    think_tags: bool | None = None,
    template: str | None = FAMILY,
    add_bos: bool | None = None,
    context: int = 2048,
    seed: int = 0,
    hidden: int = 32,
    layers: int = 4,
    scale: float = 0.5,
    dtype: str = "float32",
    config: dict[str, Any] | None = None,
    generation: dict[str, Any] | None = None,
    max_shard_size: str | int = "5GB",
) -> Path:
    """Save a tiny model of `family` with its tokenizer into `folder`, and give the folder.

    `special_tags`: the eight span tags are special tokens, else ordinary text. `think_tags`: the
    think tags are tokens of their own (by default Qwen 3's only). `template` None makes a base
    model. `add_bos`: the tokenizer puts BOS first (by default where the family has one). `scale`
    is the spread of the weights. `config` and `generation` are further keys of their files.
    """
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    folder = Path(folder)
    tokenizer = build_tokenizer(
        family,
        special_tags=special_tags,
        think_tags=family == "qwen3" if think_tags is None else think_tags,
        template=template,
        add_bos=add_bos,
        context=context,
    )
    settings = _config(family, tokenizer, context, hidden, layers, config or {})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(settings, dtype=getattr(torch, dtype))
        _spread(model, scale)
    ends = [tokenizer.convert_tokens_to_ids(token) for token in _SPECIAL[family][1]]
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends if len(ends) > 1 else ends[0],
        pad_token_id=tokenizer.pad_token_id,
        **(generation or {}),
    )
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    tokenizer.save_pretrained(folder)
    return folder


def build_tokenizer(
    family: str = "qwen2",
    *,
    special_tags: bool = True,
    think_tags: bool = False,
    template: str | None = FAMILY,
    add_bos: bool | None = None,
    context: int = 2048,
) -> Any:
    """A fast byte-level BPE tokenizer with the special tokens and the template of `family`."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    bos, ends, pad, marks, own = _SPECIAL[family]
    raw = Tokenizer.from_str(_byte_pairs())
    names = [*([bos] if bos else []), *ends, pad, *marks]
    raw.add_special_tokens(list(dict.fromkeys([*names, *(SPAN_TAGS if special_tags else ())])))
    if think_tags:
        raw.add_tokens(list(THINK_TAGS))
    if bos and add_bos is not False:
        raw.post_processor = _bos_first(bos, raw.token_to_id(bos))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=bos,
        eos_token=ends[0],
        pad_token=pad,
        extra_special_tokens=[*marks, *(SPAN_TAGS if special_tags else ())],
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = own if template == FAMILY else template
    return tokenizer


def build_adapter(
    folder: str | Path,
    base: str | Path,
    *,
    rank: int = 4,
    seed: int = 1,
    scale: float = 0.5,
    target_modules: Sequence[str] = ("q_proj", "v_proj"),
    base_name: str | None = None,
) -> Path:
    """Save a LoRA adapter for the model in `base` that changes what it writes, and give the folder.

    `base_name` is what its config calls the base; by default the folder.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = Path(folder)
    model = AutoModelForCausalLM.from_pretrained(base)
    lora = LoraConfig(r=rank, target_modules=list(target_modules), task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft's use of transformers
        adapted = get_peft_model(model, lora)
    generator = torch.Generator().manual_seed(seed)
    for name, weights in adapted.named_parameters():
        if "lora_" in name:
            weights.data.normal_(0.0, scale, generator=generator)
    adapted.save_pretrained(folder)
    if base_name is not None:
        path = folder / "adapter_config.json"
        values = json.loads(path.read_text("utf-8")) | {"base_model_name_or_path": base_name}
        path.write_text(json.dumps(values), "utf-8")
    return folder


def _config(
    family: str, tokenizer: Any, context: int, hidden: int, layers: int, more: dict[str, Any]
) -> Any:
    from transformers import AutoConfig

    common = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": context,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
    }
    if family == "qwen2":
        del common["head_dim"]
    return AutoConfig.for_model(family, **common | _attention(family, layers) | more)


def _attention(family: str, layers: int) -> dict[str, Any]:
    """What the family's layers see: all before, or a window; Gemma has both kinds in turn."""
    if family == "mistral":
        return {"sliding_window": WINDOW}
    if family.startswith("gemma"):
        kinds = ["full_attention" if n % 2 else "sliding_attention" for n in range(layers)]
        return {"sliding_window": WINDOW, "layer_types": kinds, "query_pre_attn_scalar": 16}
    return {}


def _spread(model: Any, scale: float) -> None:
    """Draw all matrices wider, and no two layers' norms alike."""
    import torch

    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.normal_(0.0, scale)
            else:
                weights.add_(torch.randn_like(weights) * 0.1)


def _bos_first(bos: str, number: int) -> Any:
    from tokenizers.processors import TemplateProcessing

    return TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, number)]
    )


@cache
def _byte_pairs() -> str:
    """Byte-level BPE over the sample's words: every text comes back from it as it was."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=768, initial_alphabet=alphabet, show_progress=False)
    raw.train_from_iterator(_words(), trainer)
    return str(raw.to_str())


def _words() -> Iterator[str]:
    """Texts of the built-in sample, without its tags."""
    for raw in open_sample("sample", None, None).rows():
        for message in read_row(raw).messages:
            yield _TAG.sub(" ", message.content)
