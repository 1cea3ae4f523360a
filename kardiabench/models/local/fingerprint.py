"""What weights are, by content: the same files are the same model wherever they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

_DIGITS = 16
_WHOLE = 64 * 2**20
_SPANS = 256
_SPAN = 64 * 2**10

#: Beside the weights, what decides tokens and templates, where a reply ends, and what is computed.
_SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "chat_template*",
    "additional_chat_templates/*.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "*.index.json",
    "*.py",
)
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.*", "tokenizer*", "chat_template*")
#: What a trainer leaves beside the weights of a checkpoint.
_TRAINER_FILES = (
    "optimizer*",
    "scheduler*",
    "scaler*",
    "rng_state*",
    "training_args*",
    "global_step*",
)


def fingerprint_of_folder(folder: Path) -> str:
    """16 hex digits for a model's folder: weights, configs, tokenizer, templates and own code.

    Of the weights only the format that is loaded counts. How files are read: `fingerprint`.
    """
    names = names_in(folder)
    small = {name for name in names if _matches(name, _SMALL_FILES)}
    return fingerprint({name: folder / name for name in small.union(weight_names(names))})


def fingerprint_of_adapter(folder: Path) -> str:
    """16 hex digits for an adapter's folder."""
    names = [name for name in names_in(folder) if _matches(name, _ADAPTER_FILES)]
    return fingerprint({name: folder / name for name in names})


def fingerprint_of_gguf(file: Path) -> str:
    """16 hex digits for a GGUF file, which holds the tokenizer too. Its name does not count."""
    return fingerprint({"model.gguf": file})


def fingerprint(files: Mapping[str, Path]) -> str:
    """16 hex digits of SHA-256 over `files`: their names here and their content, never their paths.

    Files up to 64 MiB count whole. Of larger ones count the size and 256 spans of 64 KiB, spread
    evenly from the first byte to the last: a step of training changes all weights, so it changes
    these too; a file edited by hand somewhere in between may pass unnoticed. Raises `OSError`.
    """
    whole = hashlib.sha256()
    for name in sorted(files):
        path = files[name]
        stat = path.stat()
        content = _content(path.resolve(), stat.st_size, stat.st_mtime_ns)
        whole.update(f"{name}\0{stat.st_size}\0{content}\n".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()[:_DIGITS]


def names_in(folder: Path) -> list[str]:
    """The files in a folder and in the folders right below it, relative, with `/`, sorted."""
    files = (path for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in files)


def weight_names(names: Iterable[str]) -> list[str]:
    """Of a folder's files those with the weights, in the format that is loaded; [] if none are."""
    here = [name for name in names if "/" not in name and not _is_beside(name)]
    for suffixes in ((".safetensors",), (".bin", ".pt", ".pth")):
        found = [name for name in here if name.endswith(suffixes)]
        if found:
            return found
    return []


def _is_beside(name: str) -> bool:
    return _matches(name, _TRAINER_FILES) or name.startswith("adapter_")


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(
        fnmatchcase(name, pattern) and name.count("/") == pattern.count("/") for pattern in patterns
    )


@lru_cache(maxsize=4096)
def _content(path: Path, size: int, _changed: int) -> str:
    """The digest of one file; read again only when its size or time of change differs."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        if size <= _WHOLE:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        for number in range(_SPANS):
            digest.update(_span(stream, number * (size - _SPAN) // (_SPANS - 1)))
    return digest.hexdigest()


def _span(stream: BinaryIO, start: int) -> bytes:
    stream.seek(start)
    return stream.read(_SPAN)
