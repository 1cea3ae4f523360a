"""The zip file that a bundle is. What is read comes from somebody else and is never unpacked.

Only members of known names are read; the sizes are checked before anything is, then the checksums.
"""

from __future__ import annotations

import json
import os
import re
import struct
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from kardiabench.bundle_schema import BadMember, is_word, read_index, strict_json
from kardiabench.errors import RunError
from kardiabench.manifests import MANIFEST
from kardiabench.store import ANCHORS, CALIBRATION, CARDS, SUMMARY

SUFFIX = ".kardia.zip"
BUNDLE_VERSION = 1
INDEX, TURNS, TEXTS = "bundle.json", "turns.jsonl", "texts.jsonl"

#: Bytes of all members unpacked, of the file itself, and of a member that is read as one object.
MOST_BYTES, MOST_PACKED, MOST_OBJECT = 512 << 20, 256 << 20, 16 << 20
#: How many times a member may shrink.
MOST_RATIO = 400
_MOST_MEMBERS = 100
#: Seconds after which nobody writes an unfinished bundle any more.
_LONG_AGO = 3600
_SMALL = 1 << 20
_REQUIRED = (INDEX, MANIFEST, SUMMARY, TURNS)
_KNOWN = (*_REQUIRED, TEXTS, ANCHORS, CALIBRATION)
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError)
#: The end of a zip file without a comment, and what stands before it in a large one (zip64).
_END, _END_MARK, _LARGE_MARK = struct.Struct("<4s4H2LH"), b"PK\5\6", b"PK\6\7"
_MADE_BY = "give a file that `kardiabench submit pack` made"


# --- writing --------------------------------------------------------------------------------------


def write_archive(path: Path, members: Mapping[str, bytes]) -> None:
    """Write `members` as a zip file: equal members give equal bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(members.items()):
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3  # Unix, on every system
            info.external_attr = 0o644 << 16
            archive.writestr(info, content)


def unfinished(path: Path) -> Path:
    """Where the bundle `path` is written by this process until it is whole, beside it."""
    return path.with_name(f".{path.name}.{os.getpid()}")


def remove_leftovers(path: Path) -> None:
    """Delete what processes that were killed left of the bundle `path` more than an hour ago."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9]{{1,10}}")
    with suppress(OSError):  # a folder that cannot be listed: the rest is for its owner
        found = [file for file in path.parent.iterdir() if name.fullmatch(file.name)]
        for file in found:
            if file.is_file() and time.time() - file.stat().st_mtime > _LONG_AGO:
                file.unlink(missing_ok=True)


def checksum(content: bytes) -> str:
    """The SHA-256 of a member, as `bundle.json` has it."""
    return sha256(content).hexdigest()


def dump_json(value: object) -> bytes:
    """A member that is one object: equal values give equal bytes."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def dump_line(value: object) -> bytes:
    """A line of a member."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode() + b"\n"


# --- reading --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Archive:
    """An open bundle whose members have known names and sizes."""

    path: Path
    file: zipfile.ZipFile
    members: Mapping[str, zipfile.ZipInfo]

    def bad(self, member: str, why: str) -> RunError:
        """What is wrong, where, and what to do."""
        where = f"{self.path}, {member}" if member else str(self.path)
        return RunError(f"{where}: {why}; pack the run again, or ask for the bundle anew")

    def read(self, member: str) -> bytes:
        """The bytes of a member, no more than it said it has."""
        try:
            with self.file.open(self.members[member]) as stream:
                return stream.read(MOST_BYTES)
        except _BROKEN as error:
            raise self.bad(member, f"it is damaged ({brief(error)})") from error

    def json(self, member: str) -> dict[str, Any]:
        """The object that a member is."""
        try:
            return strict_json(self.read(member))
        except BadMember as error:
            raise self.bad(member, str(error)) from error

    def lines(self, member: str) -> Iterator[tuple[str, bytes]]:
        """The lines of a member, each with where it stands."""
        content = self.read(member)
        if content and not content.endswith(b"\n"):
            raise self.bad(member, "its last line is cut off")
        for number, line in enumerate(content.split(b"\n")[:-1], 1):
            yield f"{member} line {number}", line

    def index(self) -> dict[str, Any]:
        """`bundle.json`; raises `RunError` unless every member is as it says."""
        content = self.json(INDEX)
        version = content.get("bundle_version")
        if version != BUNDLE_VERSION:
            raise RunError(
                f"{self.path} is a bundle of version {str(version)[:20]!r}, and this kardiabench "
                f"reads {BUNDLE_VERSION}; use the version that packed it"
            )
        try:
            index = read_index(content)
        except BadMember as error:
            raise self.bad(INDEX, str(error)) from error
        self._check_sums(index["members"])
        return index

    def _check_sums(self, sums: Mapping[str, str]) -> None:
        for name in sorted(set(sums) ^ (set(self.members) - {INDEX})):
            what = "is missing" if name in sums else f"is not listed in {INDEX}"
            raise self.bad(name[:100], f"it {what}")
        for name in sorted(sums):
            if checksum(self.read(name)) != sums[name]:
                raise self.bad(name, f"it was changed since it was packed (SHA-256 in {INDEX})")


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """The bundle at `path`; raise `RunError` for a file that can be none."""
    if not path.is_file():
        raise RunError(f"{path} is no file; give a bundle of `kardiabench submit pack`")
    try:
        _check_end(path)
        file = zipfile.ZipFile(path)
    except (*_BROKEN, ValueError) as error:
        raise RunError(
            f"{path} is no bundle, or only a part of one ({brief(error)}); {_MADE_BY}, "
            "or get it anew"
        ) from error
    with file:
        yield Archive(path, file, _members(path, file))


def brief(error: BaseException) -> str:
    """What an error says, on one short line."""
    return " ".join(str(error).split())[:100] or type(error).__name__


def _check_end(path: Path) -> None:
    """Raise `ValueError` unless the list of members is short: it is read as a whole."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _END.size - 20))
        tail = file.read()
    if size > MOST_PACKED:
        raise ValueError(f"it has more than {MOST_PACKED >> 20} MiB")
    end = tail[-_END.size :]
    if len(tail) < _END.size or not end.startswith(_END_MARK) or not end.endswith(b"\0\0"):
        raise ValueError("it does not end as a zip file without a comment does")
    _, _, _, _, count, length, _, _ = _END.unpack(end)
    if count > _MOST_MEMBERS or length > _SMALL or tail[: -_END.size][-20:].startswith(_LARGE_MARK):
        raise ValueError("it has too many members")


def _members(path: Path, file: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The members by name; raise `RunError` unless a bundle may have them all."""
    found: dict[str, zipfile.ZipInfo] = {}
    for info in file.infolist():
        why = _refused(info) or ("is there twice" if info.filename in found else "")
        if why:
            raise RunError(f"{path} is no bundle: {info.filename[:80]!r} in it {why}; {_MADE_BY}")
        found[info.filename] = info
    if sum(info.file_size for info in found.values()) > MOST_BYTES:
        raise RunError(f"{path} unpacks to more than {MOST_BYTES >> 20} MiB; {_MADE_BY}")
    missing = [name for name in _REQUIRED if name not in found]
    if missing:
        raise RunError(f"{path} is no bundle: it has no {missing[0]}; {_MADE_BY}")
    return found


def _refused(info: zipfile.ZipInfo) -> str:
    """Why no bundle has such a member; empty for one that it may have."""
    if info.filename not in _KNOWN and not _is_card(info.filename):
        return "is of an unknown name"
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is encrypted or packed in another way"
    if info.file_size > max(_SMALL, MOST_RATIO * info.compress_size):
        return f"unpacks to more than {MOST_RATIO} times its size"
    if info.filename.endswith(".json") and info.file_size > MOST_OBJECT:
        return f"unpacks to more than {MOST_OBJECT >> 20} MiB"
    return ""


def _is_card(name: str) -> bool:
    folder, _, file = name.partition("/")
    return folder == CARDS and file.endswith(".json") and is_word(file.removesuffix(".json"))
