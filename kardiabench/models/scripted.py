"""A public test double: a model that answers from a script and fails loudly when it runs out.

Use it to test judges, runners and plugins without a network:
`ScriptedModel([{"text": "first"}, {"text": "second", "status": "truncated"}])`, or from the
command line `scripted/FILE.jsonl` with one entry a line.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

from kardiabench.contracts import Identity, ModelOptions
from kardiabench.errors import ConfigError, KardiaBenchError, did_you_mean
from kardiabench.fingerprints import digest
from kardiabench.models.inputs import check_arguments, parse_object
from kardiabench.records import ChatRequest, Completion, ReplyStatus, Usage, clean_text


@dataclass(frozen=True)
class _Entry:
    """One scripted answer; the fields are the keys of an entry."""

    text: str = ""
    status: ReplyStatus = "ok"
    detail: str = ""
    finish_reason: str | None = "stop"
    reasoning: str = ""
    delay: float = 0.0
    match: str | None = None
    repeat: bool = False
    usage: Mapping[str, Any] = field(default_factory=dict)

    def answers(self, request: ChatRequest) -> bool:
        return self.match is None or any(self.match in m.content for m in request.messages)

    async def complete(self) -> Completion:
        await asyncio.sleep(self.delay)
        return Completion(
            text=clean_text(self.text),
            reasoning=clean_text(self.reasoning),
            finish_reason=self.finish_reason,
            status=self.status,
            detail=self.detail,
            usage=Usage(**{"calls": 1, **self.usage}),
            latency=self.delay,
        )


_TYPES: Mapping[str, tuple[type, ...]] = {
    "text": (str,),
    "status": (str,),
    "detail": (str,),
    "finish_reason": (str, type(None)),
    "reasoning": (str,),
    "delay": (int, float),
    "match": (str, type(None)),
    "repeat": (bool,),
    "usage": (Mapping,),
}


class ScriptedModel:
    """Answers requests from `entries`, each used once.

    An entry is a mapping with any of `text`, `status`, `detail`, `finish_reason`, `reasoning`,
    `delay` (seconds before it answers; also its latency), `usage` (fields of `Usage`), `match` and
    `repeat`. The first unused entry whose `match` occurs in one of the request's messages answers;
    where none does, the first unused entry without `match`. `repeat: true` never uses one up.

    `requests` keeps what was asked, in order; `closed` says whether `aclose` was called. With no
    entry left for a request, `complete` raises `KardiaBenchError` naming it: a test double that
    invented an answer would hide the mistake. A bad entry raises `ConfigError` at once.
    """

    cacheable = False  # a script is a sequence of answers, not a function of the request

    def __init__(
        self,
        entries: Sequence[Mapping[str, object]],
        name: str = "scripted/test",
        batch_size: int = 1,
    ) -> None:
        self.name = name
        self.batch_size = batch_size
        self.requests: list[ChatRequest] = []
        self.closed = False
        self._entries = [_entry(e, f"entry {n} of {name}") for n, e in enumerate(entries, start=1)]
        self._script = digest([dict(entry) for entry in entries])

    @property
    def identity(self) -> Identity:
        """The name and a hash of the script."""
        return {"backend": "scripted", "model": self.name, "script": self._script}

    async def complete(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        """Answer every request from the script, in order; raise when no entry is left."""
        entries = [self._take(request) for request in requests]
        return list(await asyncio.gather(*(entry.complete() for entry in entries)))

    async def preflight(self) -> None:
        """Nothing to check: the entries were read when the model was made."""

    async def aclose(self) -> None:
        """Nothing to release; remembered in `closed`."""
        self.closed = True

    def _take(self, request: ChatRequest) -> _Entry:
        self.requests.append(request)
        fitting = [entry for entry in self._entries if entry.answers(request)]
        if not fitting:
            raise KardiaBenchError(_nothing_left(self.name, request))
        chosen = next((entry for entry in fitting if entry.match is not None), fitting[0])
        if not chosen.repeat:
            # By identity: two equal entries are two answers.
            index = next(i for i, entry in enumerate(self._entries) if entry is chosen)
            del self._entries[index]
        return chosen


def build(name: str, options: ModelOptions) -> ScriptedModel:
    """The model for `scripted/FILE.jsonl`: one entry a line, blank lines skipped."""
    check_arguments(name, options.extra)
    path = Path(name.removeprefix("scripted/")).expanduser()
    return ScriptedModel(_read(path), name=name)


def _read(path: Path) -> list[Mapping[str, object]]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"cannot read the script {path} ({reason}); check the path") from error
    return [_parse(line, f"{path}, line {n}") for n, line in enumerate(lines, 1) if line.strip()]


def _parse(line: bytes, where: str) -> Mapping[str, object]:
    try:
        value = parse_object(line)
    except ValueError as error:
        raise ConfigError(f'{where}: {error}; write an object like {{"text": "…"}}') from error
    _entry(value, where)
    return value


def _entry(value: Mapping[str, object], where: str) -> _Entry:
    """`value` checked; `where` opens the error's sentence."""
    for key, given in value.items():
        if key not in _TYPES:
            raise ConfigError(f"{where}: unknown key {key!r}; {did_you_mean(key, _TYPES)}")
        if not isinstance(given, _TYPES[key]):
            raise ConfigError(f"{where}: {key!r} cannot be {given!r}; correct its type")
    _check_choice(value.get("status", "ok"), get_args(ReplyStatus), f"{where}: status")
    usage = value.get("usage", {})
    for key in usage if isinstance(usage, Mapping) else ():
        _check_choice(key, [f.name for f in fields(Usage)], f"{where}: usage key")
    return _Entry(**dict[str, Any](value))


def _check_choice(value: object, known: Sequence[str], what: str) -> None:
    if value not in known:
        raise ConfigError(f"{what} {value!r} is not known; {did_you_mean(str(value), known)}")


def _nothing_left(name: str, request: ChatRequest) -> str:
    last = request.messages[-1].content[:80] if request.messages else ""
    turn = request.turn_id or "(none)"
    return (
        f"{name} has no entry left for the request of turn {turn} that ends {last!r}; "
        "add an entry, or set repeat on one"
    )
