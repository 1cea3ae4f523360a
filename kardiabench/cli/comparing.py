"""The command `compare`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kardiabench.cli import options as opt
from kardiabench.cli import output
from kardiabench.errors import EXIT_INCOMPLETE
from kardiabench.report import plain

if TYPE_CHECKING:
    from kardiabench.bench import Bench
    from kardiabench.cases import Case
    from kardiabench.contracts import Judge


class _Cases(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """A number of cases, or `all` (None)."""

    name = "N|all"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        if value == "all":
            return None
        return click.IntRange(1, opt.MOST).convert(value, param, ctx)


@click.command()
@click.argument("run_a", type=click.Path(path_type=Path))
@click.argument("run_b", type=click.Path(path_type=Path))
@opt.compose(
    click.option(
        "--judge",
        "spec",
        default="pairwise",
        show_default=True,
        metavar="NAME[:OPTION=VALUE,…]",
        help="Pairwise judge.",
    ),
    click.option("--judge-model", metavar="MODEL", help="Model of the judge. [default: its own]"),
    click.option("--judge-api-base", metavar="URL", help="Server of the judge's model."),
    click.option(
        "--cases",
        type=_Cases(),
        default="160",  # as many as the paper's human study has
        show_default=True,
        help="Turns to compare, balanced over personas and dialogues.",
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Which turns are drawn."),
    click.option("--dataset", help="Where the dataset of the runs is now. [default: as recorded]"),
    click.option("--split", help="Its split."),
    click.option("--revision", help="Its revision on the Hub."),
    click.option(
        "--min-coverage",
        type=opt.FiniteRange(0, 1),
        default=0.95,
        show_default=True,
        help="Exit with 3 when a smaller share of the cases could be compared.",
    ),
    click.option(
        "--out",
        type=click.Path(path_type=Path, file_okay=False),
        help="Directory of the comparison. [default: runs/compare-A-B]",
    ),
    opt.traffic_options,
    opt.plugin_option,
    opt.output_options,
)
@output.results_only
def compare(
    run_a: Path,
    run_b: Path,
    *,
    spec: str,
    judge_model: str | None,
    judge_api_base: str | None,
    cases: int | None,
    seed: int,
    dataset: str | None,
    split: str | None,
    revision: str | None,
    min_coverage: float,
    out: Path | None,
    plugins: Sequence[str],
    quiet: bool,
    as_json: bool,
    **traffic: Any,
) -> None:
    """Have a judge say, case by case, which of two runs' replies is the better.

    Each pair is shown in both orders. Judgements are kept as they come: the same command goes on
    where it was broken off.
    """
    from kardiabench import comparing
    from kardiabench.bench import open_bench
    from kardiabench.cases import draw_turns
    from kardiabench.comparison import compare_cases
    from kardiabench.files import write_json
    from kardiabench.journal import Journal

    pair = comparing.open_pair(run_a, run_b)
    bench = open_bench([*pair.plugins, *plugins], quiet=quiet, **traffic)
    judge = comparing.open_judge(bench, spec, judge_model, judge_api_base)
    folder = out or comparing.default_folder(pair)
    comparing.check_folder(folder, pair)
    dialogues = comparing.open_turns(pair, bench.registry, dataset, split, revision)
    drawn = pair.cases(draw_turns(dialogues, cases, seed))
    with Journal(folder / comparing.JOURNAL) as bench.journal:
        if not quiet:
            _announce(drawn, judge, bench)
        verdicts = comparing.judge_cases(drawn, judge, bench)
        comparison = compare_cases(pair, judge, drawn, verdicts)
        comparison["draw"] = {"asked": cases, "seed": seed, "turns": dialogues.n_turns}
        write_json(folder / comparing.COMPARISON, comparison)
    _print(comparison, folder / comparing.COMPARISON, quiet=quiet, as_json=as_json)
    _end(comparison, min_coverage)


def _announce(cases: Sequence[Case], judge: Judge, bench: Bench) -> None:
    from kardiabench.comparing import known

    asked, there = sum(case.item is not None for case in cases), known(cases, judge, bench)
    calls: int | None = getattr(judge, "calls_per_item", None)
    price = f", up to {calls * (asked - there):,} calls" if calls else ""
    done = f"; {there:,} are judged already" if there else ""
    click.echo(f"{asked:,} cases for {plain(judge.name)}{done}{price}", err=True)


def _print(comparison: Mapping[str, Any], file: Path, *, quiet: bool, as_json: bool) -> None:
    if as_json:
        output.echo(json.dumps(comparison, indent=2, sort_keys=True))
    elif not quiet:
        from kardiabench.compare_report import show_comparison

        show_comparison(comparison, output.console())
        output.echo(f"comparison: {file}")


def _end(comparison: Mapping[str, Any], min_coverage: float) -> None:
    """Leave with 3 and a sentence where too few cases could be compared."""
    from kardiabench.compare_report import reasons

    coverage = comparison["coverage"]
    if coverage >= min_coverage:
        return
    click.echo(
        f"kardiabench: {coverage:.1%} of the cases were compared, less than --min-coverage "
        f"{min_coverage:.1%} (missing: {plain(reasons(comparison))}); the same command asks for "
        "failed judgements again, `kardiabench resume RUN --retry-errors` for failed replies",
        err=True,
    )
    raise click.exceptions.Exit(EXIT_INCOMPLETE)


COMMANDS = (compare,)
