"""Commands that hand in: submit pack, submit verify."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kardiabench.cli import options as opt
from kardiabench.cli import output

if TYPE_CHECKING:
    from kardiabench.bundle_check import Difference

#: Differences of one bundle that are printed.
_MOST = 20


@click.group()
def submit() -> None:
    """Hand a run in: pack it without any text of its dataset, and check what others packed."""


@submit.command()
@click.argument("run", type=click.Path(path_type=Path))
@opt.compose(
    click.option(
        "--out",
        "-o",
        type=click.Path(),
        callback=lambda _context, _option, given: _place(given),
        help="File (*.kardia.zip) or folder to write. [default: MODEL-DATASET-ID.kardia.zip here]",
    ),
    click.option(
        "--include-replies/--no-replies",
        "include_replies",
        default=None,
        help="Also pack the model's replies and the judges' evidence, which may quote the dataset: "
        "only where its licence lets you. [default: for the sample alone]",
    ),
    click.option(
        "--allow-protocol",
        is_flag=True,
        help="Pack although the protocol names a path or an address, which are published then.",
    ),
    click.option("--force", is_flag=True, help="Replace a bundle that is there."),
    opt.debug_option,
)
@output.results_only
def pack(
    run: Path,
    out: Path | None,
    include_replies: bool | None,
    allow_protocol: bool,
    force: bool,
) -> None:
    """Pack the run directory RUN into one file to hand in.

    In it are ids, scores, the emotions that were named and what was wrong with replies, usage, the
    manifest without paths and addresses, judge cards and calibration. Text of the dataset never is.
    """
    from kardiabench.bundle_packing import pack_run
    from kardiabench.report import plain

    packed = pack_run(
        run, out, include_replies=include_replies, allow_protocol=allow_protocol, force=force
    )
    bundle, turns = packed.bundle, packed.bundle.summary["turns"]
    output.echo(plain(str(packed.path)))
    said = f"{turns['answered']} of {turns['planned']} turns, run {bundle.run_id}"
    click.echo(f"packed {said}; left out: {'; '.join(bundle.left_out)}", err=True)
    if packed.in_use:
        note = "it is being written just now: the bundle has what is there so far"
        click.echo(f"warning: {note}", err=True)
    if bundle.has_texts:
        click.echo("replies and the judges' evidence are in it: they will be public", err=True)
    if not packed.complete:
        click.echo("warning: this run is not complete, and its coverage shows it", err=True)


@submit.command()
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@opt.debug_option
@output.results_only
def verify(bundles: Sequence[Path]) -> None:
    """Recompute every figure of BUNDLES, files or folders of them, and name what differs."""
    from kardiabench.bundle_check import find_bundles, verify_bundle
    from kardiabench.errors import RunError
    from kardiabench.report import plain

    paths, bad = find_bundles(bundles), 0
    for path in paths:
        try:
            found = verify_bundle(path)
        except RunError as error:
            output.echo(plain(f"BROKEN {error}"))
            bad += 1
            continue
        bad += bool(found)
        output.echo(plain(f"{'DIFFERS' if found else 'ok'} {path}"))
        _show(found)
    if bad:
        raise RunError(
            f"{bad} of {len(paths)} bundles cannot be trusted, as said above; pack their runs again"
        )


def _place(given: str | None) -> Path | None:
    """The path of `--out`; an empty one would be the folder here."""
    if given == "":
        raise click.BadParameter("it is empty; give a file (*.kardia.zip) or a folder.")
    return None if given is None else Path(given)


def _show(found: Sequence[Difference]) -> None:
    from kardiabench.report import plain

    for difference in found[:_MOST]:
        output.echo(plain(f"  {difference}"))
    if len(found) > _MOST:
        output.echo(f"  and {len(found) - _MOST} more")


COMMANDS = (submit,)
