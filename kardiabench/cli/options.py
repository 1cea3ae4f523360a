"""Options that commands share, and the YAML file that may hold them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from kardiabench.errors import ConfigError, did_you_mean

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


#: Calls in flight that a process and its server can bear.
MOST_CALLS = 4096
MOST = 2**31 - 1


def compose(*decorators: Callable[[Any], Any]) -> Callable[[_Decorated], _Decorated]:
    """Several decorators as one, the first of them the first in `--help`."""

    def apply(function: _Decorated) -> _Decorated:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def read_config(context: click.Context, parameter: click.Parameter, value: Path | None) -> None:
    """Let the YAML file `value` give the defaults of the command's options: flags win."""
    if value is None:
        return
    import yaml

    try:
        content = yaml.safe_load(value.read_text("utf-8")) or {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"--config {value} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"--config {value}: write one option a line, as `limit: 100`")
    options = [p for p in context.command.params if p is not parameter]
    context.default_map = dict(_default(entry, options, value) for entry in content.items())


def long_name(option: click.Parameter) -> str:
    """What an option is called in a file: `on-bad-row` for `--on-bad-row`."""
    return max(option.opts, key=len).lstrip("-")


def _default(
    entry: tuple[object, object], options: Sequence[click.Parameter], file: Path
) -> tuple[str, object]:
    key, value = entry
    names = {long_name(option): option for option in options}
    option = names.get(str(key).replace("_", "-"))
    if option is None or option.name is None:
        hint = did_you_mean(str(key), names)
        raise ConfigError(f"--config {file}: there is no option {str(key)!r}; {hint}")
    try:
        return option.name, None if value is None else _read_value(value, option)
    except (click.BadParameter, ValueError) as error:
        reason = error.format_message() if isinstance(error, click.BadParameter) else error
        raise ConfigError(f"--config {file}: {str(key)!r} is wrong: {reason}") from error


def _read_value(value: object, option: click.Parameter) -> object:
    """`value` as the default of `option`; ValueError or BadParameter where it cannot be one."""
    if option.multiple:
        return [_scalar(item) for item in _items(value)]
    if isinstance(option, click.Option) and option.is_flag:
        if not isinstance(value, bool):
            raise ValueError(f"{value!r} is neither true nor false")
        return value
    text = _scalar(value)
    option.type.convert(text, None, None)
    return text


def _items(value: object) -> list[object]:
    """One value or a list; a mapping stands for a repeated `key=value` option."""
    if isinstance(value, dict):
        import json

        return [
            f"{k}={v if isinstance(v, str) else json.dumps(v, default=str)}"
            for k, v in value.items()
        ]
    return value if isinstance(value, list) else [value]


def _scalar(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{value!r} is neither text nor a number")  # noqa: TRY004 (one kind)
    return str(value)


def key_values(option: str, pairs: Sequence[str]) -> dict[str, str]:
    """Split repeated `key=value` options."""
    result: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"{option} {pair!r} is not of the form key=value")
        result[key] = value
    return result


def yaml_values(option: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Split repeated `key=value` options and read each value as YAML: numbers, lists, true."""
    import yaml

    values: dict[str, Any] = {}
    for key, text in key_values(option, pairs).items():
        try:
            values[key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{option} {key}={text}: the value is not YAML") from error
    return values


def words(values: Sequence[str]) -> list[str]:
    """Split comma-separated values of a repeated option."""
    return [word.strip() for value in values for word in value.split(",") if word.strip()]


class FiniteRange(click.FloatRange):
    """A range of numbers without `nan` and `inf`, which compare like no limit at all."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number, within the range."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


_debug: list[bool] = []


def debugging() -> bool:
    """Whether `--debug` was given, or stands in the configuration file."""
    return any(_debug)


def _note_debug(_context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    _debug.append(value)


debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_note_debug,
    help="Show the traceback of an error.",
)
config_option = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=read_config,
    is_eager=True,
    expose_value=False,
    help="YAML file with any of these options (long names, without dashes in front); flags win.",
)
plugin_option = click.option(
    "--plugin",
    "plugins",
    multiple=True,
    metavar="FILE.py",
    help="Load a plugin that is not installed. Repeatable.",
)
dataset_options = compose(
    click.option("--split", help="Split; KardiaBench: test, sample: all, train or test."),
    click.option("--revision", help="Revision of a dataset on the Hub; pinned in the manifest."),
    click.option(
        "--limit",
        type=click.IntRange(1, MOST),
        metavar="N",
        help="Use N dialogues, balanced over personas and emotions.",
    ),
    click.option(
        "--limit-personas", type=click.IntRange(1, MOST), metavar="N", help="Use N personas."
    ),
    click.option(
        "--emotions",
        multiple=True,
        metavar="LABELS",
        help="Use dialogues of these emotions: comma-separated.",
    ),
    click.option(
        "--on-bad-row",
        type=click.Choice(["fail", "skip"]),
        default="fail",
        show_default=True,
        help="What to do with a row that breaks the schema.",
    ),
)
prompt_options = compose(
    click.option(
        "--history",
        type=click.Choice(["gold", "free"]),
        default="gold",
        show_default=True,
        help="Earlier replies a turn sees: the dataset's, or the model's own.",
    ),
    click.option(
        "--history-content",
        type=click.Choice(["spans", "response"]),
        default="spans",
        show_default=True,
        help="Whether earlier replies keep all four spans.",
    ),
    click.option(
        "--system-prompt",
        default="dataset",
        show_default=True,
        metavar="dataset|kardia|FILE",
        help="The row's own system prompt (ours where it has none), ours, or a jinja2 template.",
    ),
)
request_options = compose(
    click.option(
        "--truncate-history",
        is_flag=True,
        help="Leave out the oldest exchanges where the context is too short for all of them.",
    ),
    click.option(
        "--guided-spans",
        is_flag=True,
        help="vllm/: constrain replies to the four spans and the 32 labels.",
    ),
)
model_options = compose(
    click.option(
        "--temperature",
        type=FiniteRange(0),
        help="Sampling temperature. [default: 0 where the provider allows it]",
    ),
    click.option(
        "--max-tokens",
        type=click.IntRange(1, MOST),
        default=4096,
        show_default=True,
        help="Most tokens of a reply, thinking included.",
    ),
    click.option(
        "--seed", type=int, default=0, show_default=True, help="Sent where the provider takes one."
    ),
    click.option("--api-base", metavar="URL", help="Server to use instead of the provider's."),
    click.option(
        "--model-arg",
        "model_args",
        multiple=True,
        metavar="KEY=VALUE",
        help="Extra parameter of the backend or provider (YAML value). Repeatable.",
    ),
)
local_options = compose(
    click.option(
        "--dtype",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
        default="auto",
        show_default=True,
        help="hf/, vllm/: number type of the weights; auto: as they were saved.",
    ),
    click.option(
        "--device",
        default="auto",
        show_default=True,
        help="hf/: cpu, cuda, cuda:1, or a placement over several: balanced, sequential.",
    ),
    click.option(
        "--adapter", metavar="PATH|NAME", help="hf/, vllm/: LoRA adapter to put onto the model."
    ),
    click.option("--model-revision", metavar="REV", help="hf/, vllm/: revision on the Hub."),
    click.option(
        "--quantize",
        type=click.Choice(["4bit", "8bit"]),
        help="hf/, vllm/: quantize the weights as they are loaded (bitsandbytes).",
    ),
    click.option(
        "--thinking/--no-thinking",
        default=None,
        help="hf/, vllm/: the chat template's own switch. [default: the template's]",
    ),
    click.option(
        "--trust-remote-code",
        is_flag=True,
        help="hf/, vllm/: run the code that comes with the model.",
    ),
)
spread_options = compose(
    click.option(
        "--ray",
        metavar="local|ADDRESS",
        help="Spread dialogues over replicas of the model on a Ray cluster.",
    ),
    click.option(
        "--replicas",
        type=click.IntRange(1, 4096),
        default=1,
        show_default=True,
        metavar="N",
        help="How many replicas (more than one: --ray local, if --ray is not given).",
    ),
    click.option(
        "--replica-arg",
        "replica_args",
        multiple=True,
        metavar="KEY=VALUE",
        help="What a replica takes: num_gpus, num_cpus, or a resource of the cluster. Repeatable.",
    ),
)
shard_option = click.option(
    "--shard",
    metavar="I/N",
    help="Do the I-th of N parts of the dialogues; `kardiabench merge` joins them.",
)
judge_options = compose(
    click.option(
        "--judge",
        "judges",
        multiple=True,
        metavar="NAME[:OPTION=VALUE,…]",
        help="Judge to run beside format and emotion, instead of rubric. Repeatable.",
    ),
    click.option(
        "--judge-model",
        metavar="MODEL",
        help="Model of the judges rubric, safety and pairwise. [default: openai/gpt-5-mini]",
    ),
    click.option("--judge-api-base", metavar="URL", help="Server of that model."),
)
score_options = compose(
    click.option(
        "--no-rubric", is_flag=True, help="Leave the rubric judge out (then there is no composite)."
    ),
    click.option(
        "--weight",
        "weights",
        multiple=True,
        metavar="JUDGE=NUMBER",
        help="Parts of the composite. [default: format=1 emotion=1 rubric=1]",
    ),
    click.option(
        "--on-missing",
        type=click.Choice(["mask", "fail-fast", "zero"]),
        default="mask",
        show_default=True,
        help="What a missing judgement does: composite missing, run stopped, or lowest score.",
    ),
)
traffic_options = compose(
    click.option(
        "--concurrency",
        type=click.IntRange(1, MOST_CALLS),
        default=32,
        show_default=True,
        help="Calls in flight at a time, for each model.",
    ),
    click.option(
        "--timeout",
        type=FiniteRange(0, min_open=True),
        default=120.0,
        show_default=True,
        metavar="SECONDS",
        help="Longest wait for one call.",
    ),
    click.option(
        "--retries",
        type=click.IntRange(0),
        default=6,
        show_default=True,
        help="Further tries after a failure that may pass.",
    ),
)
changed_traffic_options = compose(
    click.option("--api-base", metavar="URL", help="Where the model's server is now."),
    click.option("--judge-api-base", metavar="URL", help="Where the judge's server is now."),
    click.option(
        "--concurrency",
        type=click.IntRange(1, MOST_CALLS),
        help="Calls in flight at a time. [default: as before]",
    ),
    click.option(
        "--timeout",
        type=FiniteRange(0, min_open=True),
        metavar="SECONDS",
        help="Longest wait for one call. [default: as before]",
    ),
    click.option(
        "--retries",
        type=click.IntRange(0),
        help="Further tries after a failure that may pass. [default: as before]",
    ),
)
coverage_option = click.option(
    "--min-coverage",
    type=FiniteRange(0, 1),
    default=0.95,
    show_default=True,
    help="Exit with 3 when a judge judged a smaller share of the turns.",
)
manner_options = compose(
    click.option(
        "--max-cost",
        type=FiniteRange(0),
        metavar="USD",
        help="Start no call that may take this command beyond it (an estimate).",
    ),
    coverage_option,
    click.option(
        "--skip-preflight", is_flag=True, help="Do not try models and judges before the run."
    ),
    click.option(
        "--no-anchors",
        is_flag=True,
        help="Do not have judges score the frozen anchors after a run of 200 turns or more.",
    ),
    click.option(
        "--judge-cards",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("judge-cards"),
        show_default=True,
        help="Folder of judge cards; those of this run's judges are kept with it.",
    ),
)
calibration_option = click.option(
    "--calibration",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Show calibrated means beside the raw ones (made by `judges calibrate --out`).",
)
output_options = compose(
    click.option("--quiet", is_flag=True, help="No progress and no tables."),
    click.option(
        "--json", "as_json", is_flag=True, help="Print the summary as JSON on standard output."
    ),
    debug_option,
)
