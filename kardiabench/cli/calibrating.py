"""The command `judges calibrate`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kardiabench.cli import options as opt
from kardiabench.cli import output
from kardiabench.errors import ConfigError

if TYPE_CHECKING:
    from kardiabench.bench import Bench
    from kardiabench.human_ratings import Ratings
    from kardiabench.rated_judges import JudgeScores


@click.command("calibrate")
@opt.compose(
    click.option(
        "--human",
        type=click.Path(path_type=Path, dir_okay=False),
        required=True,
        metavar="FILE",
        help="People's ratings: .csv, .jsonl or .parquet with item, rater, dimension, score.",
    ),
    click.option(
        "--judge",
        "spec",
        metavar="NAME[:OPTION=VALUE,…]",
        help="Judge to ask about every item; with --run, the name of one that judged the run.",
    ),
    click.option(
        "--run",
        type=click.Path(path_type=Path),
        help="Run whose replies were rated: items are its turn ids, nothing is asked.",
    ),
    click.option("--column", help="Judge's scores in the file: NAME of its column judge:NAME."),
    click.option("--fingerprint", "mark", help="Of the judge whose scores the column holds."),
    click.option("--dataset", help="Where an item's context is, when items are its turn ids."),
    click.option(
        "--scale",
        nargs=2,
        type=float,
        default=(1.0, 5.0),
        show_default=True,
        help="Lowest and highest score.",
    ),
    click.option(
        "--resamples",
        type=click.IntRange(100, 100_000),
        default=2000,
        show_default=True,
        help="Bootstrap resamples of the items.",
    ),
    click.option(
        "--seed",
        type=click.IntRange(0, opt.MOST),
        default=0,
        show_default=True,
        help="Of the bootstrap and the folds.",
    ),
    click.option(
        "--out",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Write the calibration, for --calibration of run, score and show.",
    ),
    click.option(
        "--cards",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("judge-cards"),
        show_default=True,
        help="Folder of judge cards.",
    ),
    opt.traffic_options,
    opt.plugin_option,
    opt.output_options,
)
@output.results_only
def calibrate(
    human: Path,
    *,
    out: Path | None,
    cards: Path,
    scale: tuple[float, float],
    resamples: int,
    seed: int,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare a judge with people's ratings, and fit a calibration.

    Every figure has a 95% bootstrap interval over items. The judge's scores are asked for now
    (--judge), taken from a run (--run), or from a column `judge` of the file.
    """
    from kardiabench import calibrated_report as reports
    from kardiabench.cards import update_card
    from kardiabench.files import write_json
    from kardiabench.human_ratings import read_ratings

    if scale[0] >= scale[1]:
        raise ConfigError(f"--scale {scale[0]:g} {scale[1]:g} does not rise")
    ratings = read_ratings(human, scale)
    if len(ratings.raters) == 1:
        click.echo(
            f"note: {human} has one rater only, so nothing tells how well people agree; the judge "
            "is compared with that one",
            err=True,
        )
    scores = _scores(ratings, cards, quiet=quiet, **options)
    section = reports.agreement(ratings, scores, scale, resamples, seed)
    calibration = reports.calibration(ratings, scores, scale, seed)
    section["calibration"] = reports.brief(calibration)
    if scores.judge is not None:
        update_card(cards, scores.judge, "calibration", section)
    if as_json:
        output.echo(json.dumps(section, indent=2, sort_keys=True))
    elif not quiet:
        reports.show_agreement(section, output.console())
    if out is not None:
        if not calibration["dimensions"]:
            why = next(iter(calibration["refused"].values()), "nothing was rated")
            raise ConfigError(f"no calibration is written to {out}: {why}")
        write_json(out, calibration)
        click.echo(f"calibration: {out}", err=True)


#: Options without a meaning, by where the judge's scores come from.
_UNUSED = {
    "--run": ("--column", "--fingerprint", "--dataset"),
    "--judge": ("--column", "--fingerprint"),
    "a column": ("--dataset",),
}


def _scores(
    ratings: Ratings,
    cards: Path,
    *,
    spec: str | None,
    run: Path | None,
    column: str | None,
    mark: str | None,
    dataset: str | None,
    quiet: bool,
    plugins: Sequence[str],
    **traffic: Any,
) -> JudgeScores:
    from kardiabench import rated_judges

    source = "--run" if run is not None else "--judge" if spec is not None else "a column"
    given = {"--column": column, "--fingerprint": mark, "--dataset": dataset}
    for option in _UNUSED[source]:
        if given[option] is not None:
            raise ConfigError(
                f"{option} means nothing where scores come from {source}; leave it out"
            )
    if run is not None:
        return rated_judges.from_run(ratings, run, spec or "rubric")
    if spec is None:
        return rated_judges.from_file(ratings, column, mark)
    from kardiabench.bench import open_bench

    bench = open_bench(plugins, quiet=quiet, **traffic)
    return _asked(ratings, bench, spec, cards, dataset)


def _asked(
    ratings: Ratings, bench: Bench, spec: str, cards: Path, dataset: str | None
) -> JudgeScores:
    from kardiabench import rated_judges
    from kardiabench.bench import run
    from kardiabench.cards import JOURNAL, card_folder
    from kardiabench.journal import Journal

    judge = bench.make(spec)
    if not bench.quiet:
        click.echo(f"{len(ratings.items)} judgements by {judge.name}", err=True)
    with Journal(card_folder(cards, judge) / JOURNAL) as bench.journal:
        return run(bench, lambda: rated_judges.from_judge(bench, judge, ratings, dataset))
