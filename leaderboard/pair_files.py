"""The comparison of every two runs of a protocol, as data files for the compare page."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kardiabench.pairs import PairTable
from kardiabench.stats import Floats
from leaderboard.scripts import numbers, write_script
from leaderboard.table import Table

#: What a pair has for each metric, in this order; the first three change sign with the direction.
FIELDS = ("mean", "low", "high", "p", "p_flip", "p_holm", "mde", "mde_holm", "personas")
_DIGITS = 6


def write_pair_files(folder: Path, table: Table) -> None:
    """Write `data/PROTOCOL/pairs/SLUG.js` for each run: it less every other."""
    slugs = [extract.slug for extract in table.extracts]
    keys = [metric.key for metric in table.metrics]
    found = [_of_metric(table.standings[key].pairs, len(slugs)) for key in keys]
    cube = np.stack(found, axis=2) if found else np.empty((len(slugs), len(slugs), 0, len(FIELDS)))
    listed = numbers(cube, _DIGITS)
    for place, slug in enumerate(slugs):
        rows = {slugs[there]: row for there, row in enumerate(listed[place]) if there != place}
        key = f"{table.extracts[place].protocol}/pairs/{slug}"
        write_script(folder, key, {"metrics": keys, "fields": list(FIELDS), "rows": rows})


def _of_metric(pairs: PairTable, number: int) -> Floats:
    """(runs, runs, fields): the first less the second."""
    columns = np.column_stack([np.asarray(getattr(pairs, field), float) for field in FIELDS])
    cube = np.full((number, number, len(FIELDS)), np.nan)
    cube[pairs.first, pairs.second] = columns
    turned = columns.copy()
    turned[:, 0] = -columns[:, 0]
    turned[:, 1], turned[:, 2] = -columns[:, 2], -columns[:, 1]
    cube[pairs.second, pairs.first] = turned
    return cube
