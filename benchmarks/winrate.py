"""What the win rates say of two equal models when the judge loves length: `docs/compare.md`.

    python benchmarks/winrate.py

The log odds of a preference rise by 1.5 with tanh(words / SD of words); model A writes 8 words more
on average (SD 10); personas differ by 0.3 in log odds; both orders vote independently.
"""

from __future__ import annotations

import sys

import numpy as np
from scipy.special import expit

from kardiabench.stats import Codes, Floats
from kardiabench.winrate import length_controlled, win_rate

TRIALS = 2000
SIZES = ((8, 20), (32, 5), (32, 100))


def simulated(rng: np.random.Generator, personas: int, cases: int) -> tuple[Floats, Codes, Floats]:
    """Scores, personas and words apart."""
    codes = np.repeat(np.arange(personas), cases)
    words = np.round(rng.normal(8, 10, len(codes)))
    own = rng.normal(0, 0.3, personas)[codes]
    chance = expit(own + 1.5 * np.tanh(words / words.std(ddof=1)))
    return (rng.random((2, len(codes))) < chance).mean(axis=0), codes, words


def trial(rng: np.random.Generator, personas: int, cases: int) -> tuple[float, float, bool, bool]:
    """Plain rate, rate at equal length, whether their intervals hold one half."""
    data = simulated(rng, personas, cases)
    plain, controlled = win_rate(*data[:2]).estimate, length_controlled(*data)
    assert plain.mean and plain.low and plain.high, "an undefined win rate"
    assert controlled.rate and controlled.low and controlled.high, controlled.why
    held = controlled.low < 0.5 < controlled.high
    return plain.mean, controlled.rate, plain.low < 0.5 < plain.high, held


def main() -> None:
    """Print a line a size."""
    for personas, cases in SIZES:
        rng = np.random.default_rng(1)
        plain, controlled, plain_held, held = np.mean(
            [trial(rng, personas, cases) for _ in range(TRIALS)], axis=0
        )
        sys.stdout.write(
            f"{personas} personas x {cases} cases: plain {plain:.3f} (interval holds .5 in "
            f"{plain_held:.1%}), at equal length {controlled:.3f} (in {held:.1%})\n"
        )


if __name__ == "__main__":
    main()
