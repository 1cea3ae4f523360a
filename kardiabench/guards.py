"""Holds what plugins make to the contract, so that their faults stay theirs.

A judge, model or dataset that lacks something is refused when it is made, with a sentence. What
goes wrong later becomes a verdict, a completion or a `DataError` that says whose fault it is.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from kardiabench.contracts import (
    ChatModel,
    Identity,
    Judge,
    RawRow,
    RowsFunction,
    RowSource,
)
from kardiabench.errors import DataError, KardiaBenchError, PluginError, PreflightError
from kardiabench.records import (
    ChatRequest,
    Completion,
    Dimension,
    Item,
    ReplyStatus,
    Usage,
    Verdict,
    clean_text,
    missing_scores,
)

#: What a plugin's code may raise at us; an interrupt is the user's, and passes.
FAULTS = (Exception, SystemExit)
#: Where errors pass through: our own code, and the import machinery (`<frozen …>` too).
_NO_PLACES = frozenset(
    (
        Path(__file__).parent,
        Path(importlib.metadata.__file__).parent,
        Path(importlib.__file__).parent,
        Path(),
    )
)
_REPLY_STATUSES = get_args(ReplyStatus)
_NO_USAGE = Usage()


def reason(error: BaseException) -> str:
    """What was raised and, where it can be told, in which line of which file of the plugin."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    trace = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in trace if Path(frame.filename).parent not in _NO_PLACES]
    if isinstance(error, SyntaxError) or not frames:
        return text
    return f"{text} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"


# --- judges -------------------------------------------------------------------------------------


class NamedJudge:
    """A judge under the name that the run knows it by; everything else is the judge's own.

    A wrapper rather than an assignment: a judge may be frozen, have slots, or be shared.
    """

    def __init__(self, judge: Judge, name: str) -> None:
        self.name = name
        self.dimensions = tuple(judge.dimensions)
        self._judge = judge

    @property
    def identity(self) -> Identity:
        """The judge's identity: its label is no part of it."""
        return self._judge.identity

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # not made yet (a copy): there is nothing to ask
            raise AttributeError(attribute)
        return getattr(self._judge, attribute)

    async def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """The judge's verdicts."""
        return await self._judge.judge(items)


class GuardedJudge(NamedJudge):
    """A plugin's judge. A verdict that breaks the contract becomes one of status `error`."""

    def __init__(self, judge: Judge, name: str, what: str) -> None:
        check_judge(judge, what)
        super().__init__(judge, name)

    async def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict an item, in order."""
        verdicts = await self._judge.judge(items)
        if not isinstance(verdicts, Sequence) or len(verdicts) != len(items):
            raise ValueError(f"judge() gave {_amount(verdicts)} for {len(items)} items")
        return [self._sound(item, v) for item, v in zip(items, verdicts, strict=True)]

    def _sound(self, item: Item, verdict: Verdict) -> Verdict:
        """`verdict`, or a failed one when it is none or another turn's: the Scorer checks more."""
        if not isinstance(verdict, Verdict):
            flaw = f"judge() gave a {type(verdict).__name__}, not a Verdict"
        elif verdict.turn_id != item.turn.id:
            flaw = f"judge() gave a verdict on {verdict.turn_id}; they go in the items' order"
        else:
            return verdict
        return Verdict(
            turn_id=item.turn.id,
            judge=self.name,
            fingerprint="",  # the Scorer writes it
            scores=missing_scores(self.dimensions),
            status="error",
            evidence={"judge": flaw},
            usage=verdict.usage if isinstance(verdict, Verdict) else _NO_USAGE,
        )


def check_judge(judge: Judge, what: str) -> None:
    """Raise `PluginError` for the first thing that the judge called `what` lacks."""
    _require(judge, ("name", "dimensions", "identity", "judge"), what, "Judge")
    _require_async(judge, ("judge",), what)
    dimensions: object = judge.dimensions
    if not isinstance(dimensions, Sequence) or not dimensions:
        raise _breach(what, "its dimensions are not a tuple of at least one Dimension")
    for dimension in dimensions:
        if not isinstance(dimension, Dimension):
            flaw = f"its dimension {dimension!r} is no kardiabench.records.Dimension"
            raise _breach(what, flaw)
    _check_identity(judge, what)


# --- models -------------------------------------------------------------------------------------


class _WrappedModel:
    """A model with some of its methods replaced; everything else is the model's own."""

    def __init__(self, model: ChatModel) -> None:
        self.name = model.name
        self.batch_size = model.batch_size
        self._model = model

    @property
    def identity(self) -> Identity:
        """The model's identity."""
        return self._model.identity

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # not made yet (a copy): there is nothing to ask
            raise AttributeError(attribute)
        return getattr(self._model, attribute)


class GuardedModel(_WrappedModel):
    """A plugin's model. What it raises becomes completions of status `error`."""

    def __init__(self, model: ChatModel, what: str) -> None:
        check_model(model, what)
        super().__init__(model)
        self._what = what

    async def complete(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        """One completion a request, in order."""
        try:
            completions = await self._model.complete(requests)
        except Exception as error:
            return [_broken_completion(f"it raised {reason(error)}")] * len(requests)
        if not isinstance(completions, Sequence) or len(completions) != len(requests):
            flaw = f"it gave {_amount(completions)} for {len(requests)} requests"
            return [_broken_completion(flaw)] * len(requests)
        return [_sound_completion(completion) for completion in completions]

    async def preflight(self) -> None:
        """The model's own check."""
        try:
            await self._model.preflight()
        except KardiaBenchError:
            raise
        except Exception as error:
            raise PreflightError(f"{self._what} cannot answer: {reason(error)}") from error

    async def aclose(self) -> None:
        """Release it; a failure is told, and keeps nothing from ending well."""
        try:
            await self._model.aclose()
        except Exception as error:
            sys.stderr.write(f"warning: {self._what} did not close well: {reason(error)}\n")


class HintedModel(_WrappedModel):
    """A model that nothing registered: where litellm does not know it either, `hint` is added."""

    def __init__(self, model: ChatModel, hint: str) -> None:
        super().__init__(model)
        self._hint = hint

    async def complete(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        """The model's completions."""
        return await self._model.complete(requests)

    async def preflight(self) -> None:
        """The model's own check."""
        try:
            await self._model.preflight()
        except PluginError as error:
            raise PluginError(f"{error}{self._hint}") from error

    async def aclose(self) -> None:
        """Release the model."""
        await self._model.aclose()


def check_model(model: ChatModel, what: str) -> None:
    """Raise `PluginError` for the first thing that the model called `what` lacks."""
    methods = ("complete", "preflight", "aclose")
    _require(model, ("name", "batch_size", "identity", *methods), what, "ChatModel")
    _require_async(model, methods, what)
    if not isinstance(model.batch_size, int) or model.batch_size < 1:
        raise _breach(what, f"its batch_size is {model.batch_size!r}, not a whole number from 1")
    _check_identity(model, what)


def _sound_completion(completion: Completion) -> Completion:
    if not isinstance(completion, Completion):
        return _broken_completion(f"it gave a {type(completion).__name__}, not a Completion")
    if completion.status not in _REPLY_STATUSES or not isinstance(completion.usage, Usage):
        return _broken_completion(f"its status {completion.status!r} or usage is none of ours")
    if not all(isinstance(t, str) for t in (completion.text, completion.reasoning)):
        return _broken_completion("its text or reasoning is no str")
    return replace(
        completion, text=clean_text(completion.text), reasoning=clean_text(completion.reasoning)
    )


def _broken_completion(flaw: str) -> Completion:
    return Completion(status="error", detail=clean_text(f"server: the plugin's model: {flaw}"))


# --- datasets -----------------------------------------------------------------------------------


def guarded_source(source: RowSource, what: str) -> RowSource:
    """A plugin's dataset, checked; what it raises while it is read becomes a `DataError`."""
    if not isinstance(source, RowSource):
        raise _breach(what, f"it is a {type(source).__name__}, no kardiabench.contracts.RowSource")
    _check_identity(source, what)
    if not isinstance(source.identity.get("name"), str):
        raise _breach(what, "its identity has no 'name'")
    return replace(source, rows=partial(_guarded_rows, source.rows, what))


def _guarded_rows(start: RowsFunction, what: str) -> Iterator[RawRow]:
    rows: Iterator[RawRow] | None = None
    number = 0
    while True:
        try:
            rows = iter(start()) if rows is None else rows
            row = next(rows, None)
        except KardiaBenchError:
            raise
        except Exception as error:
            raise DataError(f"{what} broke off after row {number}: {reason(error)}") from error
        if row is None:
            return
        number += 1
        if not isinstance(row, RawRow):
            raise DataError(f"{what}: row {number} is a {type(row).__name__}, not a RawRow")
        yield row


# --- what they share ----------------------------------------------------------------------------


def _require(value: object, names: Sequence[str], what: str, contract: str) -> None:
    missing = [name for name in names if not hasattr(value, name)]
    if missing:
        raise _breach(
            what,
            f"it has no {', '.join(missing)} and so is no kardiabench.contracts.{contract}",
        )


def _require_async(value: object, names: Sequence[str], what: str) -> None:
    for name in names:
        if not inspect.iscoroutinefunction(getattr(value, name)):
            raise _breach(what, f"its {name} is not written as `async def {name}(self, …)`")


def _check_identity(value: Judge | ChatModel | RowSource, what: str) -> None:
    identity: object = value.identity
    if not isinstance(identity, Mapping):
        raise _breach(what, f"its identity is a {type(identity).__name__}, not a mapping")
    try:
        json.dumps(dict(identity), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise _breach(what, f"its identity is not JSON: {error}") from error


def _breach(what: str, flaw: str) -> PluginError:
    return PluginError(f"{what} breaks the contract: {flaw}; see docs/plugins.md, or leave it out")


def _amount(answers: object) -> str:
    if isinstance(answers, Sequence):
        return f"{len(answers)} answers"
    return f"a {type(answers).__name__} instead of a list"
