"""A run's data files: its scores by persona and dialogue, and its turns, in files of modest size.

The dialogue browser loads the files of the dialogue that it shows, and no others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kardiabench.bundle_rows import TurnText
from kardiabench.emotions import EMOTIONS
from kardiabench.stats import Codes, Floats
from leaderboard.columns import Columns
from leaderboard.metrics import COMPOSITE
from leaderboard.scripts import PACKED, numbers, packed, write_script
from leaderboard.views import FlagView, Metric

#: The spans of a turn and the judges' evidence, as they are shown.
Shown = dict[str, Any]
#: Characters of one text that are shown; of a dialogue that is too long as a whole, and its texts.
LONGEST, SHORT = 8_000, 500
#: By the codes of `Columns.predicted`.
_LABELS: tuple[str | None, ...] = (*EMOTIONS, None)
#: Bytes of a turn's figures, about.
_FIGURES = 120


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

    Raises `OSError` where nothing can be written.
    """
    shown = None if texts is None else [_shown(texts.get(turn)) for turn in columns.ids]
    files = packed(_sizes(columns, shown))
    for file in range(max(files, default=-1) + 1):
        chosen = np.flatnonzero(np.asarray(files)[columns.dialogue] == file)
        write_script(folder, f"runs/{slug}/turns-{file}", _turns(columns, chosen, shown))
    scores = _scores(columns, metrics, flags, files)
    write_script(folder, f"runs/{slug}/scores", scores)


def cut(text: str, longest: int = LONGEST) -> str:
    """`text`, or its beginning and how much there was."""
    if len(text) <= longest:
        return text
    return f"{text[:longest]}… (cut: {len(text):,} characters)"


def _shown(text: TurnText | None) -> Shown | None:
    """What is shown of a turn's texts; None for one that has none."""
    if text is None:
        return None
    spans = {name: cut(span) for name, span in text.spans.items() if span is not None}
    raw = {} if text.raw is None else {"raw": cut(text.raw)}
    evidence = {
        judge: {about: cut(words, SHORT * 2) for about, words in said.items()}
        for judge, said in text.evidence.items()
        if said
    }
    return {"spans": spans | raw, "evidence": evidence}


def _sizes(columns: Columns, shown: Sequence[Shown | None] | None) -> list[int]:
    """Bytes of each dialogue, about. The texts of one that fills a file alone are cut short."""
    figures = np.bincount(columns.dialogue, minlength=len(columns.dialogues)) * _FIGURES
    sizes: list[int] = figures.tolist()
    if shown is None:
        return sizes
    for place, text in zip(columns.dialogue, shown, strict=True):
        sizes[place] += _bytes(text)
    for place, text in zip(columns.dialogue, shown, strict=True):
        if sizes[place] > PACKED:
            _shorten(text)
    return [min(size, PACKED) for size in sizes]


def _bytes(shown: Shown | None) -> int:
    return sum(len(text.encode(errors="replace")) + 16 for text, _, _ in _texts(shown))


def _shorten(shown: Shown | None) -> None:
    for text, name, within in list(_texts(shown)):
        within[name] = cut(text, SHORT)


def _texts(shown: Shown | None) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every text of a turn, with where it stands."""
    if shown is None:
        return
    for within in (shown["spans"], *shown["evidence"].values()):
        for name, text in within.items():
            yield text, name, within


def _turns(columns: Columns, chosen: Codes, shown: Sequence[Shown | None] | None) -> dict[str, Any]:
    """The turns at the places `chosen`, which are whole dialogues in order."""
    turns = [columns.turns[place] for place in chosen]
    dialogues, counts = np.unique(columns.dialogue[chosen], return_counts=True)
    judges = sorted({judge for turn in turns for judge in turn.verdicts})
    return {
        "dialogues": [columns.dialogues[code] for code in dialogues],
        "counts": counts.tolist(),
        "index": columns.index[chosen].tolist(),
        "status": [turn.status for turn in turns],
        "gold": [EMOTIONS[code] for code in columns.gold[chosen]],
        "predicted": [_LABELS[code] for code in columns.predicted[chosen]],
        "problems": [" ".join(turn.problems) or turn.error_kind for turn in turns],
        "scores": {
            key: numbers(values[chosen])
            for key, values in columns.scores.items()
            if key != COMPOSITE
        },
        "composite": numbers(columns.scores[COMPOSITE][chosen]),
        "verdicts": {judge: [_status(turn, judge) for turn in turns] for judge in judges},
        "spans": shown and [(shown[place] or {}).get("spans") for place in chosen],
        "evidence": shown and [(shown[place] or {}).get("evidence") for place in chosen],
    }


def _status(turn: Any, judge: str) -> str | None:
    return turn.verdicts[judge].status if judge in turn.verdicts else None


def _scores(
    columns: Columns, metrics: Sequence[Metric], flags: Sequence[FlagView], files: Sequence[int]
) -> dict[str, Any]:
    """Means by persona and by dialogue of every metric that is a mean."""
    keys = [metric.key for metric in metrics if metric.key in columns.scores]
    flagged = [turn.rpartition("/")[0] for flag in flags for turn in flag.turns]
    return {
        "personas": {
            "ids": list(columns.personas),
            "turns": np.bincount(columns.persona, minlength=len(columns.personas)).tolist(),
            "means": _means(columns, keys, columns.persona, len(columns.personas)),
        },
        "dialogues": {
            "ids": list(columns.dialogues),
            "shards": list(files),
            "means": _means(columns, keys, columns.dialogue, len(columns.dialogues)),
            "flagged": [flagged.count(name) for name in columns.dialogues] if flagged else [],
        },
    }


def _means(
    columns: Columns, keys: Sequence[str], groups: Codes, number: int
) -> dict[str, list[float | None]]:
    return {key: numbers(group_means(columns.scores[key], groups, number)) for key in keys}


def group_means(values: Floats, groups: Codes, number: int) -> Floats:
    """The mean of each of `number` groups (codes, shape (n,)) over those present; NaN for none."""
    present = ~np.isnan(values)
    count = np.bincount(groups[present], minlength=number)
    total = np.bincount(groups[present], weights=values[present], minlength=number)
    with np.errstate(invalid="ignore"):
        return np.asarray(total / count, dtype=np.float64)
