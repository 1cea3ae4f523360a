"""The span tags as special tokens: one token each, which the model already half understands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kardiabench.spans import SPAN_NAMES

SPAN_TAGS = tuple(f"<|{name}_{end}|>" for name in SPAN_NAMES for end in ("begin", "end"))


def tag_ids(tokenizer: Any) -> list[int]:
    """The ids of the eight tags, each of which has to be one token."""
    return [int(number) for number in tokenizer.convert_tokens_to_ids(list(SPAN_TAGS))]


def add_span_tags(model: Any, tokenizer: Any) -> int:
    """Make the eight span tags special tokens, and return how many of them are new tokens.

    The embedding of a new token, and its row of an output head of its own, begin as the mean of
    those of the pieces that the tag was spelt with. Padded vocabularies grow only past their end.
    A tag that was a word of the vocabulary keeps what it has learnt.
    """
    pieces = {tag: _pieces(tokenizer, tag) for tag in SPAN_TAGS}
    tokenizer.add_special_tokens(
        {"extra_special_tokens": list(SPAN_TAGS)}, replace_extra_special_tokens=False
    )
    ids = dict(zip(SPAN_TAGS, tag_ids(tokenizer), strict=True))
    new = {ids[tag]: spelt for tag, spelt in pieces.items() if spelt != [ids[tag]]}
    if new:
        _give_rows(model, new)
    return len(new)


def trainable_rows(model: Any, tokenizer: Any) -> dict[str, list[int]]:
    """Peft's `trainable_token_indices`: an adapter also learns the tags' rows, and no others.

    By module: the embeddings, and the output head where it is not tied to them.
    """
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    modules = [embeddings]
    if head is not None and head.weight is not embeddings.weight:
        modules.append(head)
    names = {id(module): name for name, module in model.named_modules()}
    return {names[id(module)]: tag_ids(tokenizer) for module in modules}


def _pieces(tokenizer: Any, tag: str) -> list[int]:
    ids: list[int] = tokenizer(tag, add_special_tokens=False).input_ids
    return ids


def _give_rows(model: Any, new: Mapping[int, Sequence[int]]) -> None:
    """Rows for `new` tokens by id, each from those of the pieces it was spelt with."""
    if max(new) >= model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(max(new) + 1, mean_resizing=False)
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    _average(embeddings.weight, new)
    if head is None:
        return
    if head.weight is not embeddings.weight:
        _average(head.weight, new)
    if head.bias is not None:
        _average(head.bias, new)


def _average(weight: Any, new: Mapping[int, Sequence[int]]) -> None:
    import torch

    with torch.no_grad():
        means = [weight[list(spelt)].float().mean(dim=0) for spelt in new.values()]
        for number, mean in zip(new, means, strict=True):
            weight[number] = mean.to(weight.dtype)
