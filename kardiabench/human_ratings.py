"""People's ratings, one row an item, rater and dimension: read strictly, never guessed at."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kardiabench.errors import DataError, did_you_mean
from kardiabench.records import Message
from kardiabench.stats import Floats

if TYPE_CHECKING:
    import pandas as pd

NEEDED = ("item", "rater", "dimension", "score")
TEXTS = ("profile", "situation", "history", "message", "response")
OPTIONAL = (*TEXTS, "persona", "length", "judge")
#: Columns of stored judge scores: `judge`, or `judge:NAME` for several judges.
JUDGE = "judge"


@dataclass(frozen=True)
class ItemTexts:
    """What a file says of one item; empty where it says nothing."""

    profile: str = ""
    situation: str = ""
    history: tuple[Message, ...] = ()
    message: str = ""
    response: str = ""
    persona: str = ""
    words: float | None = None


@dataclass(frozen=True)
class Ratings:
    """Ratings by item, rater and dimension.

    `scores` has shape (items, raters, dimensions), NaN where a rater gave none. `stored` has the
    scores of judges that stand in the file, by name, of shape (items, dimensions). `texts` has what
    is known of each item, in the order of `items`. `scale` is the lowest and the highest score that
    there can be.
    """

    items: tuple[str, ...]
    raters: tuple[str, ...]
    dimensions: tuple[str, ...]
    scores: Floats
    stored: Mapping[str, Floats]
    texts: tuple[ItemTexts, ...]
    scale: tuple[float, float]
    sha256: str

    @property
    def means(self) -> Floats:
        """The mean over raters, (items, dimensions)."""
        given = ~np.isnan(self.scores)
        total = np.where(given, self.scores, 0.0).sum(axis=1)
        count = given.sum(axis=1)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def read_ratings(path: Path, scale: tuple[float, float]) -> Ratings:
    """Read `path` (.csv, .jsonl or .parquet); raise `DataError` for the first thing wrong.

    `scale` is the lowest and the highest score that there can be.
    """
    table = _table(path)
    _check_columns(table, path)
    if table.empty:
        raise DataError(f"{path} has no ratings; write one row an item, rater and dimension")
    _check_filled(table, path)
    _check_scores(table, path, "score", scale, may_lack=False)
    for column in _judge_columns(table):
        _check_scores(table, path, column, scale, may_lack=True)
    _check_unique(table, path)
    return _ratings(table, path, scale)


def _table(path: Path) -> pd.DataFrame:
    import pandas as pd

    readers: Mapping[str, Callable[[], pd.DataFrame]] = {
        ".csv": lambda: pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig"),
        ".jsonl": lambda: pd.read_json(path, lines=True, dtype=False),
        ".parquet": lambda: pd.read_parquet(path),
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: ratings are read from .csv, .jsonl or .parquet; convert the file")
    try:
        if path.suffix.lower() == ".csv":
            _check_cells(path)
        table = reader()
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file; give the file of the ratings") from error
    except (ValueError, OSError) as error:  # pandas' parse errors are ValueErrors
        why = " ".join(str(error).split())[:200]
        raise DataError(f"{path} cannot be read ({why}); save it as UTF-8 CSV") from error
    return table.astype(object).where(table.notna(), "")


def _check_cells(path: Path) -> None:
    """Raise `DataError` for a row with more or fewer cells than the header: pandas would guess."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        for number, row in enumerate(rows, 1):
            if row and len(row) != len(header):
                raise DataError(
                    f"{path}, row {number} (line {rows.line_num}): it has {len(row)} cells and the "
                    f"header has {len(header)}; quote texts that hold commas or line breaks"
                )


def _check_columns(table: pd.DataFrame, path: Path) -> None:
    missing = [name for name in NEEDED if name not in table.columns]
    if missing:
        raise DataError(
            f"{path} has no column {missing[0]!r}; it needs {', '.join(NEEDED)}, and may have "
            f"{', '.join(OPTIONAL)} and {JUDGE}:NAME"
        )
    for name in table.columns:
        if name not in {*NEEDED, *OPTIONAL} and not str(name).startswith(f"{JUDGE}:"):
            hint = did_you_mean(str(name), [*NEEDED, *OPTIONAL])
            raise DataError(f"{path} has a column {str(name)!r} that nobody reads; {hint}")


def _check_filled(table: pd.DataFrame, path: Path) -> None:
    for name in ("item", "rater", "dimension"):
        empty = table[name].astype(str).str.strip() == ""
        if empty.any():
            raise DataError(f"{_row(path, int(empty.to_numpy().argmax()))} has no {name}; fill it")


def _check_scores(
    table: pd.DataFrame, path: Path, column: str, scale: tuple[float, float], *, may_lack: bool
) -> None:
    import pandas as pd

    numbers = pd.to_numeric(table[column], errors="coerce")
    lacks = table[column].astype(str).str.strip() == ""
    truths = table[column].map(lambda value: isinstance(value, bool))
    wrong = (~numbers.between(*scale) | truths) & ~(lacks if may_lack else False)
    if wrong.any():
        at = int(wrong.to_numpy().argmax())
        raise DataError(
            f"{_row(path, at)}: {column} {str(table[column].iloc[at])[:40]!r} is no number from "
            f"{scale[0]:g} to {scale[1]:g}; correct it, or leave the row out"
        )


def _check_unique(table: pd.DataFrame, path: Path) -> None:
    keys = table[["item", "rater", "dimension"]].astype(str)
    again = keys.duplicated()
    if again.any():
        at = int(again.to_numpy().argmax())
        item, rater, dimension = keys.iloc[at]
        raise DataError(
            f"{_row(path, at)} rates item {item[:60]!r} on {dimension[:40]} by {rater[:40]} again; "
            "keep one of the two rows"
        )


def _ratings(table: pd.DataFrame, path: Path, scale: tuple[float, float]) -> Ratings:
    items, item_codes = _coded(table, "item")
    raters, rater_codes = _coded(table, "rater")
    dimensions, dimension_codes = _coded(table, "dimension")
    scores = np.full((len(items), len(raters), len(dimensions)), np.nan)
    scores[item_codes, rater_codes, dimension_codes] = _numbers(table, "score")
    shape = (len(items), len(dimensions))
    stored = {
        column.partition(":")[2] or JUDGE: _stored(
            table, path, column, shape, (item_codes, dimension_codes)
        )
        for column in _judge_columns(table)
    }
    texts = tuple(_texts(table, path, item_codes == at) for at in range(len(items)))
    _check_personas(items, texts, path)
    return Ratings(
        items=items,
        raters=raters,
        dimensions=dimensions,
        scores=scores,
        stored=stored,
        texts=texts,
        scale=scale,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def _check_personas(items: Sequence[str], texts: Sequence[ItemTexts], path: Path) -> None:
    """Clusters of some items only would be no clusters."""
    lacks = [name for name, one in zip(items, texts, strict=True) if not one.persona]
    if lacks and len(lacks) < len(items):
        raise DataError(
            f"{path} has a persona for some items only (not for {lacks[0][:60]!r}); give all of "
            "them one, or leave the column out"
        )


def _stored(
    table: pd.DataFrame,
    path: Path,
    column: str,
    shape: tuple[int, int],
    places: tuple[np.ndarray, np.ndarray],
) -> Floats:
    """A judge's scores; each row of an item and dimension has to say the same."""
    found = np.full(shape, np.nan)
    for row, (item, dimension, score) in enumerate(
        zip(*places, _numbers(table, column), strict=True)
    ):
        known = found[item, dimension]
        if not np.isnan(score) and not np.isnan(known) and known != score:
            raise DataError(
                f"{_row(path, row)}: {column} is {score:g}, and an earlier row of the same item "
                f"and dimension has {known:g}; a judge has one score for both"
            )
        if not np.isnan(score):
            found[item, dimension] = score
    return found


def _texts(table: pd.DataFrame, path: Path, rows: np.ndarray) -> ItemTexts:
    """What the rows of one item say of it; where two rows differ, the file contradicts itself."""
    mine = table[rows]
    values: dict[str, str] = {}
    for name in (*TEXTS, "persona", "length"):
        if name not in table.columns:
            continue
        given = {text for value in mine[name] if (text := _as_text(value)).strip()}
        if len(given) > 1:
            item = str(mine["item"].iloc[0])[:60]
            raise DataError(
                f"{path}: item {item!r} has {len(given)} different values of {name}; give it one"
            )
        values[name] = next(iter(given), "")
    length = values.pop("length", "")
    history = _history(values.pop("history", ""), path, str(mine["item"].iloc[0]))
    return ItemTexts(**values, history=history, words=_length(length, path))


def _as_text(value: object) -> str:
    """A cell as text; a list, which JSON and Parquet can hold, as JSON."""
    if isinstance(value, str):
        return value
    listed = value.tolist() if isinstance(value, np.ndarray) else value
    return json.dumps(listed) if isinstance(listed, list) else str(value)


def _history(text: str, path: Path, item: str) -> tuple[Message, ...]:
    if not text:
        return ()
    try:
        return tuple(_message(one) for one in json.loads(text))
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f'{path}: the history of item {item[:60]!r} is no JSON list of {{"role", "content"}}; '
            "correct it, or leave it empty"
        ) from error


def _message(given: Mapping[str, object]) -> Message:
    role = given["role"]
    if role not in ("user", "assistant") or not isinstance(given["content"], str):
        raise ValueError("no message")
    return Message("user" if role == "user" else "assistant", given["content"])


def _length(text: str, path: Path) -> float | None:
    try:
        words = float(text) if text else None
    except ValueError:
        words = math.nan
    if words is not None and not 0 < words < math.inf:
        raise DataError(f"{path}: length {text[:40]!r} is no number of words")
    return words


def _judge_columns(table: pd.DataFrame) -> list[str]:
    names: Sequence[str] = [str(name) for name in table.columns]
    return [name for name in names if name == JUDGE or name.startswith(f"{JUDGE}:")]


def _coded(table: pd.DataFrame, column: str) -> tuple[tuple[str, ...], np.ndarray]:
    """The names in a column in the order of their first rows, and each row's place among them."""
    import pandas as pd

    codes, names = pd.factorize(table[column].astype(str).str.strip())
    return tuple(map(str, names)), codes


def _numbers(table: pd.DataFrame, column: str) -> Floats:
    import pandas as pd

    return pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=np.float64)


def _row(path: Path, index: int) -> str:
    """Where a row stands, counted from 1 without the header: a text may span several lines."""
    return f"{path}, row {index + 1}"
