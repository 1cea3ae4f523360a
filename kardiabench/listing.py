"""What `kardiabench judges` and `kardiabench prompts` print."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from kardiabench.contracts import Judge
from kardiabench.dialogues import load
from kardiabench.errors import ConfigError, PluginError
from kardiabench.guards import reason
from kardiabench.plugins import load_registry
from kardiabench.preflight import sample_item
from kardiabench.records import Item, Message
from kardiabench.registry import Registry
from kardiabench.scoring import describe
from kardiabench.session import Models, judge_context
from kardiabench.settings import RunSettings

if TYPE_CHECKING:
    from rich.console import Console


def list_judges(registry: Registry) -> list[dict[str, Any]]:
    """A record a judge: name, dimensions, where from, fingerprint; or why it cannot be made."""
    return [_row(registry, name) for name in registry.judges]


def print_judges(rows: list[dict[str, Any]], console: Console) -> None:
    """Print the records as a table."""
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for column in ("judge", "dimensions", "from", "fingerprint"):
        table.add_column(column)
    for row in rows:
        dimensions = ", ".join(row["dimensions"]) or f"cannot be made: {row['problem']}"
        cells = (row["name"], dimensions, row["from"], row["fingerprint"] or "—")
        table.add_row(*map(Text, cells))
    console.print(table)


def describe_judge(registry: Registry, spec: str) -> str:
    """A judge's identity, dimensions and, where it asks a model, its prompt for a sample turn."""
    judge = _make(registry, spec)
    described = describe(judge)
    lines = [f"judge {judge.name}, fingerprint {described['fingerprint']}", ""]
    for dimension in judge.dimensions:
        span = f"{dimension.low:g}–{dimension.high:g}"  # noqa: RUF001 - a range
        lines.append(f"  {dimension.name} ({span}): {dimension.description}")
    lines += ["", "identity: " + json.dumps(described["identity"], indent=2, sort_keys=True), ""]
    messages = getattr(judge, "messages", None)
    if messages is None:
        return "\n".join([*lines, "This judge sends no prompt: it asks no model."])
    lines.append("The exact prompt for the sample's first turn with its gold reply:")
    for message in _sample_prompt(judge.name, messages):
        lines += ["", f"--- {message.role} ---", message.content]
    return "\n".join(lines)


def iterate_prompts(settings: RunSettings) -> Iterator[dict[str, Any]]:
    """`turn_id`, `persona_id` and `messages` of every turn, with gold history; no gold data."""
    if settings.history == "free":
        raise ConfigError(
            "--history free cannot be written out: its prompts hold the model's own replies; "
            "use --history gold, or run the model through kardiabench"
        )
    registry = load_registry(settings.plugins)
    plan = settings.prompts
    plan.check()
    source = registry.open_dataset(settings.dataset, settings.split, settings.revision)
    for turn in load(source, settings.selection, settings.on_bad_row).turns():
        messages = plan.messages(turn)
        yield {
            "turn_id": turn.id,
            "persona_id": turn.dialogue.persona_id,
            "messages": [{"role": m.role, "content": m.content} for m in messages],
        }


def _sample_prompt(judge: str, messages: Callable[[Item], Iterable[Message]]) -> list[Message]:
    try:
        return list(messages(sample_item()))
    except Exception as error:
        raise PluginError(
            f"judge {judge!r} cannot show its prompt: {reason(error)}; mend its `messages`"
        ) from error


def _row(registry: Registry, name: str) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "from": registry.judges[name].origin, "dimensions": []}
    try:
        judge = _make(registry, name)
    except (ConfigError, PluginError) as error:
        return row | {"fingerprint": None, "problem": str(error)}
    except Exception as error:
        return row | {"fingerprint": None, "problem": f"{type(error).__name__}: {error}"}
    names = [dimension.name for dimension in judge.dimensions]
    return row | {"dimensions": names, "fingerprint": describe(judge)["fingerprint"]}


def _make(registry: Registry, spec: str) -> Judge:
    settings = RunSettings(model="(none)")
    return registry.make_judge(spec, judge_context(Models(registry, settings)))
