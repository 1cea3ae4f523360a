"""From messages to the token ids that a local model reads: its chat template, BOS exactly once.

A system role is folded into the first user message where the template has none (Gemma's refuses
it, others drop it in silence). A model without a template gets a plain format with headings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from kardiabench.contracts import Identity
from kardiabench.fingerprints import digest
from kardiabench.models.local.marks import (
    THINK_CLOSE,
    THINK_OPEN,
    disarmed,
    disarmed_headings,
    mark_ids,
    opening_span_tag,
)
from kardiabench.records import Message

Kind = Literal["template", "folded", "plain"]

_HEADINGS: Mapping[str, str] = {"system": "System", "user": "User", "assistant": "Assistant"}
_PROBE = {"system": "kardiabench probe, system", "user": "kardiabench probe, user"}
#: Llama's templates print today's date unless they are given one: this is their own fallback, so
#: that a prompt is the same tomorrow.
_DATE = "26 Jul 2024"


class TemplateError(ValueError):
    """A chat template cannot make a prompt of these messages; the text says why."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is sent. `ids` are token ids, `text` the same with its special tokens.

    `prefill` is the beginning of the reply that the template has written already (an opening span
    tag); `opens_thinking` says whether it has opened a think block.
    """

    ids: tuple[int, ...]
    text: str
    prefill: str = ""
    opens_thinking: bool = False


class ChatFormat:
    """How one tokenizer turns messages into prompts. `thinking` None leaves it to the template."""

    def __init__(self, tokenizer: Any, thinking: bool | None = None) -> None:
        self.tokenizer = tokenizer
        self.thinking = thinking

    @cached_property
    def kind(self) -> Kind:
        """`template` (as it is), `folded` (it has no system role) or `plain` (there is none).

        Raises `TemplateError` for a template that can make no prompt at all.
        """
        if not self.tokenizer.chat_template:
            return "plain"
        probe = [Message("system", _PROBE["system"]), Message("user", _PROBE["user"])]
        if self._shows(probe):
            return "template"
        text = self._render(_folded(probe))
        if all(part in text for part in _PROBE.values()):
            return "folded"
        raise TemplateError("its chat template leaves out what the messages say")

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts at which a reply ends, beside the end tokens: headings of the plain format."""
        return tuple(f"\n\n{name}:" for name in _HEADINGS.values()) if self.kind == "plain" else ()

    @property
    def identity(self) -> Identity:
        """What decides the prompts: the kind of format, the template, and the switch."""
        template = self.tokenizer.chat_template
        return {
            "format": self.kind,
            "template": digest(template) if template else None,
            "thinking": self.thinking,
        }

    @cached_property
    def has_switch(self) -> bool:
        """Whether the template knows `enable_thinking`."""
        if self.kind == "plain":
            return False
        messages = [Message("user", _PROBE["user"])]
        on, off = (self._render(messages, enable_thinking=value) for value in (True, False))
        return on != off

    def text(self, messages: Sequence[Message]) -> str:
        """The prompt as text, with special tokens; raises `TemplateError`."""
        if self.kind == "plain":
            return plain_text(messages)
        return self._render(_folded(messages) if self.kind == "folded" else messages)

    def prompt(self, messages: Sequence[Message]) -> Prompt:
        """The prompt of `messages`, which end with the user's; raises `TemplateError`.

        Chat marks inside a message are disarmed, so that no message can end itself or begin
        another.
        """
        safe = [Message(m.role, disarmed(m.content, self.tokenizer)) for m in messages]
        text = self.text(safe)
        tail = _after_last(text, safe[-1].content)
        tag = opening_span_tag(tail)
        return Prompt(
            ids=tuple(self.encode(text)),
            text=text,
            prefill=tag or "",
            opens_thinking=tail.rfind(THINK_OPEN) > tail.rfind(THINK_CLOSE),
        )

    @cached_property
    def turn_ends(self) -> tuple[int, ...]:
        """The special token that the template writes behind a reply, if it writes one.

        A model that was tuned from a base may end its replies with it where neither its generation
        config nor its tokenizer names it.
        """
        if self.kind == "plain":
            return ()
        chat = [Message("user", _PROBE["user"]), Message("assistant", _PROBE["system"])]
        try:
            text = self._render(chat, add_generation_prompt=False)
        except TemplateError:
            return ()
        tail = text.rpartition(_PROBE["system"])[2].lstrip()
        ids: list[int] = self.tokenizer(tail, add_special_tokens=False).input_ids
        return tuple(number for number in ids[:1] if number in mark_ids(self.tokenizer))

    def encode(self, text: str) -> list[int]:
        """The token ids of a whole prompt: one BOS where the tokenizer begins texts with one."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        bos = self.tokenizer.bos_token_id
        if self.begins_with_bos and ids[:1] != [bos]:
            return [bos, *ids]
        return ids

    @cached_property
    def begins_with_bos(self) -> bool:
        """Whether the tokenizer begins texts with a BOS."""
        bos = self.tokenizer.bos_token_id
        return bos is not None and self.tokenizer("a").input_ids[:1] == [bos]

    def _shows(self, messages: Sequence[Message]) -> bool:
        """Whether the template takes these roles and prints what they say."""
        try:
            text = self._render(messages)
        except TemplateError:
            return False
        return all(message.content in text for message in messages)

    def _render(self, messages: Sequence[Message], **switches: object) -> str:
        import jinja2

        if self.thinking is not None:
            switches = {"enable_thinking": self.thinking} | switches
        chat = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text: str = self.tokenizer.apply_chat_template(
                chat,
                tokenize=False,
                **{"add_generation_prompt": True, "date_string": _DATE} | switches,
            )
        except jinja2.TemplateError as error:
            raise TemplateError(f"its chat template refuses these messages: {error}") from error
        except (TypeError, ValueError, KeyError, IndexError, RecursionError) as error:
            raise TemplateError(f"its chat template fails: {error!r}") from error
        return text


def plain_text(messages: Sequence[Message]) -> str:
    """Messages for a base model: `System:`, `User:` or `Assistant:`, the text below, a blank line.

    The last heading is the assistant's. A line in a message that looks like a heading gets a space
    in front.
    """
    parts = [f"{_HEADINGS[m.role]}:\n{disarmed_headings(m.content)}\n\n" for m in messages]
    return "".join(parts) + "Assistant:\n"


def _folded(messages: Sequence[Message]) -> list[Message]:
    """The system prompt in front of the first user message, with a blank line between."""
    if not messages or messages[0].role != "system":
        return list(messages)
    system, *rest = messages
    if not rest or rest[0].role != "user":
        return [Message("user", system.content), *rest]
    return [Message("user", f"{system.content}\n\n{rest[0].content}"), *rest[1:]]


def _after_last(text: str, content: str) -> str:
    """What stands in `text` behind the last message; all of it where that cannot be told."""
    said = re.sub(r"\s+$", "", content)
    place = text.rfind(said)
    return text[place + len(said) :] if said and place >= 0 else ""
