"""Commands of the trainer: `kardiabench train …`, which is `python -m trainer …`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from kardiabench.cli import options as opt
from kardiabench.cli import output
from kardiabench.errors import ConfigError

_OVERRIDES = """
    OVERRIDES are fields of the recipe as KEY=VALUE, with dots for what is nested, the value as
    YAML: learning_rate=2e-6 judging.judges='[rubric,safety]' lora.r=32
"""


def _stage_options(command: Callable[..., Any]) -> Callable[..., Any]:
    return opt.compose(
        click.option(
            "--config", "recipe", help="A YAML recipe, or the name of a built-in one (see recipes)."
        ),
        click.argument("overrides", nargs=-1, metavar="[OVERRIDES]..."),
        click.option("--check", is_flag=True, help="Check everything, and stop before training."),
        click.option("--quiet", is_flag=True, help="No table; a line now and then."),
    )(command)


@click.group()
def train() -> None:
    """Train a model with the benchmark's own scores: split, sft, grpo.

    docs/training.md goes from nothing to a GRPO run on one GPU and on eight.
    """


@train.command(
    help=f"""Fine-tune a model on the gold replies of the training data.

    The same command again goes on from the newest checkpoint.
    {_OVERRIDES}"""
)
@_stage_options
@output.results_only
def sft(recipe: str | None, overrides: Sequence[str], *, check: bool, quiet: bool) -> None:
    """Run the stage `sft`."""
    _run("sft", recipe, overrides, check=check, quiet=quiet)


@train.command(
    help=f"""Train a model by GRPO; the reward of a reply is the score that `kardiabench
    run` would give it.

    The same command again goes on from the newest checkpoint.
    {_OVERRIDES}"""
)
@_stage_options
@output.results_only
def grpo(recipe: str | None, overrides: Sequence[str], *, check: bool, quiet: bool) -> None:
    """Run the stage `grpo`."""
    _run("grpo", recipe, overrides, check=check, quiet=quiet)


@train.command(
    help=f"""Tell easy from hard dialogues by how often a model's samples pass.

    Writes split.json, which sft and grpo read (data.manifest). The same command again goes on.
    {_OVERRIDES}"""
)
@opt.compose(
    click.option(
        "--config", "recipe", help="A YAML recipe, or the name of a built-in one (see recipes)."
    ),
    click.argument("overrides", nargs=-1, metavar="[OVERRIDES]..."),
    click.option("--quiet", is_flag=True, help="No progress display."),
)
@output.results_only
def split(recipe: str | None, overrides: Sequence[str], *, quiet: bool) -> None:
    """Run the stage `split`."""
    _run("split", recipe, overrides, check=False, quiet=quiet)


@train.command()
@click.argument("name", required=False)
@output.results_only
def recipes(name: str | None) -> None:
    """List the built-in recipes, or print the one called NAME, to be copied and changed."""
    _need_trainer()
    from trainer.recipe_files import built_in, launch_configs, source_of

    if name is not None:
        output.echo(source_of(name).rstrip())
        return
    for recipe, about in built_in().items():
        output.echo(f"{recipe}\n    {' '.join(about.split())}")
    output.echo(f"for accelerate launch --config_file: {', '.join(launch_configs())}")


@train.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@output.results_only
def curves(folder: Path) -> None:
    """Draw the curves of the training in FOLDER anew, from its ledger: curves.html."""
    _need_trainer()
    from trainer.curves import write_page

    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder; give the output folder of a training")
    output.echo(str(write_page(folder, "ledger")))


@train.command()
@opt.compose(
    click.option(
        "--engine",
        type=click.Choice(["verl", "openrlhf", "swift"]),
        required=True,
        help="Whose format the rows are written in.",
    ),
    click.option("--config", "recipe", help="A GRPO recipe: a YAML file or a built-in one."),
    click.option(
        "--out",
        type=click.Path(path_type=Path, dir_okay=False),
        required=True,
        help="File to write: .jsonl, for verl also .parquet.",
    ),
    click.argument("overrides", nargs=-1, metavar="[OVERRIDES]..."),
)
@output.results_only
def export(engine: str, recipe: str | None, out: Path, overrides: Sequence[str]) -> None:
    """Write the training rows for another engine, whose reward function is the same Scorer.

    docs/training-engines.md says how each engine is told of it.
    """
    _need_trainer()
    from trainer.adapters.export import export as write_rows
    from trainer.recipe_files import load_stage

    for sentence in write_rows(load_stage("grpo", recipe, overrides), engine, out):
        output.echo(sentence)


def _run(
    stage: str, recipe: str | None, overrides: Sequence[str], *, check: bool, quiet: bool
) -> None:
    _need_trainer()
    from trainer.recipe_files import load_stage
    from trainer.stages import run_stage

    made = run_stage(load_stage(stage, recipe, overrides), quiet=quiet, only_check=check)
    if int(os.environ.get("RANK", "0")) == 0:  # of several processes the first one speaks
        output.echo(str(made))


def _need_trainer() -> None:
    """Another distribution of that name would run its own code."""
    from kardiabench.plugins import check_own_package

    check_own_package("trainer")


COMMANDS = (train,)
