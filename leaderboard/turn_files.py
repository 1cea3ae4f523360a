"""A run's data files: its scores by persona and dialogue, and its turns, in files of modest size.

The dialogue browser loads the files of the dialogue that it shows, and no others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from kardiabench.bundle_rows import TurnText
from kardiabench.emotions import EMOTIONS
from kardiabench.errors import RunError
from kardiabench.results import TurnResult
from kardiabench.stats import Codes, Floats
from leaderboard.columns import Columns
from leaderboard.metrics import COMPOSITE
from leaderboard.scripts import LIMIT, numbers, packed, size, write_script
from leaderboard.views import FlagView, Metric

#: The spans of a turn and the judges' evidence, as they are shown.
Shown = dict[str, Any]
#: Characters of one text that are shown.
LONGEST = 8_000
#: Bytes of a dialogue at most, and of a file's means: what a file holds, less its frame.
_WHOLE = LIMIT * 4 // 5
#: Characters of a span and of a piece of evidence, the first that a dialogue's texts all fit with;
#: no evidence at all goes before no replies.
_LENGTHS = ((LONGEST, 1_000), (2_000, 500), (500, 200), (500, 0), (100, 0), (20, 0))
_LEFT_OUT = "… (left out: the dialogue's texts are too long)"
#: By the codes of `Columns.predicted`.
_LABELS: tuple[str | None, ...] = (*EMOTIONS, None)


def write_run_files(
    folder: Path,
    slug: str,
    *,
    columns: Columns,
    metrics: Sequence[Metric],
    flags: Sequence[FlagView],
    texts: Mapping[str, TurnText] | None,
) -> None:
    """Write `data/runs/SLUG/scores.js` and its `turns-K.js`; `texts` by turn, None leaves all out.

    No file is over `LIMIT`: long texts are cut. Raises `RunError` where figures alone are over it,
    `OSError` where nothing can be written.
    """
    shown, sizes = _fitted(columns, texts)
    files = packed(sizes)
    for file in range(max(files, default=-1) + 1):
        chosen = np.flatnonzero(np.asarray(files)[columns.dialogue] == file)
        _write(folder, f"runs/{slug}/turns-{file}", _turns(columns, chosen, shown))
    _write(folder, f"runs/{slug}/scores", _scores(columns, metrics, flags, files))


def _write(folder: Path, key: str, content: Mapping[str, Any]) -> None:
    if write_script(folder, key, content).stat().st_size > LIMIT:
        raise RunError(
            f"it is too large for the site: figures of data/{key}.js take over {LIMIT:,} bytes; "
            "make a run of fewer or shorter dialogues, or with fewer judges"
        )


def cut(text: str, longest: int = LONGEST) -> str:
    """`text`, or its beginning and how much there was."""
    if len(text) <= longest:
        return text
    return f"{text[:longest]}… (cut: {len(text):,} characters)"


def _shown(text: TurnText | None, longest: int, longest_evidence: int) -> Shown | None:
    """What is shown of a turn's texts; None for one that has none."""
    if text is None:
        return None
    spans = {name: cut(span, longest) for name, span in text.spans.items() if span is not None}
    raw = {} if text.raw is None else {"raw": cut(text.raw, longest)}
    evidence = {
        judge: {about: cut(words, longest_evidence) for about, words in said.items()}
        if longest_evidence
        else {"": _LEFT_OUT}
        for judge, said in text.evidence.items()
        if said
    }
    return {"spans": spans | raw, "evidence": evidence}


def _fitted(
    columns: Columns, texts: Mapping[str, TurnText] | None
) -> tuple[list[Shown | None] | None, list[int]]:
    """What is shown of each turn, and the bytes of each dialogue with that."""
    sizes = _figures(columns)
    if texts is None:
        return None, sizes
    ids = columns.ids
    shown: list[Shown | None] = [None] * len(ids)
    for code, places in enumerate(_places(columns)):
        said, taken = _cut_to([texts.get(ids[place]) for place in places], _WHOLE - sizes[code])
        sizes[code] += taken
        for place, one in zip(places, said, strict=True):
            shown[place] = one
    return shown, sizes


def _cut_to(texts: Sequence[TurnText | None], room: int) -> tuple[Sequence[Shown | None], int]:
    """The texts of a dialogue, as long as they fit into `room` bytes, and the bytes they take."""
    for lengths in _LENGTHS:
        if _least(texts, *lengths) > room:  # seen sooner than by writing it all down
            continue
        shown = [_shown(text, *lengths) for text in texts]
        taken = size([shown])
        if taken <= room:
            return shown, taken
    nothing = [None] * len(texts)
    return nothing, size([nothing, nothing])


def _least(texts: Sequence[TurnText | None], longest: int, longest_evidence: int) -> int:
    """The characters of a dialogue's texts when they are cut so: each is a byte at least."""
    said = [text for text in texts if text is not None]
    spans = (span or "" for text in said for span in (*text.spans.values(), text.raw))
    words = (one for text in said for by in text.evidence.values() for one in by.values())
    return sum(min(len(span), longest) for span in spans) + sum(
        min(len(one), longest_evidence) for one in words
    )


def _places(columns: Columns) -> list[Codes]:
    """The places of each dialogue's turns."""
    order = np.argsort(columns.dialogue, kind="stable")
    ends = np.searchsorted(columns.dialogue[order], np.arange(len(columns.dialogues) + 1))
    return [order[start:end] for start, end in pairwise(ends)]


def _figures(columns: Columns) -> list[int]:
    """The bytes of each dialogue's figures, at most: of each column its longest number."""
    judges = _judges(columns.turns)
    wide = _widest(columns.index) + sum(map(_widest, columns.scores.values()))
    words = [
        (*_words(columns, place), *(_status(turn, judge) for judge in judges))
        for place, turn in enumerate(columns.turns)
    ]
    taken = {one: size(one) for one in set(words)}
    number = len(columns.dialogues)
    turns = [wide + taken[one] for one in words]
    found = np.bincount(columns.dialogue, weights=turns, minlength=number)
    names = [size([name, LIMIT]) for name in columns.dialogues]
    return [int(figures) + name for figures, name in zip(found, names, strict=True)]


def _widest(values: Floats | Codes) -> int:
    """The bytes of the longest number of a column and its comma."""
    distinct = np.unique(np.asarray(values, dtype=np.float64))
    return 1 + max((len(str(value)) for value in numbers(distinct)), default=0)


def _words(columns: Columns, place: int) -> tuple[str | None, ...]:
    """What is shown of a turn in words: its status, emotions, and what is wrong with its form."""
    turn = columns.turns[place]
    problems = cut(" ".join(turn.problems) or turn.error_kind, LONGEST)
    gold, predicted = EMOTIONS[columns.gold[place]], _LABELS[columns.predicted[place]]
    return turn.status, gold, predicted, problems


def _judges(turns: Sequence[TurnResult]) -> list[str]:
    return sorted({judge for turn in turns for judge in turn.verdicts})


def _turns(columns: Columns, chosen: Codes, shown: Sequence[Shown | None] | None) -> dict[str, Any]:
    """The turns at the places `chosen`, which are whole dialogues in order."""
    turns = [columns.turns[place] for place in chosen]
    dialogues, counts = np.unique(columns.dialogue[chosen], return_counts=True)
    words = list(zip(*(_words(columns, place) for place in chosen), strict=True))
    status, gold, predicted, problems = map(list, words)
    return {
        "dialogues": [columns.dialogues[code] for code in dialogues],
        "counts": counts.tolist(),
        "index": columns.index[chosen].tolist(),
        "status": status,
        "gold": gold,
        "predicted": predicted,
        "problems": problems,
        "scores": {
            key: numbers(values[chosen])
            for key, values in columns.scores.items()
            if key != COMPOSITE
        },
        "composite": numbers(columns.scores[COMPOSITE][chosen]),
        "verdicts": {judge: [_status(turn, judge) for turn in turns] for judge in _judges(turns)},
        "spans": shown and [(shown[place] or {}).get("spans") for place in chosen],
        "evidence": shown and [(shown[place] or {}).get("evidence") for place in chosen],
    }


def _status(turn: TurnResult, judge: str) -> str | None:
    return turn.verdicts[judge].status if judge in turn.verdicts else None


def _scores(
    columns: Columns, metrics: Sequence[Metric], flags: Sequence[FlagView], files: Sequence[int]
) -> dict[str, Any]:
    """Means by persona and by dialogue of every metric that is a mean."""
    keys = [metric.key for metric in metrics if metric.key in columns.scores]
    flagged = Counter(turn.rpartition("/")[0] for flag in flags for turn in flag.turns)
    personas: dict[str, Any] = {
        "ids": list(columns.personas),
        "turns": np.bincount(columns.persona, minlength=len(columns.personas)).tolist(),
    }
    dialogues: dict[str, Any] = {
        "ids": list(columns.dialogues),
        "shards": list(files),
        "flagged": [flagged[name] for name in columns.dialogues] if flagged else [],
    }
    room = _WHOLE - size([personas, dialogues])
    personas["means"], taken = _means(columns, keys, columns.persona, len(columns.personas), room)
    dialogues["means"], _ = _means(
        columns, keys, columns.dialogue, len(columns.dialogues), room - taken
    )
    return {"personas": personas, "dialogues": dialogues}


def _means(
    columns: Columns, keys: Sequence[str], groups: Codes, number: int, room: int
) -> tuple[dict[str, list[float | None]], int]:
    """The means by metric, and the bytes they take. The last are empty if `room` has no more."""
    found: dict[str, list[float | None]] = {}
    taken = 0
    for key in keys:
        means = numbers(group_means(columns.scores[key], groups, number))
        bytes_ = size({key: means})
        found[key] = means if taken + bytes_ <= room else []
        taken += bytes_ if found[key] else 0
    return found, taken


def group_means(values: Floats, groups: Codes, number: int) -> Floats:
    """The mean of each of `number` groups (codes, shape (n,)) over those present; NaN for none."""
    present = ~np.isnan(values)
    count = np.bincount(groups[present], minlength=number)
    total = np.bincount(groups[present], weights=values[present], minlength=number)
    with np.errstate(invalid="ignore"):
        return np.asarray(total / count, dtype=np.float64)
