"""Data files of the site. They are scripts: pages opened from a disk may not fetch anything else.

Each holds `kardiabench.put(KEY,JSON.parse('VALUE'));`: no text in it can become code, and a key
that means something to JavaScript (`__proto__`) is a key like any other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kardiabench.records import clean_text
from kardiabench.stats import Floats

#: Bytes that a data file holds at most; `PACKED` is what files are filled to.
LIMIT, PACKED = 2_000_000, 800_000
#: Whole numbers below it are the same as integers.
_EXACT = 2.0**53


def write_script(folder: Path, key: str, value: object) -> Path:
    """Write `data/KEY.js` below `folder`. Raises `ValueError` for a number that is not finite."""
    path = folder / "data" / f"{key}.js"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(script(key, value))
    return path


def script(key: str, value: object) -> bytes:
    """The content of a data file."""
    return b"kardiabench.put(%b,JSON.parse('%b'));\n" % (json.dumps(key).encode(), _dumped(value))


def size(value: object) -> int:
    """The bytes that `value` takes in a data file."""
    return len(_dumped(value))


def numbers(values: Floats, digits: int = 4) -> list[Any]:
    """`values` (of any shape) for JSON: rounded, whole numbers without a point, NaN as None."""
    array = np.asarray(values, dtype=np.float64).round(digits)
    finite = np.isfinite(array)
    whole = finite & (array == np.trunc(array)) & (np.abs(array) < _EXACT)
    listed = array.astype(object)
    listed[whole] = array[whole].astype(np.int64)
    listed[~finite] = None
    found: list[Any] = listed.tolist()
    return found


def packed(sizes: Sequence[int], limit: int = PACKED) -> list[int]:
    """Which file each of some things goes to, in order, none but single things over `limit`."""
    places, filled, file = [], 0, 0
    for size in sizes:
        if filled and filled + size > limit:
            file, filled = file + 1, 0
        places.append(file)
        filled += size
    return places


def _dumped(value: object) -> bytes:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _harmless(clean_text(text)).encode()


def _harmless(text: str) -> str:
    """JSON as the text of a script's string, wherever a script may stand."""
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return text.replace("\\", "\\\\").replace("'", "\\'")
