"""Models held in this process: whoever asks for the same one gets the same one."""

from __future__ import annotations

import gc
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

from kardiabench.contracts import LocalOptions
from kardiabench.models.local.loading import Loaded, load

_Key = tuple[str, LocalOptions]


@dataclass
class _Entry:
    """A model and how many hold it; the lock is for loading it once."""

    holders: int = 0
    loaded: Loaded | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


_entries: dict[_Key, _Entry] = {}
_lock = threading.Lock()


def acquire(name: str, local: LocalOptions) -> Loaded:
    """The model `name`, loaded now unless it is held already; may be called from any thread.

    The chat template's switch (`thinking`) is no part of the weights: options that differ in it
    alone share them. Each `acquire` needs a `release`. Raises as `load`.
    """
    key = _key(name, local)
    with _lock:
        entry = _entries.setdefault(key, _Entry())
        entry.holders += 1
    try:
        with entry.lock:
            if entry.loaded is None:
                entry.loaded = load(name, local)
            return entry.loaded
    except BaseException:
        _let_go(key, entry)
        raise


def release(loaded: Loaded) -> None:
    """Give a model back; the last one to do so frees its memory. Raises ValueError if not held."""
    with _lock:
        held = next((item for item in _entries.items() if item[1].loaded is loaded), None)
    if held is None:
        raise ValueError("this model is not held: it was released before, or never acquired")
    _let_go(*held)


def _key(name: str, local: LocalOptions) -> _Key:
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name, replace(local, thinking=None)


def _let_go(key: _Key, entry: _Entry) -> None:
    with _lock:
        entry.holders -= 1
        if entry.holders:
            return
        if _entries.get(key) is entry:
            del _entries[key]
    if entry.loaded is not None:
        entry.loaded = None
        _free()


def _free() -> None:
    """Hand memory back to the driver; who still has the model keeps it alive until then."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
