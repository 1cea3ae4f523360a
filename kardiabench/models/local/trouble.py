"""What goes wrong while a model is loaded, in one sentence; and no noise when nothing does."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from io import StringIO
from typing import Any

from kardiabench.errors import KardiaBenchError, PreflightError
from kardiabench.models.local import hub
from kardiabench.models.local.architecture import needs_code
from kardiabench.models.local.fingerprint import names_in, weight_names
from kardiabench.models.local.weights import Place

_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "offload_dir")


@contextmanager
def explained(place: Place, device: str) -> Iterator[None]:
    """Turn whatever transformers, torch or peft raise into a `PreflightError` of one sentence."""
    try:
        yield
    except KardiaBenchError:
        raise
    except Exception as error:
        raise _sentence(place, device, error) from error


@contextmanager
def quiet(*, all_of_it: bool = False) -> Iterator[None]:
    """Keep transformers' progress bars and warnings off the screen; downloads are still shown.

    `all_of_it` silences standard error: its reader of GGUF files has a bar that no setting stops.
    """
    from transformers.utils import logging

    level = logging.get_verbosity()
    before = logging.set_tqdm_hook(_no_bar)
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()) if all_of_it else nullcontext():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        logging.set_tqdm_hook(before)


def _no_bar(factory: Any, args: Any, options: Any) -> Any:
    return factory(*args, **{**options, "disable": True})


def no_room(name: str, device: str, why: str) -> PreflightError:
    """The sentence for a model that is too large; `why` says what is known of the sizes."""
    return PreflightError(
        f"{name} does not fit into the memory of {device} ({why}): load it with --dtype bfloat16 "
        "or --quantize 4bit, over several GPUs with --device balanced, or take a smaller model"
    )


def _sentence(place: Place, device: str, error: Exception) -> PreflightError:
    from huggingface_hub import errors

    text = str(error)
    if isinstance(error, MemoryError) or any(words in text.lower() for words in _NO_MEMORY):
        return no_room(place.name, device, _brief(error))
    if isinstance(error, errors.HfHubHTTPError | errors.LocalEntryNotFoundError):
        return hub.problem(place.name, place.revision, error)
    if "trust_remote_code" in text:
        return needs_code(place.name)
    damaged = _damaged(place)
    if damaged:
        return PreflightError(f"{damaged} of {place.name} is cut off or damaged: copy it anew")
    return PreflightError(f"{place.name} cannot be loaded ({_brief(error)})")


def _damaged(place: Place) -> str | None:
    """The first file of weights that is no sound safetensors file."""
    from safetensors import SafetensorError, safe_open

    if place.kind != "folder" or place.path is None:
        return None
    for name in weight_names(names_in(place.path)):
        try:
            if name.endswith(".safetensors"):
                with safe_open(place.path / name, "pt"):
                    continue
        except SafetensorError:
            return name
    return None


def _brief(error: Exception) -> str:
    """The kind of an error and its first line that says something."""
    lines = [line.strip().rstrip(".:") for line in str(error).splitlines()]
    first = next((line for line in lines if line), "")
    return f"{type(error).__name__}: {first[:300]}" if first else type(error).__name__
