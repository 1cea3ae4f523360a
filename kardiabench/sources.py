"""Where rows come from: the embedded sample, a file or directory, the Hugging Face Hub.

Every function here is a `DatasetFactory`. Nothing is checked yet but that the data can be read.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import json
import logging
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from kardiabench.contracts import RawRow, RowSource
from kardiabench.errors import ConfigError, DataError, did_you_mean

HUB_REPO = "Jhcircle/KardiaBench"
#: Personas of the sample's train split; the others, later in the file, are its test split.
SAMPLE_TRAIN_PERSONAS = 6

_DEFAULT_SPLIT = "test"
_EXTENSIONS = (".jsonl", ".jsonl.gz", ".parquet")
_SPLIT_WORDS = ("train", "test", "validation", "valid", "val", "dev", "eval")
_COLUMNS = ("person", "mbti", "emotion", "situation", "anon_username", "messages")
_SHARD = re.compile(r"([-_.]\d+(-of-\d+)?)?\.(jsonl|jsonl\.gz|parquet)$")
_GZIP_MAGIC = b"\x1f\x8b"
_BATCH_ROWS = 64
_BLOCK_BYTES = 1 << 20


# --- the sample ---------------------------------------------------------------------------------


def open_sample(name: str, split: str | None, revision: str | None) -> RowSource:
    """The dialogues that come with the package. Splits: `all` (default), `train` and `test`.

    The first six personas to appear are `train`, the rest `test`.
    """
    _check_no_revision(name, revision)
    split = split or "all"
    if split not in _SAMPLE_SPLITS:
        known = did_you_mean(split, _SAMPLE_SPLITS)
        raise ConfigError(f"the sample has no split {split!r} (--split); {known}")
    file = resources.files("kardiabench") / "data" / "sample.jsonl"
    if not file.is_file():
        raise DataError("the sample is missing from this installation: install kardiabench again")
    return RowSource(
        rows=partial(_sample_rows, file, _SAMPLE_SPLITS[split]),
        identity={"name": name, "split": split, "sha256": _sha256([file])},
        licence_allows_text=True,
    )


_SAMPLE_SPLITS: Mapping[str, Callable[[int], bool]] = {
    "all": lambda _: True,
    "train": lambda persona: persona < SAMPLE_TRAIN_PERSONAS,
    "test": lambda persona: persona >= SAMPLE_TRAIN_PERSONAS,
}


def _sample_rows(file: Traversable, wanted: Callable[[int], bool]) -> Iterator[RawRow]:
    personas: dict[object, int] = {}
    with file.open("rb") as stream:
        for row in _json_rows(stream, file.name):
            person = row.value.get("person") if isinstance(row.value, dict) else None
            if wanted(personas.setdefault(person, len(personas))):
                yield row


# --- files and directories ----------------------------------------------------------------------


def open_path(name: str, split: str | None, revision: str | None) -> RowSource:
    """A `.jsonl` (gzipped or not) or `.parquet` file, or a directory of them.

    Of a directory, the files of the split are read, in the order of their names: `test.jsonl`,
    `test-00000-of-00001.parquet` and the like, also below `data/`. Without a split that is `test`
    where files are named after splits, else every file.
    """
    _check_no_revision(name, revision)
    path = Path(name).expanduser()
    if path.is_dir():
        files, split = _directory_files(path, split)
    else:
        files, split = _single_file(path, split), split or _split_of(path) or "all"
    with _readable(path):
        identity = {"name": name, "split": split, "sha256": _sha256(files)}
    return RowSource(rows=partial(_rows_of_files, files), identity=identity)


def _single_file(path: Path, split: str | None) -> list[Path]:
    if not path.exists():
        raise DataError(f"{path} does not exist: give --dataset an existing file or directory")
    if not path.is_file():
        raise DataError(f"{path} is no regular file: it has to be read twice, so save it as one")
    if not path.name.endswith(_EXTENSIONS):
        raise DataError(f"{path} is of no kind that can be read: give {_either(_EXTENSIONS)}")
    if split not in (None, "all", _split_of(path)):
        raise ConfigError(f"{path} is one file, not a set of splits: leave --split {split} out")
    return [path]


def _directory_files(directory: Path, split: str | None) -> tuple[list[Path], str]:
    """The files to read, and the split that they are."""
    with _readable(directory):
        found = _data_files(directory)
        if not found:
            raise DataError(f"{directory} has no {_either(_EXTENSIONS)} file: {_holds(directory)}")
    if split is None:
        split = _DEFAULT_SPLIT if any(map(_split_of, found)) else "all"
    files = found if split == "all" else _files_of_split(found, split)
    if not files:
        raise DataError(f"{directory} has no {split} split: choose with --split of {_names(found)}")
    if len({_extension(path) for path in files}) > 1:
        raise DataError(f"{directory} has {split} in two formats, {_names(files)}: give one file")
    return files, split


def _data_files(directory: Path) -> list[Path]:
    folders = [folder for folder in (directory, directory / "data") if folder.is_dir()]
    return sorted(
        path
        for folder in folders
        for path in folder.iterdir()
        if path.name.endswith(_EXTENSIONS) and path.is_file()
    )


def _files_of_split(found: Sequence[Path], split: str) -> list[Path]:
    return [path for path in found if _stem(path) == split]


def _split_of(path: Path) -> str | None:
    """The split that a file's name tells, or None."""
    return _stem(path) if _stem(path) in _SPLIT_WORDS else None


def _stem(path: Path) -> str:
    """A file's name without extensions and shard: `test` of `test-00000-of-00002.parquet`."""
    return _SHARD.sub("", path.name)


def _names(files: Sequence[Path]) -> str:
    return ", ".join(path.name for path in files)


def _extension(path: Path) -> str:
    return ".parquet" if path.name.endswith(".parquet") else ".jsonl"


def _holds(directory: Path) -> str:
    names = sorted(path.name for path in directory.iterdir())
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"it has {shown}" if names else "it is empty"


def _either(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _rows_of_files(files: Sequence[Path]) -> Iterator[RawRow]:
    for path in files:
        rows = _parquet_rows if _extension(path) == ".parquet" else _text_rows
        with _readable(path):
            yield from rows(path)


def _text_rows(path: Path) -> Iterator[RawRow]:
    with path.open("rb") as stream:
        gzipped = stream.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        stream.seek(0)
        if gzipped:
            with gzip.open(stream) as plain:
                yield from _json_rows(plain, str(path))
        else:
            yield from _json_rows(stream, str(path))


def _json_rows(stream: Iterable[bytes], file: str) -> Iterator[RawRow]:
    for number, line in enumerate(stream, 1):
        if not line.isspace():
            yield _json_row(line.removeprefix(codecs.BOM_UTF8), file, number)


def _json_row(line: bytes, file: str, number: int) -> RawRow:
    if b"\0" in line:
        return RawRow(file, number, problem="has NUL bytes")
    try:
        return RawRow(file, number, json.loads(line.decode().rstrip()))
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 from byte {error.start + 1} on"
    except RecursionError:
        problem = "is nested too deeply"
    except ValueError as error:
        problem = _not_json(error, cut_off=not line.endswith(b"\n"))
    return RawRow(file, number, problem=problem)


def _not_json(error: ValueError, *, cut_off: bool) -> str:
    if cut_off:
        return "is cut off: the file ends in the middle of it"
    if isinstance(error, json.JSONDecodeError):
        return f"is not JSON: {error.msg.removesuffix(' at')} at column {error.colno}"
    return f"is not JSON: {error}"


def _parquet_rows(path: Path) -> Iterator[RawRow]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path, pre_buffer=False) as file:
            columns = [name for name in _COLUMNS if name in file.schema_arrow.names]
            number = 0
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
                yield from _batch_rows(batch, str(path), number)
                number += batch.num_rows
    except ArrowException as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise DataError(f"{path} is not a sound parquet file ({reason}): get it again") from error


def _batch_rows(batch: Any, file: str, before: int) -> Iterator[RawRow]:
    """The rows of an Arrow batch, of which `before` rows came earlier."""
    try:
        values = batch.to_pylist()
    except UnicodeDecodeError:  # one value spoils the batch: find it
        for at in range(batch.num_rows):
            yield _arrow_row(batch.slice(at, 1), file, before + at + 1)
    else:
        for number, value in enumerate(values, before + 1):
            yield RawRow(file, number, value, counted="row")


def _arrow_row(row: Any, file: str, number: int) -> RawRow:
    try:
        return RawRow(file, number, row.to_pylist()[0], counted="row")
    except UnicodeDecodeError:
        return RawRow(file, number, problem="is not UTF-8", counted="row")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn failures to read `path` into one sentence."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file ({error}): get it again") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"{path} cannot be read ({reason}): check the path and rights") from error


def _sha256(files: Sequence[Traversable]) -> str:
    """The hash of the files' bytes, one after the other."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def _check_no_revision(name: str, revision: str | None) -> None:
    if revision is not None:
        raise ConfigError(f"--revision is for datasets of the Hub, not for {name}: leave it out")


# --- the Hub ------------------------------------------------------------------------------------


def open_hub(name: str, split: str | None, revision: str | None) -> RowSource:
    """A dataset of the Hugging Face Hub; `KardiaBench` is short for `Jhcircle/KardiaBench`.

    The split's files are downloaded to the Hub's cache, and read from there when offline;
    `identity` pins the commit. Raises `DataError` with the next step for everything that the Hub
    answers but the data.
    """
    repo = HUB_REPO if name == "KardiaBench" else name
    split = split or _DEFAULT_SPLIT
    snapshot = _download(repo, split, revision)
    files = _snapshot_files(repo, split, snapshot)
    return RowSource(
        rows=partial(_hub_rows, files, f"{repo} {split}"),
        identity={"name": repo, "split": split, "revision": snapshot.name},
    )


def _page(repo: str) -> str:
    return f"https://huggingface.co/datasets/{repo}"


def _download(repo: str, split: str, revision: str | None) -> Path:
    """The folder that holds the split's files; it is named after the commit."""
    import httpx
    from huggingface_hub import errors, snapshot_download

    patterns = [
        f"{folder}{split}{shard}{extension}"
        for folder in ("", "data/")
        for shard in ("", "-*", "_*", ".*")
        for extension in _EXTENSIONS
    ]
    try:
        folder = snapshot_download(
            repo, repo_type="dataset", revision=revision, allow_patterns=patterns
        )
    except errors.HFValidationError as error:
        raise DataError(f"{repo!r} is no name of a dataset: it reads OWNER/NAME") from error
    except errors.HfHubHTTPError as error:
        raise DataError(_refusal(repo, revision, error)) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, httpx.HTTPError) as error:
        raise DataError(
            f"the Hugging Face Hub cannot be reached, and the {split} split of {repo} is not in"
            " the local cache: connect and try again, or give --dataset a file that you have"
        ) from error
    return Path(folder)


def _refusal(repo: str, revision: str | None, error: Any) -> str:
    """What the Hub's answer means for the user, and the next step."""
    from huggingface_hub import errors, get_token

    status = error.response.status_code
    if isinstance(error, errors.GatedRepoError):
        return _gate(repo, status, error.server_message or "")
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo} has no revision {revision!r}: see {_page(repo)}/commits, or leave it out"
    if status == 401 and get_token():
        return f"the Hub does not accept your token for {repo}: run `hf auth login` again"
    if status == 401 or isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"the Hub shows no dataset {repo}: it may be renamed, removed or private; look for it"
            f" at {_page(repo)}, and run `hf auth login` if it is private"
        )
    return f"the Hub answered {status} for {repo}: try again later, or see {_page(repo)}"


def _gate(repo: str, status: int, message: str) -> str:
    if status == 401:
        return (
            f"{repo} is gated and you are not logged in: ask for access at {_page(repo)},"
            " then run `hf auth login`"
        )
    if "awaiting a review" in message:
        return (
            f"your request for access to {repo} is waiting for its authors: try again when"
            f" {_page(repo)} shows that it is granted"
        )
    if "rejected" in message:
        return (
            f"your request for access to {repo} was rejected: write to its authors at {_page(repo)}"
        )
    if "fine-grained" in message:
        return (
            f"your token may not read gated datasets such as {repo}: allow it at"
            " https://huggingface.co/settings/tokens, or run `hf auth login` with a read token"
        )
    return f"you have no access to {repo} yet: ask for it at {_page(repo)}, then try again"


def _snapshot_files(repo: str, split: str, snapshot: Path) -> list[Path]:
    files = _files_of_split(_data_files(snapshot), split)
    if files:
        return files
    there = _names(_listed_files(repo, snapshot)) or "no data files"
    raise DataError(f"{repo} has no {split} split: it has {there}, choose with --split")


def _listed_files(repo: str, snapshot: Path) -> list[Path]:
    """The data files of the whole repository, downloaded or not, as far as is known offline."""
    from huggingface_hub import errors, get_cached_repo_tree

    try:
        tree = get_cached_repo_tree(repo, repo_type="dataset", revision=snapshot.name)
    except errors.CachedRepoTreeNotFoundError:
        return _data_files(snapshot)
    return [Path(file.path) for file in tree if file.path.endswith(_EXTENSIONS)]


def _hub_rows(files: Sequence[Path], place: str) -> Iterator[RawRow]:
    table = _loaded(files)
    if table is None:
        yield from _rows_of_files(files)
        return
    for number, row in enumerate(table, 1):
        yield RawRow(place, number, row, counted="row")


def _loaded(files: Sequence[Path]) -> Any:
    """The files as one `datasets.Dataset`, memory-mapped.

    None where they are no table as a whole: row by row it can be told which rows are at fault.
    """
    import datasets

    builder = "parquet" if _extension(files[0]) == ".parquet" else "json"
    paths = [str(path) for path in files]
    with _silence(datasets):
        try:
            return datasets.load_dataset(builder, data_files=paths, split="train")
        except datasets.exceptions.DatasetsError:
            return None


@contextmanager
def _silence(datasets: Any) -> Iterator[None]:
    """No progress bars for a matter of a second, and no log: what goes wrong is told by us."""
    hidden = datasets.utils.are_progress_bars_disabled()
    verbosity = datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if not hidden:
            datasets.enable_progress_bars()
