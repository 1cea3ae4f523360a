"""How measures of a training are shown in a terminal: their names, their numbers, their table."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kardiabench.report import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

#: Narrower terminals get no curve, and narrower ones no first value either.
_FOR_CURVE, _FOR_FIRST = 76, 48
_BLOCKS = "▁▂▃▄▅▆▇█"
#: The measures shown, in this order; those of judges' parts stand behind the reward.
NAMES = {
    "loss": "loss",
    "reward": "reward",
    "held_out/score": "held-out score",
    "held_out/stand_in": "stand-in for a held-out score",
    "held_out/rewarded": "rewarded score, held-out personas",
    "eval_loss": "loss, held-out personas",
    "mean_token_accuracy": "token accuracy",
    "masked_share": "masked share",
    "watch/zero_spread_share": "groups without spread",
    "kl": "KL",
    "completions/mean_length": "length, tokens",
    "tokens_per_second": "tokens/s",
}
PART = "parts/"
IN_LINES = (
    "loss", "reward", "held_out/score", "held_out/stand_in", "masked_share", "kl",
    "completions/mean_length", "tokens_per_second",
)  # fmt: skip


@dataclass
class Course:
    """How one measure went: its first value, its last ones."""

    first: float
    latest: deque[float] = field(default_factory=lambda: deque(maxlen=24))

    def add(self, value: float) -> None:
        """Count a value."""
        self.latest.append(value)


def make_table(measures: list[tuple[str, float, list[float]]], console: Console) -> Table:
    """A row a measure: name and last value, and where they fit its first value and its course."""
    from rich.table import Table
    from rich.text import Text

    with_first, with_curve = console.width >= _FOR_FIRST, console.width >= _FOR_CURVE
    with_curve = with_curve and console.encoding.startswith("utf")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", overflow="ellipsis", no_wrap=True, max_width=36)
    for wanted, name in ((True, "last"), (with_first, "first"), (with_curve, "course")):
        if wanted:
            table.add_column(name, justify="left" if name == "course" else "right", no_wrap=True)
    for name, first, latest in measures:
        cells = [name, shown(latest[-1])]
        cells += [shown(first)] if with_first else []
        cells += [curve(latest)] if with_curve else []
        table.add_row(*map(Text, cells))
    return table


def curve(values: list[float]) -> str:
    """`values` as a line of blocks, the smallest the lowest; equal ones in the middle."""
    low, high = min(values), max(values)
    if high == low:
        return _BLOCKS[3] * len(values)
    return "".join(_BLOCKS[round(7 * (value - low) / (high - low))] for value in values)


def shown(value: float) -> str:
    """Four figures that count; whole numbers from 1000 on; what is 0 is not shown as less."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3f}" if value == 0 or 0.001 <= abs(value) < 10 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def one_line(text: str) -> str:
    """Somebody's text on one line, at most 900 characters, without what moves the cursor."""
    return plain(" ".join(str(text).split()))[:900]
