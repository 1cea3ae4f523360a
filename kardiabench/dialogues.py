"""Dialogues and turns of a dataset: checked and chosen in one pass, streamed in the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

from kardiabench.contracts import Identity, OnBadRow, RawRow, RowSource
from kardiabench.errors import ConfigError, DataError
from kardiabench.fingerprints import digest
from kardiabench.records import Dialogue, GoldSource, Turn
from kardiabench.rows import BadRow, place, read_row, turns_of
from kardiabench.sampling import Candidate, Selection, choose

_MOST_SENTENCES = 20


class Characters(NamedTuple):
    """Lengths over all turns, for estimates of cost, in characters.

    `prompt`: every turn with the row's system prompt and its gold history; `reply`: gold replies.
    """

    prompt: int
    reply: int


class Extent(NamedTuple):
    """How much some dialogues are; `gold_sources` counts turns by where their gold emotion is."""

    dialogues: int
    turns: int
    personas: int
    gold_sources: Mapping[GoldSource, int]


class Entry(NamedTuple):
    """What is remembered of a good row, `position` rows behind the source's first."""

    position: int
    id: str
    persona_id: str
    emotion: str
    n_turns: int
    n_span_turns: int
    characters: Characters


@dataclass(frozen=True)
class Shard:
    """One of `of` parts of the chosen dialogues, counted from 1."""

    index: int
    of: int


@dataclass(frozen=True)
class Dialogues:
    """The chosen dialogues of a dataset. Iterating streams them, in the dataset's order.

    `fingerprint` stands for their content (16 hexadecimal digits), whatever the file's order.
    `rows_read` counts all rows, bad ones too; `skipped` says what was wrong with the first 20 of
    `n_skipped`. Where these are a `part` of the chosen dialogues, `fingerprint` and `whole` are of
    all of them; every other number is of what is iterated over.
    """

    fingerprint: str
    rows_read: int
    skipped: tuple[str, ...]
    n_skipped: int
    whole: Extent
    identity: Identity
    source: RowSource = field(repr=False)
    entries: Sequence[Entry] = field(repr=False)
    part: Shard | None = None

    @property
    def n_dialogues(self) -> int:
        """How many dialogues are iterated over."""
        return self._extent.dialogues

    @property
    def n_turns(self) -> int:
        """How many turns they have."""
        return self._extent.turns

    @property
    def n_personas(self) -> int:
        """How many personas they are of."""
        return self._extent.personas

    @property
    def gold_sources(self) -> Mapping[GoldSource, int]:
        """Their turns by where the gold emotion comes from."""
        return self._extent.gold_sources

    @cached_property
    def characters(self) -> Characters:
        """Their lengths."""
        return Characters(
            prompt=sum(entry.characters.prompt for entry in self.entries),
            reply=sum(entry.characters.reply for entry in self.entries),
        )

    @cached_property
    def _extent(self) -> Extent:
        return _extent(self.entries)

    @cached_property
    def _chosen(self) -> Mapping[int, str]:
        """Which rows of the source (counted from 0) are used, and the dialogue id of each."""
        return {entry.position: entry.id for entry in self.entries}

    def shard(self, index: int, of: int) -> Dialogues:
        """The part `index` (from 1) of `of`: every `of`-th dialogue in the dataset's order.

        Raises `ConfigError` for a part without a dialogue.
        """
        part = self.entries[index - 1 :: of]
        if not part:
            raise ConfigError(
                f"--shard {index}/{of}: part {index} would be empty, since only "
                f"{self.n_dialogues} dialogues are chosen; make at most {self.n_dialogues} parts"
            )
        return replace(self, entries=part, part=Shard(index, of))

    def __iter__(self) -> Iterator[Dialogue]:
        """Read the source again; raises `DataError` when it is no longer what it was."""
        rows_read = 0
        for position, raw in enumerate(self.source.rows()):
            rows_read += 1
            if position in self._chosen:
                yield _same_dialogue(raw, self._chosen[position])
        if rows_read != self.rows_read:
            raise _changed(_name(self.identity))

    def turns(self) -> Iterator[Turn]:
        """Stream the turns, those of one dialogue together and in order."""
        for dialogue in self:
            yield from turns_of(dialogue)


def load(
    source: RowSource, selection: Selection | None = None, on_bad_row: OnBadRow = "fail"
) -> Dialogues:
    """Read `source` once: check every row and choose. No text is kept.

    Raises `BadRow` for the first bad row unless `on_bad_row` is `skip`, and `DataError` when
    nothing is left to use.
    """
    selection = selection or Selection()
    survey = _survey(source, on_bad_row)
    _check_not_empty(survey, source.identity)
    ids = frozenset(choose(map(_candidate, survey.entries), selection))
    if not ids:
        raise _nothing_selected(survey, selection, source.identity)
    entries = [entry for entry in survey.entries if entry.id in ids]
    return Dialogues(
        fingerprint=digest(sorted(ids)),
        rows_read=survey.rows_read,
        skipped=tuple(survey.sentences),
        n_skipped=survey.rows_read - len(survey.entries),
        whole=_extent(entries),
        identity=source.identity,
        source=source,
        entries=entries,
    )


@dataclass
class _Survey:
    """What the first pass found."""

    entries: list[Entry]
    sentences: list[str]
    rows_read: int = 0


def _survey(source: RowSource, on_bad_row: OnBadRow) -> _Survey:
    survey = _Survey(entries=[], sentences=[])
    first_places: dict[str, tuple[str, str]] = {}
    for position, raw in enumerate(source.rows()):
        survey.rows_read += 1
        try:
            dialogue = read_row(raw)
            _check_new(dialogue.id, raw, first_places)
        except BadRow as bad:
            if on_bad_row == "fail":
                raise bad.hinted("--on-bad-row skip leaves such rows out") from None
            if len(survey.sentences) < _MOST_SENTENCES:
                survey.sentences.append(str(bad))
        else:
            survey.entries.append(_entry(position, dialogue))
    return survey


def _check_new(dialogue_id: str, raw: RawRow, first_places: dict[str, tuple[str, str]]) -> None:
    if dialogue_id not in first_places:
        first_places[dialogue_id] = (raw.file, f"{raw.counted} {raw.line}")
        return
    file, line = first_places[dialogue_id]
    at = line if file == raw.file else f"{file} {line}"
    raise BadRow(raw, "", f"is the same dialogue as {at}")


def _entry(position: int, dialogue: Dialogue) -> Entry:
    turns = turns_of(dialogue)
    return Entry(
        position=position,
        id=dialogue.id,
        persona_id=dialogue.persona_id,
        emotion=dialogue.emotion,
        n_turns=len(turns),
        n_span_turns=sum(turn.gold_source == "span" for turn in turns),
        characters=_lengths(dialogue, turns),
    )


def _lengths(dialogue: Dialogue, turns: Sequence[Turn]) -> Characters:
    so_far = [0]
    for message in dialogue.messages:
        so_far.append(so_far[-1] + len(message.content))
    return Characters(
        prompt=sum(so_far[turn.end] for turn in turns), reply=sum(len(turn.gold) for turn in turns)
    )


def _candidate(entry: Entry) -> Candidate:
    return Candidate(entry.id, entry.persona_id, entry.emotion)


def _extent(entries: Sequence[Entry]) -> Extent:
    turns = sum(entry.n_turns for entry in entries)
    by_span = sum(entry.n_span_turns for entry in entries)
    return Extent(
        dialogues=len(entries),
        turns=turns,
        personas=len({entry.persona_id for entry in entries}),
        gold_sources={"span": by_span, "dialogue": turns - by_span},
    )


def _same_dialogue(raw: RawRow, dialogue_id: str) -> Dialogue:
    try:
        dialogue = read_row(raw)
    except BadRow as bad:
        raise _changed(place(raw)) from bad
    if dialogue.id != dialogue_id:
        raise _changed(place(raw))
    return dialogue


def _changed(where: str) -> DataError:
    return DataError(f"{where} changed while the dataset was in use: start again")


def _check_not_empty(survey: _Survey, identity: Identity) -> None:
    if survey.rows_read == 0:
        raise DataError(f"{_name(identity)} has no rows: give another --dataset or --split")
    if not survey.entries:
        raise DataError(
            f"{_name(identity)} has no usable row: all {survey.rows_read} were skipped,"
            f" the first because of {survey.sentences[0]}"
        )


def _nothing_selected(survey: _Survey, selection: Selection, identity: Identity) -> DataError:
    there = ", ".join(sorted({entry.emotion for entry in survey.entries}))
    return DataError(
        f"--emotions {','.join(sorted(selection.labels))} leaves none of the {len(survey.entries)}"
        f" dialogues of {_name(identity)}, whose emotions are: {there}"
    )


def _name(identity: Identity) -> str:
    """A dataset for people: its name and split."""
    split = identity.get("split")
    return f"{identity.get('name', 'the dataset')}" + (f" ({split})" if split else "")
