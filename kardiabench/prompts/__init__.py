"""What a model is sent for a turn: system prompt and history, both keys of the protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kardiabench.contracts import Identity
from kardiabench.emotions import EMOTIONS
from kardiabench.errors import ConfigError
from kardiabench.fingerprints import digest
from kardiabench.records import Dialogue, Message, Turn
from kardiabench.spans import parse_spans

if TYPE_CHECKING:
    from jinja2 import Template

HistoryMode = Literal["gold", "free"]
HistoryContent = Literal["spans", "response"]

#: Words that a response is asked to stay near; the paper's authors ask for about 30 tokens.
RESPONSE_WORDS = 25


@dataclass(frozen=True)
class PromptPlan:
    """How prompts are built.

    `system` is `dataset` (the row's own system prompt, our template where it has none), `kardia`
    (our template) or the path of a jinja2 template with the variables `profile`, `situation`,
    `emotions` and `response_words`. `content` says whether the assistant's earlier messages keep
    all four spans or only the response. `truncate` leaves out the oldest exchanges of a history
    that the model's context cannot hold; `guided` constrains replies to the four spans.
    """

    system: str = "dataset"
    history: HistoryMode = "gold"
    content: HistoryContent = "spans"
    truncate: bool = False
    guided: bool = False

    @cached_property
    def source(self) -> str:
        """The text of the template in use."""
        if self.system in ("dataset", "kardia"):
            return (files(__name__) / "kardia.j2").read_text("utf-8")
        try:
            return Path(self.system).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"--system-prompt {self.system}: not a readable text file ({error}); "
                "give 'dataset', 'kardia' or the path of a template"
            ) from error

    @property
    def identity(self) -> Identity:
        """The protocol's part: modes, and a hash of the template and of what it is filled with.

        The template's path is not in it.
        """
        named = self.system if self.system in ("dataset", "kardia") else "file"
        return {
            "history": self.history,
            "history_content": self.content,
            "system_prompt": named,
            "system_prompt_hash": digest([self.source, EMOTIONS, RESPONSE_WORDS]),
            # Only where they are asked for: a protocol from before there were any keeps its id.
            **({"truncate_history": True} if self.truncate else {}),
            **({"guided_spans": True} if self.guided else {}),
        }

    def check(self) -> None:
        """Raise `ConfigError` when the template cannot be read or rendered."""
        self.render("profile", "situation")

    def system_prompt(self, dialogue: Dialogue) -> str:
        """The system prompt of `dialogue`'s turns."""
        if self.system == "dataset" and dialogue.system is not None:
            return dialogue.system
        return self.render(dialogue.profile, dialogue.situation)

    def messages(self, turn: Turn) -> tuple[Message, ...]:
        """The prompt of `turn`: system prompt, then its history, which ends with the user's."""
        system, history = Message("system", self.system_prompt(turn.dialogue)), turn.history
        if self.content == "response":
            return (system, *map(_response_only, history))
        return (system, *history)

    def render(self, profile: str, situation: str) -> str:
        """The template filled in; data are values and never template source."""
        try:
            text: str = self._template.render(
                profile=profile,
                situation=situation,
                emotions=EMOTIONS,
                response_words=RESPONSE_WORDS,
            )
        except ConfigError:
            raise
        except Exception as error:  # a template can fail in any way that an expression can
            raise self._unusable(error) from error
        return text.strip()

    @cached_property
    def _template(self) -> Template:
        import jinja2
        from jinja2.sandbox import SandboxedEnvironment

        # Prompts are plain text for a model, so HTML escaping would only falsify them.
        environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=False)
        try:
            return environment.from_string(self.source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> ConfigError:
        line = getattr(error, "lineno", None)
        return ConfigError(
            f"--system-prompt {self.system}{f' line {line}' if line else ''}: {error}; a template "
            "may use profile, situation, emotions and response_words"
        )


def in_own_words(turn: Turn, said: Sequence[str]) -> Turn:
    """The turn as it is in history mode `free`: the model's own earlier replies, `said`.

    The dataset's user messages stay. Whoever reads the turn's history, the judges too, then reads
    the conversation that the model really had.
    """
    messages = [m for m in turn.dialogue.messages[: turn.end] if m.role == "system"]
    users = [message for message in turn.history if message.role == "user"]
    for user, reply in zip_longest(users, said[: len(users) - 1]):
        messages.append(user)
        if reply is not None:
            messages.append(Message("assistant", reply))
    dialogue = replace(turn.dialogue, messages=tuple(messages))
    return replace(turn, dialogue=dialogue, end=len(messages))


def _response_only(message: Message) -> Message:
    if message.role != "assistant":
        return message
    response = parse_spans(message.content).response
    # A text without a response span is all that was said: dropping it would falsify the history.
    return message if response is None else Message("assistant", response)
