"""What `split` found: which dialogues are easy for a model, and which are hard."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from kardiabench.errors import RunError, did_you_mean
from kardiabench.files import write_json
from kardiabench.fingerprints import digest

if TYPE_CHECKING:
    from pydantic import ConfigDict, TypeAdapter

SPLIT = "split.json"
SPLIT_VERSION: Literal[1] = 1
#: A share of samples times their number is whole but for the last bits.
_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class SplitDialogue:
    """One dialogue: of its `n_samples` samples `n_judged` have a composite.

    `pass_rate` is the share of the judged ones that passed, None when none was judged; then `easy`
    is None too, and the dialogue is in no subset.
    """

    id: str
    n_samples: int
    n_judged: int
    pass_rate: float | None
    easy: bool | None


@dataclass(frozen=True)
class SplitManifest:
    """A split and what decided it.

    `dataset` has the source's identity and the `fingerprint` of the chosen dialogues, as a run's
    protocol has it; `prompts`, `model` and `scorer` are identities as in a run's manifest.
    `samples` a turn were drawn at `temperature` with at most `max_tokens` tokens each and `seed`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = {
        "allow_inf_nan": False,
        "extra": "forbid",
        "strict": True,
    }

    dataset: dict[str, Any]
    prompts: dict[str, Any]
    model: dict[str, Any]
    scorer: dict[str, Any]
    samples: int
    temperature: float
    max_tokens: int
    seed: int
    pass_mark: float
    easy_share: float
    dialogues: list[SplitDialogue]
    version: Literal[1] = SPLIT_VERSION

    @property
    def dataset_fingerprint(self) -> str:
        """The fingerprint of the dialogues that were split (`Dialogues.fingerprint`)."""
        return str(self.dataset["fingerprint"])

    @property
    def digest(self) -> str:
        """The short name of the whole content: 16 hexadecimal digits."""
        return digest(asdict(self))

    @property
    def counts(self) -> Mapping[str, int]:
        """How many dialogues are `easy`, `hard` and `unjudged`."""
        found = Counter(_kind(dialogue.easy) for dialogue in self.dialogues)
        return {kind: found[kind] for kind in ("easy", "hard", "unjudged")}

    def ids(self, subset: str) -> frozenset[str]:
        """The ids of the dialogues in `easy`, `hard` or `all`; unjudged ones are in `all` only."""
        if subset not in ("all", "easy", "hard"):
            raise ValueError(f"no subset {subset!r}; {did_you_mean(subset, _SUBSETS)}")
        return frozenset(
            dialogue.id
            for dialogue in self.dialogues
            if subset == "all" or _kind(dialogue.easy) == subset
        )


_SUBSETS = ("all", "easy", "hard")


def is_easy(pass_rate: float | None, easy_share: float) -> bool | None:
    """Whether a dialogue with this pass rate is easy; None where nothing was judged."""
    return None if pass_rate is None else pass_rate >= easy_share


def write_split(path: Path, manifest: SplitManifest) -> None:
    """Write the manifest; readers see the old file or the new one, never a half."""
    write_json(path, asdict(manifest))


def read_split(path: Path) -> SplitManifest:
    """The manifest at `path`, or in the folder `path`.

    Raises `RunError` for what is none of this version, and for one that contradicts itself.
    """
    file = path / SPLIT if path.is_dir() else path
    try:
        manifest: SplitManifest = _adapter().validate_json(file.read_bytes())
    except OSError as error:
        raise RunError(
            f"{file} cannot be read ({error.strerror or error}); give the {SPLIT} that "
            "`python -m trainer split` wrote"
        ) from error
    except ValueError as error:
        raise RunError(
            f"{file} is no split of version {SPLIT_VERSION} ({_first_problem(error)}); restore it, "
            "or make it anew with `python -m trainer split`"
        ) from error
    problem = _contradiction(manifest)
    if problem is not None:
        raise RunError(
            f"{file} was edited or damaged ({problem}); restore it, or make it anew with "
            "`python -m trainer split`"
        )
    return manifest


def _kind(easy: bool | None) -> str:
    if easy is None:
        return "unjudged"
    return "easy" if easy else "hard"


def _contradiction(manifest: SplitManifest) -> str | None:
    """What the content says against itself; None when nothing."""
    if not isinstance(manifest.dataset.get("fingerprint"), str):
        return "its dataset has no fingerprint"
    seen: set[str] = set()
    for dialogue in manifest.dialogues:
        if dialogue.id in seen:
            return f"dialogue {dialogue.id} is there twice"
        seen.add(dialogue.id)
        problem = _odd(dialogue, manifest.easy_share)
        if problem is not None:
            return f"dialogue {dialogue.id}: {problem}"
    return None


def _odd(dialogue: SplitDialogue, easy_share: float) -> str | None:
    rate, judged = dialogue.pass_rate, dialogue.n_judged
    if not 0 <= judged <= dialogue.n_samples:
        return f"{judged} of {dialogue.n_samples} samples judged"
    if (rate is None) != (judged == 0):
        return f"pass_rate {rate} with {judged} samples judged"
    if rate is not None:
        passed = rate * judged
        if not 0 <= rate <= 1 or not math.isclose(passed, round(passed), abs_tol=_TOLERANCE):
            return f"pass_rate {rate} is no share of {judged} samples"
    if dialogue.easy is not is_easy(rate, easy_share):
        return f"easy is {dialogue.easy} at a pass_rate of {rate}"
    return None


def _first_problem(error: ValueError) -> str:
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else str(first["msg"])


@cache
def _adapter() -> TypeAdapter[SplitManifest]:
    from pydantic import TypeAdapter

    return TypeAdapter(SplitManifest)
