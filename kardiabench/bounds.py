"""Where a mean could lie, whatever the missing scores would have been (Manski 1989)."""

from __future__ import annotations

import numpy as np

from kardiabench.stats import Codes, Floats, cluster_means


def bounds(
    values: Floats, personas: Codes, low: float, high: float
) -> tuple[float | None, float | None]:
    """The mean of persona means with every missing value at `low`, and with every one at `high`.

    `values` (shape (n,)) must hold every turn that was planned, NaN where there is no score:
    turns left out of it are left out of the bounds too. (None, None) for no turns. Raise
    `ValueError` for a value outside of the scale `low`..`high`, as the bounds would be wrong.
    """
    if not len(values):
        return None, None
    if np.nanmin(values, initial=low) < low or np.nanmax(values, initial=high) > high:
        raise ValueError(f"a value is outside of the scale {low} to {high}")
    missing = np.isnan(values)
    worst, best = (cluster_means(np.where(missing, end, values), personas) for end in (low, high))
    return float(worst.mean()), float(best.mean())
