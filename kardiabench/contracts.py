"""What a backend, a judge and a dataset are: the protocols that plugins implement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from kardiabench.records import ChatRequest, Completion, Dimension, Item, Verdict

#: JSON that identifies something: it enters fingerprints, manifests and cache keys.
Identity = Mapping[str, object]
OnBadRow = Literal["fail", "skip"]
Quantize = Literal["4bit", "8bit"]


class ChatModel(Protocol):
    """A backend: one model that answers chats.

    It may have further attributes. `dialogues_at_once` (a number): so many callers hand it a whole
    dialogue each, its turns together and in order, because it shares their beginnings.
    `takes_guided_spans` (True): it honours `ChatRequest.guided_spans`. `is_local` (True): it
    honours `ModelOptions.local`. `cacheable` (False): its replies are no function of the request.
    """

    name: str
    #: How many requests it wants at a time: 1 for an API, more for a local batch.
    batch_size: int

    @property
    def identity(self) -> Identity:
        """Everything that decides what it answers: name, endpoint, decoding. Never a key."""

    async def complete(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        """Answer every request, in order. Failures are completions with a status, never raised."""

    async def preflight(self) -> None:
        """Check, at the cost of a tiny request, that it can answer; raise `PreflightError`."""

    async def aclose(self) -> None:
        """Release what it holds."""


class Judge(Protocol):
    """A judge: scores replies on one or more dimensions."""

    name: str
    dimensions: tuple[Dimension, ...]

    @property
    def identity(self) -> Identity:
        """Everything that decides its verdicts: model, prompt hash, decoding, rubric version."""

    async def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict an item, in order. It never raises for one item: that is a status."""


class OpenModel(Protocol):
    """How a judge gets a model: by name, with the options of `ModelOptions`."""

    def __call__(self, name: str, **options: Any) -> ChatModel:
        """Open the model `name`."""


class OpenDataset(Protocol):
    """How a backend gets a dataset: by name, as `--dataset` takes it."""

    def __call__(self, name: str, split: str | None, revision: str | None) -> RowSource:
        """Open the dataset `name`."""


@dataclass(frozen=True)
class LocalOptions:
    """How a model that runs in this process is loaded and spoken to; APIs know none of it.

    `dtype` and `device` are `auto` or what torch calls them (`bfloat16`, `cuda:1`, `cpu`); `device`
    may also be a placement over several (`balanced`). `adapter` is a folder or Hub name of a LoRA
    adapter. `revision` pins a model of the Hub. `thinking` None leaves it to the chat template.
    `trust_remote_code` runs code that comes with the model.
    """

    dtype: str = "auto"
    device: str = "auto"
    adapter: str | None = None
    revision: str | None = None
    quantize: Quantize | None = None
    thinking: bool | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True)
class ModelOptions:
    """How to talk to a model. Seconds, tokens; `extra` goes to the backend as it is.

    `temperature` None means greedy where the provider allows it, else the provider's own choice.
    `dataset`, `split` and `revision` say what is evaluated, for backends that train on its train
    split, which they open with `open_dataset`; whoever opens the model fills that in.
    """

    temperature: float | None = None
    max_tokens: int = 4096
    seed: int | None = None
    api_base: str | None = None
    concurrency: int = 32
    timeout: float = 120.0
    retries: int = 6
    extra: Mapping[str, object] = field(default_factory=dict)
    dataset: str = "sample"
    split: str | None = None
    revision: str | None = None
    open_dataset: OpenDataset | None = None
    local: LocalOptions = LocalOptions()
    #: Arguments of the engine alone, for a judge whose model is the one under test: with them it
    #: gets the same weights.
    engine: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class JudgeContext:
    """What a judge factory is handed beside its own options."""

    open_model: OpenModel
    seed: int | None = None


class JudgeFactory(Protocol):
    """Makes a judge from the options written after its name (`rubric:model=…,samples=3`)."""

    def __call__(self, options: Mapping[str, str], context: JudgeContext) -> Judge:
        """Make the judge; raise `ConfigError` for an option it cannot use."""


class ModelFactory(Protocol):
    """Makes a model from its whole name (`baseline/majority`) and the options."""

    def __call__(self, name: str, options: ModelOptions) -> ChatModel:
        """Make the model, without calling it or importing anything heavy."""


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row before it is checked: where it stands, and its value or why there is none.

    `line` counts from 1; `counted` says what: lines of a text file, or rows where there are none.
    """

    file: str
    line: int
    value: object = None
    problem: str | None = None
    counted: Literal["line", "row"] = "line"


@dataclass(frozen=True)
class RowSource:
    """A dataset that can be read more than once.

    `rows()` streams it from the start. `identity` is what the manifest pins: name, split,
    revision or path. `licence_allows_text` says whether its text may be published.
    """

    rows: RowsFunction
    identity: Identity
    licence_allows_text: bool = False


class RowsFunction(Protocol):
    """Starts a new pass over the rows."""

    def __call__(self) -> Iterator[RawRow]:
        """Start at the first row."""


class DatasetFactory(Protocol):
    """Opens a dataset by its name; `split` and `revision` are None when the user gave none."""

    def __call__(self, name: str, split: str | None, revision: str | None) -> RowSource:
        """Open it; raise `DataError` where it cannot be had."""
