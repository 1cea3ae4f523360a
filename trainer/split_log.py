"""Samples and verdicts of a `split`, on disk as soon as they exist, so that nothing is paid twice.

`samples.jsonl` begins with what is asked; then it has a line a sample. `verdicts.jsonl` has a line
a verdict. The last line about a sample (and a judge) is the one that counts; what failed is in the
files, and is asked for again when they are opened the next time.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from kardiabench.errors import ConfigError, RunError
from kardiabench.files import Log, lines_of, lock_folder
from kardiabench.records import Reply, Verdict
from kardiabench.session import changes

if TYPE_CHECKING:
    from pydantic import ConfigDict, TypeAdapter

SAMPLES, VERDICTS = "samples.jsonl", "verdicts.jsonl"
_FINITE: ConfigDict = {"allow_inf_nan": False}


@dataclass(frozen=True, slots=True)
class StoredSample:
    """A line of `samples.jsonl`."""

    __pydantic_config__: ClassVar[ConfigDict] = _FINITE

    sample: int
    reply: Reply


@dataclass(frozen=True, slots=True)
class StoredVerdict:
    """A line of `verdicts.jsonl`."""

    __pydantic_config__: ClassVar[ConfigDict] = _FINITE

    sample: int
    verdict: Verdict


class SplitLog:
    """Both files of a folder, open and locked against other processes. A context manager.

    `asked` has the keys `model` and `protocol`: what decides the samples and verdicts. Memory is 8
    bytes a sample and a verdict, and a turn's id; texts stay on the disk. Raises `RunError` for a
    folder whose files are of something else, naming what differs.
    """

    def __init__(
        self, folder: Path, asked: Mapping[str, Any], judges: Sequence[str], samples: int
    ) -> None:
        self._judges = tuple(judges)
        self._samples = samples
        #: By turn: of every sample the offset of its reply, then those of its verdicts; -1: none.
        self._places: dict[str, array[int]] = {}
        _make(folder)
        with ExitStack() as undo:
            undo.callback(lock_folder(folder).release)
            self._replies = Log(folder / SAMPLES)
            undo.callback(self._replies.close)
            self._verdicts = Log(folder / VERDICTS)
            undo.callback(self._verdicts.close)
            self._begin(asked)
            self._read()
            self._reply_file = undo.enter_context((folder / SAMPLES).open("rb"))
            self._verdict_file = undo.enter_context((folder / VERDICTS).open("rb"))
            self._open = undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def needs_reply(self, turn_id: str, sample: int) -> bool:
        """Whether the sample has to be drawn."""
        return self._place(turn_id, sample) < 0

    def missing_judges(self, turn_id: str, sample: int) -> tuple[str, ...]:
        """The judges whose verdict on the sample is missing."""
        return tuple(
            name
            for number, name in enumerate(self._judges, start=1)
            if self._place(turn_id, sample, number) < 0
        )

    def reply(self, turn_id: str, sample: int) -> Reply:
        """A sample that is there."""
        self._reply_file.seek(self._place(turn_id, sample))
        stored: StoredSample = _samples().validate_json(self._reply_file.readline())
        return stored.reply

    def verdicts(self, turn_id: str, sample: int) -> list[Verdict]:
        """The verdicts on a sample, those that are there, in the judges' order."""
        found = []
        for number in range(1, len(self._judges) + 1):
            place = self._place(turn_id, sample, number)
            if place >= 0:
                self._verdict_file.seek(place)
                stored: StoredVerdict = _verdicts().validate_json(self._verdict_file.readline())
                found.append(stored.verdict)
        return found

    def add_reply(self, sample: int, reply: Reply) -> None:
        """Keep a sample; one that failed for reasons outside the model counts as none."""
        line = _samples().dump_json(StoredSample(sample, reply)) + b"\n"
        offset = self._replies.append(line)
        if reply.status != "error":
            self._note(reply.turn_id, sample, 0, offset)

    def add_verdict(self, sample: int, verdict: Verdict) -> None:
        """Keep a verdict, a failed one too."""
        line = _verdicts().dump_json(StoredVerdict(sample, verdict)) + b"\n"
        offset = self._verdicts.append(line)
        self._note(verdict.turn_id, sample, 1 + self._judges.index(verdict.judge), offset)

    def _place(self, turn_id: str, sample: int, column: int = 0) -> int:
        places = self._places.get(turn_id)
        return -1 if places is None else places[sample * (1 + len(self._judges)) + column]

    def _note(self, turn_id: str, sample: int, column: int, offset: int) -> None:
        width = 1 + len(self._judges)
        places = self._places.get(turn_id)
        if places is None:
            places = self._places[turn_id] = array("q", [-1]) * (width * self._samples)
        places[sample * width + column] = offset

    def _begin(self, asked: Mapping[str, Any]) -> None:
        path = self._replies.path
        header = next(lines_of(path), None)
        if header is None:
            self._replies.append(json.dumps({"asked": asked}, allow_nan=False).encode() + b"\n")
            return
        try:
            changed = changes(json.loads(header[1])["asked"], asked)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise RunError(
                f"{path} was not written by `python -m trainer split`; give another output folder"
            ) from error
        if changed:
            raise RunError(
                f"{path.parent} holds a split of another configuration ({changed}); give the old "
                "one to go on with it, or another output folder"
            )

    def _read(self) -> None:
        for offset, line in lines_of(self._replies.path):
            if offset:
                reply, sample = self._sample_at(offset, line)
                if reply.status != "error":
                    self._note(reply.turn_id, sample, 0, offset)
        for offset, line in lines_of(self._verdicts.path):
            verdict, sample = self._verdict_at(offset, line)
            if is_whole(verdict):
                column = 1 + self._judges.index(verdict.judge)
                self._note(verdict.turn_id, sample, column, offset)

    def _sample_at(self, offset: int, line: bytes) -> tuple[Reply, int]:
        try:
            stored: StoredSample = _samples().validate_json(line)
        except ValueError as error:
            raise _damaged(self._replies.path, offset) from error
        self._check_sample(stored.sample, self._replies.path, offset)
        return stored.reply, stored.sample

    def _verdict_at(self, offset: int, line: bytes) -> tuple[Verdict, int]:
        path = self._verdicts.path
        try:
            stored: StoredVerdict = _verdicts().validate_json(line)
        except ValueError as error:
            raise _damaged(path, offset) from error
        self._check_sample(stored.sample, path, offset)
        if stored.verdict.judge not in self._judges:
            raise _damaged(path, offset)
        return stored.verdict, stored.sample

    def _check_sample(self, sample: int, path: Path, offset: int) -> None:
        if not 0 <= sample < self._samples:
            raise _damaged(path, offset)


def is_whole(verdict: Verdict) -> bool:
    """Whether nothing of the verdict has to be asked for again."""
    if verdict.status == "partial":
        return None not in verdict.scores.values()
    return verdict.status == "ok"


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"output: the folder {folder} cannot be made ({error.strerror}); give another one"
        ) from error


def _damaged(path: Path, offset: int) -> RunError:
    return RunError(
        f"{path}, byte {offset}: this line was changed or damaged; remove the line (what it says "
        "is then asked for again) or restore the file"
    )


@cache
def _samples() -> TypeAdapter[StoredSample]:
    from pydantic import TypeAdapter

    return TypeAdapter(StoredSample)


@cache
def _verdicts() -> TypeAdapter[StoredVerdict]:
    from pydantic import TypeAdapter

    return TypeAdapter(StoredVerdict)
