"""From messages to the token ids that a local model reads: its chat template, BOS exactly once.

A system role is folded into the first user message where the template has none (Gemma's refuses
it, others drop it in silence). A model without a template gets a plain format with headings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
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
#: Templates print today's date. They are given this one, which is Llama's own fallback, so that a
#: prompt is the same tomorrow.
_DATE = datetime(2024, 7, 26, tzinfo=UTC)
#: What stands for transformers' `strftime_now` in a template: functions cannot be passed into one.
_TODAY = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(f" | replace('%{code}', '{_DATE.strftime('%' + code)}')" for code in "aAbBdHIjmMpSyY")
    + " }}{% endmacro %}"
)
#: What the code of a template may raise.
_FAILURES = (
    *(ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError),
    *(TypeError, ValueError),
)


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
        if self.tokenizer.chat_template:
            return ()
        return tuple(f"\n\n{name}:" for name in _HEADINGS.values())

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
        tail = self._written_ahead(safe)
        tag = opening_span_tag(tail)
        return Prompt(
            ids=tuple(self.encode(text)),
            text=text,
            prefill=tag or "",
            opens_thinking=tail.rfind(THINK_OPEN) > tail.rfind(THINK_CLOSE),
        )

    def _written_ahead(self, messages: Sequence[Message]) -> str:
        """What stands behind the last message: the mark of the reply, and how the reply begins.

        A probe shows where that message ends, since what follows may have its words in it too.
        """
        *before, last = messages
        probed = Message(last.role, f"{last.content} {_PROBE['user']}")
        _, found, tail = self.text([*before, probed]).rpartition(_PROBE["user"])
        return tail if found else ""

    @cached_property
    def turn_ends(self) -> tuple[int, ...]:
        """The special token that the template writes behind a reply, if it writes one.

        A model that was tuned from a base may end its replies with it where neither its generation
        config nor its tokenizer names it.
        """
        if not self.tokenizer.chat_template:
            return ()
        chat = [Message("user", _PROBE["user"]), Message("assistant", _PROBE["system"])]
        try:
            text = self._render(chat, add_generation_prompt=False)
        except TemplateError:
            return ()
        _, found, tail = text.rpartition(_PROBE["system"])
        if not found:
            return ()
        ids: list[int] = self.tokenizer(tail.lstrip(), add_special_tokens=False).input_ids
        return tuple(number for number in ids[:1] if number in mark_ids(self.tokenizer))

    def encode(self, text: str) -> list[int]:
        """The token ids of a whole prompt: one BOS where the tokenizer begins texts with one."""
        # Whether it fits is asked elsewhere; `verbose` would warn of it on standard error.
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
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

    @cached_property
    def _dated(self) -> Mapping[str, object]:
        """What makes a template print always the same date."""
        template, day = self.tokenizer.chat_template, {"date_string": _DATE.strftime("%d %b %Y")}
        if isinstance(template, str) and "strftime_now" in template:
            return {**day, "chat_template": _TODAY + template}
        return day

    def _render(self, messages: Sequence[Message], **switches: object) -> str:
        import jinja2

        if self.thinking is not None:
            switches = {"enable_thinking": self.thinking} | switches
        chat = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text: str = self.tokenizer.apply_chat_template(
                chat,
                tokenize=False,
                **{"add_generation_prompt": True, **self._dated} | switches,
            )
        except jinja2.TemplateError as error:
            why = " ".join(str(error).split())
            raise TemplateError(f"its chat template refuses these messages: {why}") from error
        except _FAILURES as error:
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
