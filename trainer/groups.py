"""Numbers of candidates in groups: how far their scores vary, and whether length decides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kardiabench.stats import Codes, Floats
from trainer.ledger import Row

#: Values that differ by no more than this are equal: what is left is rounding.
ROUNDING = 1e-9


def group_codes(rows: Sequence[Row]) -> Codes:
    """A code a row: the candidates for one turn in one batch, whatever process they are of."""
    places: dict[tuple[int, str], int] = {}
    codes = [places.setdefault((row.call, row.turn_id), len(places)) for row in rows]
    return np.array(codes, dtype=np.int64)


def to_array(values: Sequence[float | None]) -> Floats:
    """Scores as an array, NaN for None."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def known_mean(values: Floats) -> float | None:
    """The mean of what is no NaN; None where there is nothing."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _centred(values: Floats, groups: Codes) -> tuple[Floats, Codes]:
    """Values, without NaN, less their group's mean, and the size of each one's group."""
    size = np.bincount(groups)
    means = np.bincount(groups, weights=values) / np.maximum(size, 1)
    return np.asarray(values - means[groups], dtype=np.float64), size[groups].astype(np.int64)


def spreads(values: Floats, groups: Codes) -> Floats:
    """The population's standard deviation in every group with two values or more."""
    known = ~np.isnan(values)
    groups = groups[known]
    deviations, _ = _centred(values[known], groups)
    size = np.bincount(groups)
    squares = np.bincount(groups, weights=deviations**2)
    whole = size > 1
    return np.asarray(np.sqrt(squares[whole] / size[whole]), dtype=np.float64)


def zero_spread_share(rewards: Floats, groups: Codes) -> float | None:
    """Of the groups with two rewards or more, the share in which all are equal."""
    found = spreads(rewards, groups)
    return float((found <= ROUNDING).mean()) if len(found) else None


def length_correlation(rewards: Floats, tokens: Floats, groups: Codes) -> float | None:
    """Spearman's correlation of both, each less its group's mean; None where one doesn't vary."""
    known = ~np.isnan(rewards)
    scores, size = _centred(rewards[known], groups[known])
    lengths, _ = _centred(tokens[known], groups[known])
    paired = size > 1
    return spearman(scores[paired], lengths[paired])


def spearman(first: Floats, second: Floats) -> float | None:
    """Spearman's rank correlation; None where one of both doesn't vary (or for no values).

    Differences below 1e-9 are rounding, and ties.
    """
    from scipy.stats import rankdata

    ranks = [rankdata(np.round(values, 9)) for values in (first, second)]
    if any(len(rank) < 2 or np.ptp(rank) == 0 for rank in ranks):
        return None
    return float(np.clip(np.corrcoef(*ranks)[0, 1], -1.0, 1.0))
