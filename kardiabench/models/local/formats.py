"""A model's chat format read off its files, without its weights."""

from __future__ import annotations

from kardiabench.contracts import LocalOptions
from kardiabench.models.local.chat import ChatFormat
from kardiabench.models.local.decoding import ReplyDecoder
from kardiabench.models.local.loading import context_of, end_ids, read_files


def read_format(name: str, local: LocalOptions) -> tuple[ChatFormat, ReplyDecoder, int | None]:
    """How prompts are made and replies read by the model `name`, and its context in tokens.

    `name` is without the backend's prefix. Raises as `loading.load`, of what it reads.
    """
    tokenizer, config, generation = read_files(name, local)
    form = ChatFormat(tokenizer, local.thinking)
    ends = (*end_ids(generation, tokenizer), *form.turn_ends)
    context = None if config is None else context_of(config)
    return form, ReplyDecoder(tokenizer, ends, form.stops), context
