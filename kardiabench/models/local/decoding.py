"""From token ids to a reply: span tags are kept even where they are special tokens.

`skip_special_tokens=True`, which most harnesses decode with, deletes the spans of a model whose
tokenizer has the tags as special tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from kardiabench.models.local.chat import Prompt
from kardiabench.models.local.marks import THINK_CLOSE, THINK_OPEN, mark_ids
from kardiabench.records import Completion, TokenChances, Usage, clean_text
from kardiabench.spans import strip_thinking

_THOUGHT = re.compile(r"<think(?:ing)?>(.*?)(?:</think(?:ing)?>|\Z)", re.DOTALL)
_ENDS_THINKING = re.compile(r"</think(?:ing)?>")
_BEGINS_THINKING = re.compile(r"<think(?:ing)?>")


class ReplyDecoder:
    """Decodes replies of one tokenizer: drops BOS, EOS, padding and chat marks, keeps span tags.

    `eos_ids` are the ids that end a reply, by the generation config and the tokenizer. `stops` are
    texts that end one.
    """

    def __init__(self, tokenizer: Any, eos_ids: Sequence[int], stops: Sequence[str] = ()) -> None:
        self.tokenizer = tokenizer
        self.eos_ids = frozenset(eos_ids)
        self.stops = tuple(stops)
        self._dropped = mark_ids(tokenizer) | self.eos_ids

    def text(self, ids: Sequence[int]) -> str:
        """What `ids` say, up to the first stop."""
        return self.until_stop(self.whole(ids))

    def whole(self, ids: Sequence[int]) -> str:
        """What `ids` say, stops and what follows them too."""
        kept = [number for number in ids if number not in self._dropped]
        text: str = self.tokenizer.decode(
            kept, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    def until_stop(self, text: str) -> str:
        """`text` up to the first stop."""
        places = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        return text[: min(places)] if places else text

    def stopped(self, ids: Sequence[int]) -> bool:
        """Whether the last of `ids` completed a stop: the last tokens are looked at."""
        if not self.stops:
            return False
        tail = self.whole(ids[-16:])
        return any(stop in tail for stop in self.stops)

    def thought(self, ids: Sequence[int], *, opened: bool) -> int:
        """How many of `ids` are thinking, where the tag that ends it is a token; else 0."""
        begin, close = self._think_ids
        if close is not None and close in ids:
            return len(ids) - list(reversed(ids)).index(close)
        return len(ids) if opened or (begin is not None and begin in ids) else 0

    @cached_property
    def _think_ids(self) -> tuple[int | None, int | None]:
        """The ids of the tags around thinking; asked for once, since tokenizers are slow to say."""
        return self._token(THINK_OPEN), self._token(THINK_CLOSE)

    def _token(self, tag: str) -> int | None:
        """The id of a tag that is one token; None where it is spelt out."""
        number: int | None = self.tokenizer.convert_tokens_to_ids(tag)
        return None if number == self.tokenizer.unk_token_id else number


def split_thinking(text: str) -> tuple[str, str]:
    """The thinking in `text` and the answer without it. A block that was cut off has no answer."""
    first_end, first_begin = _ENDS_THINKING.search(text), _BEGINS_THINKING.search(text)
    if first_end is None and first_begin is None:
        return "", text
    if first_end and (first_begin is None or first_end.start() < first_begin.start()):
        text = THINK_OPEN + text  # the template had opened the block
    thoughts = (thought.strip() for thought in _THOUGHT.findall(text))
    return "\n\n".join(filter(None, thoughts)), strip_thinking(text).strip()


def completion_of(
    decoder: ReplyDecoder,
    prompt: Prompt,
    ids: Sequence[int],
    finish_reason: str,
    *,
    latency: float = 0.0,
    cached_tokens: int = 0,
    chances: Sequence[TokenChances] = (),
) -> Completion:
    """The reply that `ids` are to `prompt`: its prefill put back, thinking apart from the answer.

    `finish_reason` is `stop` or `length`; `latency` is in seconds, `cached_tokens` of the prompt's
    were not computed for it.
    """
    opened = THINK_OPEN if prompt.opens_thinking else ""
    reasoning, answer = split_thinking(opened + prompt.prefill + decoder.text(ids))
    return Completion(
        text=clean_text(answer),
        reasoning=clean_text(reasoning),
        finish_reason=finish_reason,
        status="truncated" if finish_reason == "length" else "ok",
        usage=Usage(
            calls=1,
            prompt_tokens=len(prompt.ids),
            completion_tokens=len(ids),
            reasoning_tokens=decoder.thought(ids, opened=prompt.opens_thinking),
            cached_tokens=cached_tokens,
        ),
        latency=round(latency, 4),
        text_source="token_ids",
        chances=tuple(chances),
    )
