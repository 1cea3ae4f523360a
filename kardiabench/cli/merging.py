"""The command `merge`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from kardiabench.cli import options as opt
from kardiabench.cli import output
from kardiabench.cli.running import finish


@click.command()
@click.argument(
    "parts", metavar="PART...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@opt.compose(
    click.option(
        "--out",
        type=click.Path(path_type=Path, file_okay=False),
        help="Run directory to make. [default: runs/MODEL-DATASET-HASH]",
    ),
    opt.coverage_option,
    opt.output_options,
)
@output.results_only
def merge(
    parts: Sequence[Path], out: Path | None, min_coverage: float, quiet: bool, as_json: bool
) -> None:
    """Join all parts of a run (--shard 1/N to N/N) into the run that one machine would have made.

    What is missing, and the frozen anchors, `kardiabench resume` does.
    """
    from kardiabench.execution import Outcome, how_it_ended
    from kardiabench.merging import merge as join
    from kardiabench.report import plain

    merged = join(parts, out)
    for note in merged.notes:
        click.echo(f"note: {plain(note)}", err=True)
    code, sentence = how_it_ended(merged.summary, merged.path, min_coverage)
    finish(Outcome(code, sentence, merged.summary), merged.path, quiet=quiet, as_json=as_json)


COMMANDS = (merge,)
