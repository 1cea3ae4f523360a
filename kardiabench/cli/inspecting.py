"""`kardiabench inspect-prompt`: what a local model is really sent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from kardiabench.cli import options as opt
from kardiabench.cli import output
from kardiabench.errors import EXIT_INCOMPLETE, ConfigError, PreflightError

if TYPE_CHECKING:
    from kardiabench.records import Turn
    from kardiabench.settings import RunSettings


@click.command("inspect-prompt")
@opt.compose(
    click.option("--model", required=True, help="hf/PATH, hf/NAME, vllm/PATH or vllm/NAME."),
    click.option(
        "--turn",
        metavar="DIALOGUE/INDEX",
        help="The turn, as `kardiabench prompts` and the logs name it. [default: the first]",
    ),
    click.option(
        "--dataset",
        default="sample",
        show_default=True,
        help="KardiaBench, sample, or a .jsonl, .parquet or directory.",
    ),
    opt.dataset_options,
    opt.prompt_options,
    opt.local_options,
    click.option(
        "--max-tokens",
        type=click.IntRange(1, opt.MOST),
        default=4096,
        show_default=True,
        help="Most tokens of a reply.",
    ),
    click.option("--ids", is_flag=True, help="Print every token with its id."),
    opt.plugin_option,
    click.option("--json", "as_json", is_flag=True, help="Print everything as JSON."),
    opt.debug_option,
)
@output.results_only
def inspect_prompt(turn: str | None, ids: bool, as_json: bool, **options: Any) -> None:
    """Print the exact prompt that a local model gets for a turn.

    With it: special tokens, BOS, the room for a reply, and what the gold reply looks like once it
    is decoded. No weights are loaded.
    """
    from dataclasses import asdict

    from kardiabench.inspection import inspect_turn
    from kardiabench.models.local.chat import TemplateError
    from kardiabench.models.local.formats import read_format
    from kardiabench.report_prompt import show_inspection
    from kardiabench.settings import RunSettings

    options["emotions"] = opt.words(options["emotions"])
    settings = RunSettings(**{**options, "plugins": list(options["plugins"])})
    prefix, _, place = settings.model.partition("/")
    if prefix not in ("hf", "vllm") or not place:
        raise ConfigError(
            f"--model {settings.model}: only models that run in this process have a prompt to see; "
            "write hf/PATH or vllm/NAME (for others: kardiabench prompts)"
        )
    chosen = _turn(settings, turn)
    form, decoder, context = read_format(place, settings.local)
    messages = settings.prompts.messages(chosen)
    try:
        seen = inspect_turn(
            form,
            decoder,
            chosen,
            messages,
            context=context,
            max_tokens=settings.max_tokens,
        )
    except TemplateError as error:
        raise PreflightError(f"model {settings.model}: {error}") from error
    if as_json:
        output.echo(json.dumps(asdict(seen), indent=2, ensure_ascii=False))
    else:
        show_inspection(seen, output.console(), ids=ids)
    if seen.problems:
        raise click.exceptions.Exit(EXIT_INCOMPLETE)


def _turn(settings: RunSettings, wanted: str | None) -> Turn:
    from kardiabench.dialogues import load
    from kardiabench.plugins import load_registry

    registry = load_registry(settings.plugins)
    source = registry.open_dataset(settings.dataset, settings.split, settings.revision)
    for turn in load(source, settings.selection, settings.on_bad_row).turns():
        if wanted is None or turn.id == wanted:
            return turn
    raise ConfigError(
        f"--turn {wanted}: the dataset has no such turn; `kardiabench prompts --dataset "
        f"{settings.dataset}` lists their ids"
    )


COMMANDS = (inspect_prompt,)
