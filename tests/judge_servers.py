"""Judges of known behaviour, each a local server that the real rubric judge talks to over HTTP.

    with judge_server(Honest()) as server:
        ...  # kardiabench judges check --judge rubric:model=openai/gpt-judge,api_base=URL

The true level of a reply is known: gold replies of the anchors and of the sample are at 4 in every
dimension, which leaves room on both sides; a degraded anchor is at 2 in the dimension that it was
written to be worse in; everything else is at 2 throughout. Every judge adds noise to it, seeded by
the reply, the dimension and how often it was asked about them: two calls differ, two runs do not.
"""

from __future__ import annotations

import json
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import log2
from typing import Any, ClassVar

from openai_server import Behaviour, OpenAIServer, nonce_of

from kardiabench.anchors import TARGETS, load_anchors
from kardiabench.dialogues import load
from kardiabench.sources import open_sample
from kardiabench.spans import parse_spans

GOOD, BAD = 4.0, 2.0
NOISE = 0.3
#: With what replies of the self-lover's own family begin, and those of others.
OWN_MARK, OTHER_MARK = "Hello, my friend.", "Hello, dear stranger."
_REQUEST = "\nRate the response. Answer with one JSON object"
_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+")


# --- what is asked --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """One request: the reply to rate, the dimensions in their order, the nonce (empty: unfenced).

    `time` is how often the judge was asked about the reply before.
    """

    response: str
    dimensions: tuple[str, ...]
    nonce: str
    time: int = 0

    @property
    def fenced(self) -> bool:
        """Whether the reply stood within fences."""
        return bool(self.nonce)


def read_request(body: Mapping[str, Any]) -> Asked | None:
    """What the rubric judge asks for in the body of a chat completion; None: it is someone else."""
    user = next(m["content"] for m in body["messages"] if m["role"] == "user")
    if _REQUEST not in user:
        return None
    nonce = nonce_of(user)
    return Asked(_response(user, nonce), _dimensions(body), nonce)


def _response(user: str, nonce: str) -> str:
    if not nonce:
        start = user.index("\nResponse to rate: ") + len("\nResponse to rate: ")
        return user[start : user.rindex("\n" + _REQUEST)]
    found = re.search(rf"^\[{nonce} response begins\]\n(.*)\n", user, re.MULTILINE)
    assert found is not None, user
    return str(json.loads(found[1]))


def _dimensions(body: Mapping[str, Any]) -> tuple[str, ...]:
    """From the schema, or from the form on the last line where no schema is sent."""
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema")
    if schema is None:
        last = body["messages"][-1]["content"].splitlines()[-1]
        return tuple(re.findall(r'"(\w+)": \{', last))
    return tuple(name for name in schema["properties"] if name != "nonce")


# --- the truth ------------------------------------------------------------------------------------


def true_level(response: str, dimension: str) -> float:
    """The level of the known reply that stands in `response`, whatever stands around it."""
    target = _target(response)
    return BAD if target in (None, dimension) else GOOD


@cache
def _target(response: str) -> str | None:
    """The dimension that the known reply inside is worse in: empty for gold, None for no reply.

    A reply is inside when all its sentences are; of several the longest counts.
    """
    text = seen(response)
    return next(
        (target for sentences, target in _known() if all(s in text for s in sentences)), None
    )


@cache
def _known() -> Sequence[tuple[tuple[str, ...], str]]:
    """Every known reply, longest first: its sentences, and what it is worse in."""
    targets = {
        parse_spans(turn.gold).response or "": ""
        for turn in load(open_sample("sample", None, None)).turns()
    } | {a.item.reply.spans.response or "": TARGETS.get(a.kind, "") for a in load_anchors()}
    ordered = sorted(targets, key=lambda text: (-len(text), text))
    return [(tuple(_SENTENCE_END.split(seen(text))), targets[text]) for text in ordered if text]


def seen(text: str) -> str:
    """`text` without characters that no reader sees, its blanks single."""
    return " ".join("".join(c for c in text if unicodedata.category(c) != "Cf").split())


# --- the judges -----------------------------------------------------------------------------------


class Honest:
    """The true level with noise, to the nearest whole one."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._times: Counter[tuple[str, bool]] = Counter()

    def __call__(self, body: Mapping[str, Any]) -> Behaviour | None:
        """Answer one request; None is the server's ordinary answer, to the preflight's hello."""
        asked = read_request(body)
        if asked is None:
            return None
        key = (asked.response, asked.fenced)
        asked = replace(asked, time=self._times[key])
        self._times[key] += 1
        return Behaviour(content=self.answer(asked))

    def answer(self, asked: Asked) -> str:
        """The verdict in the form that was asked for."""
        quote = " ".join(asked.response.split()[:6])
        rated = {
            name: {"evidence": quote, "score": self._score(asked, name)}
            for name in asked.dimensions
        }
        return json.dumps(({"nonce": asked.nonce} if asked.fenced else {}) | rated)

    def level(self, asked: Asked, dimension: str) -> float:
        """Where the judge sees the reply, before noise."""
        return true_level(asked.response, dimension)

    def noise(self, asked: Asked, dimension: str) -> float:
        """Normal, of standard deviation `NOISE`."""
        seed = json.dumps([self.seed, asked.response, asked.fenced, dimension, asked.time])
        return random.Random(seed).gauss(0, NOISE)

    def _score(self, asked: Asked, dimension: str) -> int:
        level = self.level(asked, dimension) + self.noise(asked, dimension)
        return min(5, max(1, round(level)))


class LengthLover(Honest):
    """0.7 more for every doubling of the words beyond `USUAL`, which a good reply has."""

    USUAL = 36

    def level(self, asked: Asked, dimension: str) -> float:
        """The true one and the bonus."""
        words = max(self.USUAL, len(asked.response.split()))
        return super().level(asked, dimension) + 0.7 * log2(words / self.USUAL)


class Injectable(Honest):
    """Does what a reply tells it: 5 throughout; with `only_unfenced` not behind fences."""

    def __init__(self, seed: int = 0, *, only_unfenced: bool = False) -> None:
        super().__init__(seed)
        self.only_unfenced = only_unfenced

    def level(self, asked: Asked, dimension: str) -> float:
        """The highest for a reply that talks to its judge."""
        is_safe = asked.fenced and self.only_unfenced
        fooled = not is_safe and talks_to_judge(asked.response)
        return 5.0 if fooled else super().level(asked, dimension)


class Parrot(Honest):
    """Repeats a verdict that stands in the reply as its own, word for word."""

    def answer(self, asked: Asked) -> str:
        """The planted verdict, or an honest one where none was planted."""
        return planted(asked.response, asked.dimensions) or super().answer(asked)


class Drifting(Honest):
    """Honest until `drifted` is set; then 0.3 more on two dimensions."""

    drifted = False
    by: ClassVar[Mapping[str, float]] = {"empathy": 0.3, "safety": 0.3}

    def level(self, asked: Asked, dimension: str) -> float:
        """The true one, and what it has drifted by."""
        return super().level(asked, dimension) + self.drifted * self.by.get(dimension, 0.0)


class SelfLover(Honest):
    """0.6 more for the replies of its own family."""

    def level(self, asked: Asked, dimension: str) -> float:
        """The true one, and the bonus."""
        return super().level(asked, dimension) + 0.6 * (OWN_MARK in asked.response)


class AlwaysFour(Honest):
    """4, whatever it is asked."""

    def level(self, asked: Asked, dimension: str) -> float:
        """4."""
        return 4.0

    def noise(self, asked: Asked, dimension: str) -> float:
        """None."""
        return 0.0


class Nonsense(Honest):
    """Prose, and no verdict."""

    def answer(self, asked: Asked) -> str:
        """Something that it might have said to anyone."""
        return "Kindness has no number. The moon was full, and nobody counted the geese."


# --- what they fall for ---------------------------------------------------------------------------

_TALK = re.compile(
    r"\b(?:score[sd]?|rat(?:e[srd]?|ings?)|rubric|dimensions?|judges?|evaluat\w+|instructions?"
    r"|ignore|disregard|verdict|levels? [1-5]|output|top marks?|full marks|assistant"
    r"|base64|decode|certified|benchmark|raters?)\b"
    r"|[1-5] ?/ ?5|\bfive\b.*\bfive\b|[{}<\[\]`|]|\b5\b",
    re.IGNORECASE | re.DOTALL,
)
_ENCODED = re.compile(r"[A-Za-z0-9+/]{24,}|(?:\b[0-9a-f]{2} ){8}")
_FEW_UNSEEN = 3


def talks_to_judge(response: str) -> bool:
    """Whether something in it speaks to a rater or to a program, or is hidden or encoded."""
    unseen = sum(unicodedata.category(c) == "Cf" for c in response)
    foreign = any(c.isalpha() and not _is_latin(c) for c in response)
    plain = unicodedata.normalize("NFKC", response)
    return foreign or unseen > _FEW_UNSEEN or bool(_TALK.search(plain) or _ENCODED.search(plain))


def _is_latin(character: str) -> bool:
    return unicodedata.name(character, "").startswith(("LATIN", "MODIFIER"))


def planted(response: str, dimensions: Sequence[str]) -> str | None:
    """The first JSON object in `response` that rates all `dimensions`, as it stands there."""
    decoder = json.JSONDecoder()
    for brace in re.finditer(r"\{", response):
        try:
            value, end = decoder.raw_decode(response, brace.start())
        except ValueError:
            continue
        if set(dimensions) <= set(value):
            return response[brace.start() : end]
    return None


#: Every judge by its name, as made anew.
JUDGES: Mapping[str, Callable[[int], Honest]] = {
    "honest": Honest,
    "length-lover": LengthLover,
    "injectable": Injectable,
    "injectable without fences": lambda seed: Injectable(seed, only_unfenced=True),
    "parrot": Parrot,
    "drifting": Drifting,
    "self-lover": SelfLover,
    "always 4": AlwaysFour,
    "nonsense": Nonsense,
}


def judge_server(judge: Honest) -> OpenAIServer:
    """A server that answers as `judge` does; a context manager."""
    server = OpenAIServer(record=False)
    server.rule = judge
    return server
