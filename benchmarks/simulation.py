"""Do the intervals and tests hold what they promise? The tables of `docs/statistics.md`.

    python benchmarks/simulation.py [--draws 10000] [--seed 1] [--quick]

Every score of every turn is drawn, at the real size of the benchmark, unless a row says otherwise.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import stdtr
from simulated import (
    DIALOGUE,
    PERSONA,
    TURN,
    Design,
    Naming,
    even,
    rounded,
    rounded_mean,
    uneven,
)

from kardiabench.bounds import bounds
from kardiabench.emotions import EMOTIONS
from kardiabench.flips import flip_test
from kardiabench.jackknife import Interval, Recall, classification_intervals
from kardiabench.pairs import better, moments, pairs, t_test
from kardiabench.power import detectable
from kardiabench.ranks import rank_intervals
from kardiabench.stats import Codes, Floats, t_interval
from kardiabench.variance import components

KS = (32, 8)
Row = tuple[str, list[str]]
Ends = tuple[float | None, float | None]


def share(hits: float, number: int) -> str:
    """A rate with its binomial standard error."""
    rate = float(hits) / number
    return f"{rate:.1%} ± {(rate * (1 - rate) / number) ** 0.5:.1%}"


def table(title: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Print Markdown."""
    lines = [
        f"**{title}**",
        "",
        f"| | {' | '.join(columns)} |",
        "| --- " * (len(columns) + 1) + "|",
    ]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows]
    sys.stdout.write("\n".join(lines) + "\n\n")
    sys.stdout.flush()


# --- no difference --------------------------------------------------------------------------------

Draw = Callable[[np.random.Generator, Design], Floats]


def plain_difference(rng: np.random.Generator, design: Design) -> Floats:
    """Of two equal models, turn by turn: the variances add up."""
    return 2**0.5 * design.latent(rng)


def rounded_difference(rng: np.random.Generator, design: Design) -> Floats:
    """The same at the ceiling."""
    return rounded(design.latent(rng)) - rounded(design.latent(rng))


def skewed_difference(rng: np.random.Generator, design: Design) -> Floats:
    """Equal means, but one model fails badly with a few personas: exponential parts."""
    parts = 2**0.5 * PERSONA * (1 - rng.standard_exponential(len(design.dialogues)))
    return 2**0.5 * design.latent(rng, persona=0.0) + parts[design.persona]


def naive_p(values: Floats) -> float:
    """Of a t test that takes its values as independent."""
    error = values.std(ddof=1) / len(values) ** 0.5
    return float(2 * stdtr(len(values) - 1, -abs(values.mean()) / error))


def false_positives(design: Design, draw: Draw, draws: int, seed: int) -> list[str]:
    """The share of draws in which each test says that equal models differ."""
    rng = np.random.default_rng([seed, len(design.dialogues)])
    means = np.empty((draws, len(design.dialogues)))
    naive = np.empty((2, draws))
    for number in range(draws):
        values = draw(rng, design)
        naive[:, number] = naive_p(values), naive_p(design.dialogue_means(values))
        means[number] = design.means(values)
    size, mean, sd = moments(means)
    tests = [*naive, bootstrap_p(means, rng), t_test(size, mean, sd), flip_test(means)]
    return [share(float(np.count_nonzero(p < 0.05)), draws) for p in tests]


def bootstrap_p(means: Floats, rng: np.random.Generator, resamples: int = 2000) -> Floats:
    """1 where 0 is in the percentile interval of a row's mean over resampled personas, else 0."""
    count = means.shape[1]
    weights = rng.multinomial(count, np.full(count, 1 / count), resamples).T / count
    found = np.empty(len(means))
    for start in range(0, len(means), 200):
        low, high = np.quantile(means[start : start + 200] @ weights, (0.025, 0.975), axis=1)
        found[start : start + 200] = (low <= 0) & (high >= 0)
    return found


def equal_models(personas: int, models: int, rng: np.random.Generator) -> Floats:
    """Persona means of models, drawn as such, (models, personas)."""
    turns = even(personas).turns / personas
    variance = PERSONA**2 + DIALOGUE**2 / (turns / 8) + TURN**2 / turns
    return rng.normal(0.0, variance**0.5, (models, personas))


def family_wise(personas: int, draws: int, seed: int) -> str:
    """Whether any of the 45 pairs of ten equal models is significant after Holm."""
    rng = np.random.default_rng([seed, personas, 1])
    names = [str(number) for number in range(10)]
    found = sum(
        bool(better(pairs(equal_models(personas, 10, rng), names, flips=0)).any())
        for _ in range(draws)
    )
    return share(found, draws)


TESTS = (
    "turns as independent",
    "dialogues as independent",
    "percentile bootstrap of personas",
    "**paired t over personas**",
    "**sign flips of personas**",
)


def no_difference(draws: int, seed: int) -> None:
    """The first table."""
    cases = {
        f"{kind}, K = {k}": false_positives(design(k), draw, number, seed)
        for kind, design, draw, number in (
            ("even", even, plain_difference, draws),
            ("uneven", uneven, plain_difference, draws),
            ("ceiling", even, rounded_difference, draws // 2),
            ("skewed", even, skewed_difference, draws // 2),
        )
        for k in KS
    }
    rows: list[Row] = [
        (test, [cells[place] for cells in cases.values()]) for place, test in enumerate(TESTS)
    ]
    holm = [family_wise(k, draws, seed) for k in KS]
    rows.append(("**Holm, any of 45 pairs**", [*holm, *"------"]))
    table("Equal models, found different at 5%", list(cases), rows)


# --- intervals ------------------------------------------------------------------------------------


def mean_held(design: Design, draws: int, rng: np.random.Generator) -> str:
    """The t interval of one model's mean."""
    held = 0
    for _ in range(draws):
        low, high = t_interval(design.means(design.latent(rng)))
        held += low is not None and high is not None and low <= 0 <= high
    return share(held, draws)


def ceiling_held(design: Design, draws: int, rng: np.random.Generator, persona: float) -> str:
    """The same at the ceiling, personas differing by the given latent SD."""
    held, truth = 0, rounded_mean(persona)
    for _ in range(draws):
        low, high = t_interval(design.means(rounded(design.latent(rng, persona))))
        held += low is not None and high is not None and low <= truth <= high
    return share(held, draws)


LABELS = {
    "recall of a label of 12%": "afraid",
    "recall of a label of 5%": "confident",
    "recall of a label of 0.4% (hits 92%)": "trusting",
    "recall of a label of 0.4% (hits 42%)": "terrified",
}
NAMING = (
    "macro-F1, jackknife",
    "macro-F1, difference of equal models",
    *LABELS,
    *(f"{name}, by a t interval" for name in LABELS),
)


def naming_held(design: Design, draws: int, rng: np.random.Generator) -> list[str]:
    """The rows of `NAMING`."""
    naming = Naming()
    held, drawn = np.zeros(len(NAMING)), np.zeros(len(NAMING))
    for _ in range(draws):
        found = named(naming, design, rng)
        drawn += ~np.isnan(found)
        held += np.nan_to_num(found)
    return [share(h, int(n)) for h, n in zip(held, drawn, strict=True)]


def named(naming: Naming, design: Design, rng: np.random.Generator) -> Floats:
    """For each of `NAMING` whether its interval holds the truth, NaN where there is none."""
    of_dialogue = naming.gold(rng, design)
    gold = of_dialogue[design.dialogue]
    answers = [naming.answers(rng, design, of_dialogue) for _ in range(2)]
    model, other = (classification_intervals(gold, a, design.persona) for a in answers)
    assert model and other, "no replies"
    cells = [
        holds(model.macro_f1, naming.macro_f1),
        within(t_interval(model.pseudo_values - other.pseudo_values), 0.0),
    ]
    codes = [EMOTIONS.index(label) for label in LABELS.values()]
    for code in codes:
        recall = model.recall.get(EMOTIONS[code])
        cells.append(holds(recall, naming.recall[code]) if recall else np.nan)
    for code in codes:
        mine = gold == code
        hit = (answers[0][mine] == code).astype(np.float64)
        cells.append(within(plain_interval(hit, design.persona[mine]), naming.recall[code]))
    return np.array(cells)


def plain_interval(hit: Floats, personas: Codes) -> Ends:
    """The jackknife's t interval of a share of replies."""
    support, hits = np.bincount(personas), np.bincount(personas, hit)
    support, hits = support[support > 0], hits[support > 0]
    number = len(support)
    if number < 2:
        return None, None
    left = (hits.sum() - hits) / (support.sum() - support)
    return t_interval(number * hit.mean() - (number - 1) * left)


def within(ends: Ends, truth: float) -> float:
    """1 or 0, NaN for no interval."""
    low, high = ends
    return np.nan if low is None or high is None else float(low <= truth <= high)


def holds(found: Interval | Recall, truth: float) -> float:
    """1 or 0, NaN for no interval."""
    return within((found.low, found.high), truth)


def percentile_ranks(means: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """What resampling and ranking gives without further ado: 2.5% and 97.5% of the ranks."""
    count = means.shape[1]
    weights = rng.multinomial(count, np.full(count, 1 / count), 1000)
    ranks = (-(weights @ means.T)).argsort(axis=1).argsort(axis=1) + 1
    low, high = np.quantile(ranks, (0.025, 0.975), axis=0)
    return np.floor(low), np.ceil(high)


def ranks_held(personas: int, truth: Floats, draws: int, rng: np.random.Generator) -> list[str]:
    """Whether a model's interval holds all of its true ranks, ours and by percentiles."""
    best = 1 + (truth[:, None] < truth[None, :]).sum(axis=1)
    worst = len(truth) - (truth[:, None] > truth[None, :]).sum(axis=1)
    held, width = np.zeros(2), np.zeros(2)
    for _ in range(draws):
        means = truth[:, None] + equal_models(personas, len(truth), rng)
        for place, (low, high) in enumerate((rank_intervals(means), percentile_ranks(means, rng))):
            held[place] += np.count_nonzero((low <= best) & (high >= worst))
            width[place] += (high - low + 1).sum()
    held, width = held / len(truth), width / len(truth)  # models of a draw aren't independent
    return [f"{share(h, draws)}, {w / draws:.1f} wide" for h, w in zip(held, width, strict=True)]


def bounds_held(design: Design, draws: int, rng: np.random.Generator) -> str:
    """The mean of the complete data, of which one in ten is missing, low scores more often."""
    held = 0
    for _ in range(draws):
        whole = np.clip(design.latent(rng) + 3.5, 1, 5)
        missing = rng.random(design.turns) < 0.2 * (whole < 3.5)
        low, high = bounds(np.where(missing, np.nan, whole), design.persona, 1.0, 5.0)
        assert low is not None and high is not None, "no turns"
        held += low <= design.means(whole).mean() <= high
    return share(held, draws)


def power_reached(personas: int, draws: int, rng: np.random.Generator) -> tuple[str, str]:
    """How often the detectable difference is found, and how large it is."""
    turns = even(personas).turns / personas
    sd = (2 * (PERSONA**2 + DIALOGUE**2 / (turns / 8) + TURN**2 / turns)) ** 0.5
    size = detectable(sd, personas)
    assert size is not None, "one persona"
    found = t_test(*moments(rng.normal(size, sd, (draws, personas))))
    return share(float(np.count_nonzero(found < 0.05)), draws), f"{size:.3f}"


def split(design: Design, draws: int, rng: np.random.Generator) -> list[str]:
    """The mean of each estimated standard deviation's square, as its root, and its own spread."""
    found = []
    for _ in range(draws):
        parts = components(design.latent(rng), design.persona, design.dialogue)
        assert parts and parts.persona and parts.dialogue and parts.turn, "too few"
        found.append([parts.persona.raw, parts.dialogue.raw, parts.turn.raw])
    mean, spread = np.mean(found, axis=0), np.std(found, axis=0)
    return [f"{m:.4f} (SD {s:.4f})" for m, s in zip(mean, spread, strict=True)]


def intervals(draws: int, seed: int) -> None:
    """The second and third table."""
    cells: dict[str, list[str]] = {}

    def add(name: str, *values: str) -> None:
        cells.setdefault(name, []).extend(values)

    for k in KS:
        rng = np.random.default_rng([seed, k, 2])
        add("mean of a model, t", mean_held(even(k), draws, rng))
        add("uneven personas", mean_held(uneven(k), draws, rng))
        add("at the ceiling", ceiling_held(even(k), draws, rng, PERSONA))
        add("at the ceiling, personas SD .6", ceiling_held(even(k), draws, rng, 0.6))
        for name, cell in zip(NAMING, naming_held(even(k), draws // 5, rng), strict=True):
            add(name, cell)
        add("bounds hold the complete mean", bounds_held(even(k), draws // 10, rng))
    table("95% intervals that hold the truth", [f"K = {k}" for k in KS], list(cells.items()))


def ranks(draws: int, seed: int) -> None:
    """Rank intervals of ten models."""
    rows: list[Row] = []
    for name, gap in (("equal", 0.0), (".02 apart", 0.02), (".1 apart", 0.1)):
        cells: list[str] = []
        for k in KS:
            rng = np.random.default_rng([seed, k, 3])
            cells += ranks_held(k, gap * np.arange(10.0), draws, rng)
        rows.append((name, cells))
    columns = [f"{kind}, K = {k}" for k in KS for kind in ("**ours**", "percentiles of ranks")]
    table("95% intervals of ranks, ten models", columns, rows)


def power_and_split(draws: int, seed: int) -> None:
    """The last two tables."""
    rng = np.random.default_rng([seed, 4])
    reached = [power_reached(k, draws, rng) for k in KS]
    rows: list[Row] = [
        ("detectable difference", [size for _, size in reached]),
        ("found in", [power for power, _ in reached]),
    ]
    table("80% power", [f"K = {k}" for k in KS], rows)
    parts: list[Row] = [("true", [f"{sd**2:.4f}" for sd in (PERSONA, DIALOGUE, TURN)])]
    parts += [
        (f"{name}, K = {k}", split(design(k), draws // 10, rng))
        for name, design in (("even", even), ("uneven", uneven))
        for k in KS
    ]
    table("Variance components, mean of the estimates", ["persona", "dialogue", "turn"], parts)


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=10_000, help="of the cheap rows")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="500 draws")
    given = parser.parse_args()
    draws = 500 if given.quick else given.draws
    no_difference(draws, given.seed)
    intervals(draws, given.seed)
    ranks(draws // 10, given.seed)
    power_and_split(draws, given.seed)


if __name__ == "__main__":
    main()
