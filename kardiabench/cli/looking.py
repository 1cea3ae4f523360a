"""Commands that look: show, judges, prompts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kardiabench.cli import options as opt
from kardiabench.cli import output

if TYPE_CHECKING:
    from kardiabench.registry import Registry


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@opt.compose(
    opt.calibration_option,
    click.option("--json", "as_json", is_flag=True, help="Print the summaries as JSON."),
    opt.debug_option,
)
@output.results_only
def show(runs: Sequence[Path], calibration: Path | None, as_json: bool) -> None:
    """Print the tables of one or more run directories, recomputed from their logs."""
    from kardiabench.calibration import check_calibration, read_calibration
    from kardiabench.manifests import read_manifest
    from kardiabench.summary import summarise

    curves = None if calibration is None else read_calibration(calibration)
    manifests = {path: read_manifest(path) for path in runs}
    for manifest in manifests.values():
        if curves is not None:
            check_calibration(curves, manifest)
    summaries = [summarise(path, manifests[path], curves) for path in runs]
    if as_json:
        output.echo(json.dumps(summaries, indent=2, sort_keys=True))
        return
    from kardiabench import report

    protocols = {summary["protocol"] for summary in summaries}
    if len(protocols) > 1:
        click.echo("warning: these runs have different protocols: do not compare them", err=True)
    names = [path.resolve().name for path in runs]
    report.show(report.titled(summaries, names), output.console())


@click.group(invoke_without_command=True)
@opt.compose(
    opt.plugin_option,
    click.option("--json", "as_json", is_flag=True, help="Print the list as JSON."),
    opt.debug_option,
)
@click.pass_context
@output.results_only
def judges(context: click.Context, plugins: Sequence[str], as_json: bool) -> None:
    """List the judges, built in and from plugins; what is broken is named."""
    from kardiabench.plugins import load_registry

    registry = load_registry(plugins)
    context.obj = registry
    if context.invoked_subcommand is not None:
        return
    from kardiabench.listing import list_judges, print_judges

    rows = list_judges(registry)
    if as_json:
        problems = [str(problem) for problem in registry.problems]
        output.echo(json.dumps({"judges": rows, "problems": problems}, indent=2))
        return
    print_judges(rows, output.console())
    for problem in registry.problems:
        click.echo(f"warning: {problem}", err=True)


@judges.command("show")
@click.argument("name")
@opt.compose(opt.plugin_option, opt.debug_option)
@click.pass_obj
@output.results_only
def show_judge(registry: Registry, name: str, plugins: Sequence[str]) -> None:
    """Print what judge NAME measures and the exact prompt that it sends for a sample turn."""
    from kardiabench.listing import describe_judge
    from kardiabench.plugins import load_registry

    registry = load_registry(plugins) if plugins else registry
    output.echo(describe_judge(registry, name))


@click.command()
@opt.compose(
    click.option(
        "--dataset", default="sample", show_default=True, help="KardiaBench, sample, or a path."
    ),
    opt.dataset_options,
    opt.prompt_options,
    opt.plugin_option,
    click.option(
        "--out",
        "-o",
        type=click.File("w", encoding="utf-8", lazy=False),
        default="-",
        help="File to write. [default: standard output]",
    ),
    opt.debug_option,
)
@output.results_only
def prompts(out: Any, **options: Any) -> None:
    """Write each turn's id and prompt as JSON lines, to generate replies elsewhere.

    Score what you generate with `kardiabench run --model replay/FILE`, where FILE has JSON lines
    with `turn_id` and `text`.
    """
    from kardiabench.listing import iterate_prompts
    from kardiabench.settings import RunSettings

    options["emotions"] = opt.words(options["emotions"])
    settings = RunSettings(model="(none)", **{**options, "plugins": list(options["plugins"])})
    for line in iterate_prompts(settings):
        out.write(json.dumps(line, ensure_ascii=False) + "\n")


COMMANDS = (show, judges, prompts)
