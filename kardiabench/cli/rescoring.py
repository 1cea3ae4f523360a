"""The command `rescore`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kardiabench.cli import options as opt
from kardiabench.cli import output
from kardiabench.errors import RunError

if TYPE_CHECKING:
    from trainer.rejudging import JudgeCount
    from trainer.rescoring import Difference, Report


@click.command()
@click.argument("ledger", type=click.Path(path_type=Path))
@opt.compose(
    click.option(
        "--out",
        type=click.Path(path_type=Path),
        help="Write the ledger as it was made again: a file for a file, a folder for a folder.",
    ),
    click.option(
        "--composites-only",
        is_flag=True,
        help="Compute the composites from the stored verdicts; open no data and no judge.",
    ),
    click.option(
        "--live",
        is_flag=True,
        help="Also ask judges that ask a model anew, without the cache, and report their drift. "
        "This costs what judging every candidate costs.",
    ),
    click.option("--quiet", is_flag=True, help="Print nothing but differences."),
    click.option("--json", "as_json", is_flag=True, help="Print the report as JSON."),
    opt.debug_option,
)
@output.results_only
def rescore(
    ledger: Path,
    out: Path | None,
    *,
    composites_only: bool,
    live: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Make every number of a training's LEDGER again and name each that differs.

    LEDGER is a ledger.jsonl or the training's folder. Composites are computed from verdicts;
    deterministic judges judge anew; verdicts of other judges are looked up in the cache.
    """
    from kardiabench.report import plain
    from trainer.rescoring import rescore as make_again

    found: list[Difference] = []

    def tell(difference: Difference) -> None:
        if as_json:
            found.append(difference)
        else:
            output.echo(plain(str(difference)))

    if live and not quiet:
        click.echo("asking the judges' models about every candidate anew, which costs", err=True)
    report = make_again(ledger, out, composites_only=composites_only, live=live, tell=tell)
    if as_json:
        output.echo(json.dumps(_as_json(report, found), indent=2, ensure_ascii=False))
    elif not quiet:
        _show(report)
    if report.differ:
        raise RunError(
            f"{report.differ} of {report.rows} candidates differ, are missing, doubled or out of "
            "place, as said above; find out who changed the ledger, the cache or the dataset"
        )


def _as_json(report: Report, found: list[Difference]) -> dict[str, object]:
    from dataclasses import asdict

    drift = [
        asdict(d) | {"mean_absolute": d.mean_absolute, "share_equal": d.share_equal}
        for d in report.drift
    ]
    return {**asdict(report), "drift": drift, "differences": [asdict(d) for d in found]}


def _show(report: Report) -> None:
    from kardiabench.report import plain

    for note in report.notes:
        click.echo(f"note: {plain(note)}", err=True)
    said = f"{report.rows} candidates, {report.masked} of them without a composite"
    output.echo(f"{said}; {report.differ or 'none'} differ{'s' if report.differ == 1 else ''}")
    for name, count in report.judges.items():
        output.echo(plain(f"  {name}: {_judged(count)}"))
    for drift in report.drift:
        mean, equal = drift.mean_absolute, drift.share_equal
        numbers = (
            "nothing was scored twice"
            if mean is None or equal is None
            else f"mean absolute difference {mean:.3g}, {equal:.1%} equal, of {drift.n}"
        )
        lost = f"; {drift.unjudged} not judged now" if drift.unjudged else ""
        output.echo(plain(f"  live {drift.judge}.{drift.dimension}: {numbers}{lost}"))


def _judged(count: JudgeCount) -> str:
    """How a judge's verdicts were looked at."""
    if count.how == "not opened":
        return "the ledger does not say how to open it; its verdicts were kept"
    said = [f"{count.compared} {'judged anew' if count.how == 'anew' else 'from the cache'}"]
    if count.not_cached:
        said.append(f"{count.not_cached} not cached, kept")
    if count.failed:
        said.append(f"{count.failed} failed then, kept")
    return "; ".join(said)


COMMANDS = (rescore,)
