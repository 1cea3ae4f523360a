"""Packs a run: its figures always, its replies and the judges' quotes where they may go out."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import kardiabench
from kardiabench.bundle import Bundle, read_bundle
from kardiabench.bundle_archive import (
    BUNDLE_VERSION,
    INDEX,
    SUFFIX,
    TEXTS,
    TURNS,
    checksum,
    dump_json,
    dump_line,
    remove_leftovers,
    unfinished,
    write_archive,
)
from kardiabench.bundle_cards import public_card
from kardiabench.bundle_check import differences
from kardiabench.bundle_redaction import (
    checked_manifest,
    is_open,
    public_manifest,
    public_text,
    public_value,
    refuse_private_protocol,
    run_id,
)
from kardiabench.bundle_rows import TurnNote, TurnText, turn_row, word_counts
from kardiabench.calibration import kept_calibration
from kardiabench.cards import kept_card
from kardiabench.drift import read_anchor_verdicts
from kardiabench.errors import ConfigError, RunError, StorageError
from kardiabench.files import lock_folder
from kardiabench.manifests import MANIFEST, Manifest, read_manifest
from kardiabench.records import clean_text
from kardiabench.redaction import known_secrets, without_keys
from kardiabench.results import Results, read_results
from kardiabench.shards import refuse_part
from kardiabench.spans import SPAN_NAMES
from kardiabench.store import ANCHORS, CALIBRATION, CARDS, SUMMARY, iterate_replies, verdict_lines
from kardiabench.summary import check_turns
from kardiabench.texts import iterate_texts

#: What no bundle has.
NEVER = "the dataset's text: profiles, situations, messages and gold replies"
REPLIES = "replies and the judges' evidence, which may quote the dataset"
THINKING = "the model's thinking that came apart from its replies"
#: Verdicts whose evidence is what a server or a program said, and quotes nobody.
_TRANSPORT = frozenset(("error", "skipped"))
#: Of a calibration what is published.
_CALIBRATION = (
    "calibration_version", "kardiabench", "created", "judge", "ratings", "dimensions", "refused",
)  # fmt: skip


@dataclass(frozen=True)
class Packed:
    """A bundle that was written, and what is in it.

    `in_use` tells that another process held the run, so that its logs may have grown since.
    """

    path: Path
    bundle: Bundle
    in_use: bool = False

    @property
    def complete(self) -> bool:
        """Whether every planned turn has its reply and all verdicts."""
        return bool(self.bundle.summary["complete"])


def pack_run(
    run: Path,
    out: Path | None = None,
    *,
    include_replies: bool | None = None,
    allow_protocol: bool = False,
    force: bool = False,
) -> Packed:
    """Pack the run directory `run` into `out`, a file or a folder (the current one by default).

    `include_replies` None means: where the dataset is the embedded sample. The bundle is read and
    checked before it is in its place. Raises `RunError` for a run that cannot be packed, and for a
    protocol that names a key, or a path or an address unless `allow_protocol` is set.
    """
    _refuse_bundle(run)
    manifest, secrets = read_manifest(run), known_secrets()
    refuse_part(run, manifest)
    public = checked_manifest(run, manifest, secrets)
    refuse_private_protocol(manifest, secrets, allow_paths=allow_protocol)
    with_texts = is_open(manifest) if include_replies is None else include_replies
    path = _place(out, manifest, force=force)
    in_use = _in_use(run)
    members = {MANIFEST: dump_json(public)}
    members |= _members(run, manifest, secrets, with_texts=with_texts)
    return Packed(path, _write(path, members, run), in_use)


def bundle_name(manifest: Manifest) -> str:
    """`MODEL-DATASET-ID.kardia.zip`, of letters, digits and hyphens."""
    public = public_manifest(manifest)
    words = [_slug(str(public[part]["name"])) for part in ("model", "dataset")]
    return "-".join([*words, run_id(manifest)[:8]]) + SUFFIX


def _refuse_bundle(run: Path) -> None:
    if run.name.endswith(SUFFIX) and run.is_file():
        raise ConfigError(
            f"{run} is a bundle already; give the directory of a run, or check the bundle with: "
            f"kardiabench submit verify {run}"
        )


def _in_use(run: Path) -> bool:
    """Whether another process holds the run: it is tried, and let go at once."""
    try:
        lock_folder(run).release()
    except StorageError:  # a folder that is read only: nobody writes there
        return False
    except RunError:
        return True
    return False


def _members(
    run: Path, manifest: Manifest, secrets: Sequence[str], *, with_texts: bool
) -> Iterator[tuple[str, bytes]]:
    """Every member but the manifest, `bundle.json` and the summary, which is made of these."""
    results = read_results(run, manifest)
    check_turns(results, manifest, run)
    yield TURNS, b"".join(_turn_lines(run, results))
    if with_texts:
        yield TEXTS, b"".join(_text_lines(run, results, secrets))
    yield from _instruments(run, manifest, results, secrets)


def _turn_lines(run: Path, results: Results) -> Iterator[bytes]:
    notes: dict[str, TurnNote] = {}
    for line in iterate_replies(run):
        reply = line.stored.reply
        spans = {name: getattr(reply.spans, name) for name in SPAN_NAMES}
        notes[reply.turn_id] = TurnNote(reply.finish_reason, word_counts(spans))
    for turn_id, turn in results.turns.items():
        yield dump_line(turn_row(turn_id, turn, notes[turn_id]))


def _text_lines(run: Path, results: Results, secrets: Sequence[str]) -> Iterator[bytes]:
    for text in iterate_texts(run):
        verdicts = results.turns[text.turn_id].verdicts
        quoting = {judge for judge, v in verdicts.items() if v.status not in _TRANSPORT}
        yield dump_line(_text_row(text, quoting, secrets))


def _text_row(text: TurnText, quoting: Collection[str], secrets: Sequence[str]) -> dict[str, Any]:
    """The words as they were said, less keys; notes of judges less addresses and paths too."""

    def bare(words: str | None) -> str | None:
        return None if words is None else clean_text(without_keys(words, secrets))

    return {
        "turn_id": text.turn_id,
        "spans": {name: bare(span) for name, span in text.spans.items()},
        "raw": bare(text.raw),
        "evidence": {
            judge: {
                about: public_text(words, secrets) if about == "judge" else bare(words)
                for about, words in sorted(said.items())
            }
            for judge, said in sorted(text.evidence.items())
            if judge in quoting
        },
    }


def _instruments(
    run: Path, manifest: Manifest, results: Results, secrets: Sequence[str]
) -> Iterator[tuple[str, bytes]]:
    judges = manifest["protocol"]["scorer"]["judges"]
    anchors = b"".join(_anchor_lines(run, judges))
    if anchors:
        yield ANCHORS, anchors
    for name, judge in judges.items():
        card = kept_card(run, name, judge["fingerprint"])
        if card is not None:
            yield f"{CARDS}/{name}.json", dump_json(public_card(card, name, judge, secrets))
    calibration = kept_calibration(run)
    if calibration is not None:
        yield CALIBRATION, dump_json(_public_calibration(calibration, results, secrets))


def _anchor_lines(run: Path, judges: Mapping[str, Any]) -> Iterator[bytes]:
    """The verdicts that count on the anchors, which are ours, without evidence."""
    from kardiabench.anchors import load_anchors

    verdicts = read_anchor_verdicts(run)
    for name, judge in sorted(judges.items()):
        of_judge = verdicts.of(judge["fingerprint"])
        for anchor in load_anchors() if of_judge else ():
            verdict = of_judge.get(anchor.id)
            if verdict is not None:
                bare = replace(verdict, judge=name, evidence={}, parts={})
                yield verdict_lines(anchor.item.reply, [bare])


def _public_calibration(
    calibration: Mapping[str, Any], results: Results, secrets: Sequence[str]
) -> dict[str, Any]:
    """The curves; of the personas that people rated, only those of the run, which count."""
    shown = {
        key: public_value(calibration[key], secrets) for key in _CALIBRATION if key in calibration
    }
    known = set(results.persona_names)
    for curve in shown["dimensions"].values():
        by_persona = curve["rectifier"].get("by_persona")
        if by_persona is not None:
            kept = {name: mean for name, mean in by_persona.items() if name in known}
            curve["rectifier"]["by_persona"] = kept
    return shown


def _place(out: Path | None, manifest: Manifest, *, force: bool) -> Path:
    path = Path() if out is None else out
    if path.is_dir() or not path.name.endswith(SUFFIX):
        if not path.is_dir() and path.suffix:
            raise ConfigError(
                f"--out {path}: a bundle's name ends with {SUFFIX}; give such a name, or a folder "
                "that is there"
            )
        path = path / bundle_name(manifest)
    if path.is_dir():
        raise ConfigError(f"{path} is a folder, which no bundle replaces; give another --out")
    if path.exists() and not force:
        raise ConfigError(f"{path} is there already; give another --out, or --force to replace it")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _write(path: Path, members: dict[str, bytes], run: Path) -> Bundle:
    """Write, read and check the bundle of `run` beside its place, then put it there."""
    remove_leftovers(path)
    temporary = unfinished(path)
    try:
        with _named(run, temporary):
            write_archive(temporary, _indexed(members | {SUMMARY: b"{}\n"}))
            summary = read_bundle(temporary).summarise()
            write_archive(temporary, _indexed(members | {SUMMARY: dump_json(summary)}))
            bundle = read_bundle(temporary)
            found = next(differences(bundle), None)
        if found is not None:
            raise RunError(
                f"{run} was not packed: {found}; the run's logs were edited, or a judge of it is "
                "not deterministic: restore the logs or score the run again"
            )
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return replace(bundle, path=path)


@contextmanager
def _named(run: Path, temporary: Path) -> Iterator[None]:
    """What is wrong with the file that is being made, said of the run that it is made of."""
    try:
        yield
    except RunError as error:
        what = str(error).rpartition("; ")[0] or str(error)  # the advice is for who reads bundles
        for said in (f"{temporary}, ", f"{temporary}: "):
            what = what.removeprefix(said)
        raise RunError(
            f"{run} was not packed: {what.replace(str(temporary), 'its bundle')}; "
            "restore the logs or score the run again"
        ) from error


def _indexed(members: Mapping[str, bytes]) -> dict[str, bytes]:
    """The members with their index."""
    manifest = json.loads(members[MANIFEST])
    index = {
        "bundle_version": BUNDLE_VERSION,
        "kardiabench": kardiabench.__version__,
        "run_id": run_id(manifest),
        "left_out": [NEVER, THINKING] if TEXTS in members else [NEVER, REPLIES, THINKING],
        "members": {name: checksum(content) for name, content in sorted(members.items())},
    }
    return {**members, INDEX: dump_json(index)}


def _slug(name: str) -> str:
    """Letters, digits and hyphens only: a name is never a path."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name)[-60:].strip("-") or "run"
