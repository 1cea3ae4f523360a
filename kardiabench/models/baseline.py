"""`baseline/majority` and `baseline/tfidf`: honest floors that need no network.

Both name an emotion and give the same supportive reply to everybody, in four well-formed spans.
`majority` names the commonest gold emotion of the train split; `tfidf` classifies the user's
messages so far. A persona is never answered by a classifier that was trained on it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from kardiabench.contracts import Identity, ModelOptions, RowSource
from kardiabench.errors import (
    ConfigError,
    KardiaBenchError,
    PluginError,
    PreflightError,
    did_you_mean,
)
from kardiabench.models.classifiers import Classifier, Majority, Tfidf, document
from kardiabench.models.inputs import check_arguments
from kardiabench.records import ChatRequest, Completion, Turn, Usage
from kardiabench.rows import BadRow, read_row, turns_of
from kardiabench.spans import render_spans

#: Raise it when the same train split would be answered differently.
VERSION = 1

METHODS: dict[str, type[Classifier]] = {"majority": Majority, "tfidf": Tfidf}

_UNDERSTANDING = "They are telling me about something that matters to them and want to be heard."
_REASONING = {
    "majority": "Whatever was said, this is the commonest emotion among the training dialogues.",
    "tfidf": "Their words are closest to those of training dialogues with this emotion.",
}
_RESPONSE = (
    "Thank you for telling me this. I'm here with you, "
    "and I'd like to hear more about what it has been like for you."
)
_HINT = "name another train split with --model-arg train=FILE_OR_DATASET"


class BaselineModel:
    """A classifier with a stock reply; `method` is one of `METHODS`.

    `open_train` opens the rows to train on. It is called once, when they are first needed; what is
    wrong with them raises `PreflightError`, and in `complete` gives completions with status
    `error`.
    """

    batch_size = 64
    cacheable = False  # an answer costs nothing

    def __init__(self, method: str, open_train: Callable[[], RowSource]) -> None:
        self.name = f"baseline/{method}"
        self._method = method
        self._open_train = open_train
        self._trained: Classifier | KardiaBenchError | None = None
        self._lock = threading.Lock()

    @property
    def identity(self) -> Identity:
        """The method, its version and the identity of what it trains on."""
        return {
            "backend": "baseline",
            "model": self.name,
            "version": VERSION,
            "train": dict(self._train.identity),
        }

    async def complete(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        """Classify each request, in a thread; the first call trains."""
        try:
            emotions = await asyncio.to_thread(self._classify, requests)
        except KardiaBenchError as error:
            failure = Completion(status="error", detail=f"bad_request: {error}")
            return [failure] * len(requests)
        return [self._completion(emotion) for emotion in emotions]

    async def preflight(self) -> None:
        """Read the first turn to train on; raise `PreflightError` when there is none."""
        await asyncio.to_thread(lambda: next(self._turns()))

    async def aclose(self) -> None:
        """Nothing to release."""

    def _classify(self, requests: Sequence[ChatRequest]) -> list[str]:
        with self._lock:
            classifier = self._classifier()
            return classifier.classify([(r.persona_id, document(r.messages)) for r in requests])

    def _classifier(self) -> Classifier:
        if self._trained is None:
            try:
                self._trained = METHODS[self._method](self._turns())
            except KardiaBenchError as error:  # kept, so that the next batch need not read it all
                self._trained = error
        if isinstance(self._trained, KardiaBenchError):
            raise self._trained
        return self._trained

    @cached_property
    def _train(self) -> RowSource:
        try:
            return self._open_train()
        except KardiaBenchError as error:
            raise PreflightError(f"{self.name} cannot train: {error} ({_HINT})") from error

    def _turns(self) -> Iterator[Turn]:
        """The turns of the good rows: a floor can do without the bad ones. With none, raise."""
        first_bad: KardiaBenchError | str = "the train split has no rows"
        any_good = False
        for raw in self._train.rows():
            try:
                dialogue = read_row(raw)
            except BadRow as error:
                first_bad = error if isinstance(first_bad, str) else first_bad
            else:
                turns = turns_of(dialogue)
                any_good = any_good or bool(turns)
                yield from turns
        if not any_good:
            raise PreflightError(f"{self.name} cannot train: {first_bad} ({_HINT})")

    def _completion(self, emotion: str) -> Completion:
        text = render_spans(_UNDERSTANDING, _REASONING[self._method], emotion, _RESPONSE)
        return Completion(text=text, finish_reason="stop", usage=Usage(calls=1, cost=0.0))


def build(name: str, options: ModelOptions) -> BaselineModel:
    """The model for `baseline/METHOD`, trained on the train split of what is evaluated.

    The model argument `train` names another file, directory or dataset. The sample, which has no
    train split, is its own, less the persona that is answered.
    """
    method = name.removeprefix("baseline/")
    if method not in METHODS:
        raise PluginError(f"There is no {name!r}; {did_you_mean(method, METHODS)}")
    check_arguments(name, options.extra, ["train"])
    dataset = str(options.extra.get("train", options.dataset))
    one_file = Path(dataset).expanduser().is_file()
    if one_file and "train" not in options.extra:
        raise ConfigError(f"{name} needs a train split, and {dataset} is one file: {_HINT}")
    split = None if one_file or dataset == "sample" else "train"
    revision = options.revision if dataset == options.dataset else None
    open_dataset = options.open_dataset
    if open_dataset is None:
        raise PluginError(f"{name} has no datasets to train on: open it through a Registry")
    return BaselineModel(method, lambda: open_dataset(dataset, split, revision))
