"""The model card: `README.md` in the model's folder, in the Hub's format.

Every value that a template shows is escaped for Markdown by the environment itself; the front
matter holds only what the Hub takes as a name. No dialogue, no reply and no path is in a card.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kardiabench
from kardiabench.errors import RunError
from kardiabench.redaction import without_keys
from kardiabench.scoring import DEFAULT_WEIGHTS
from trainer.curve_chart import short
from trainer.curve_data import MASKED, REWARD, CurveData, Source, mapping, read_folder
from trainer.curve_pictures import evaluation_table, score_picture
from trainer.curves import standalone_svg, write_text
from trainer.facts import Facts, facts_of
from trainer.public import last_part, public_model, public_recipe, public_spec

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData
    from jinja2 import Environment

CARD, PICTURE = "README.md", "curves.svg"
_TEMPLATES = Path(__file__).parent / "templates"
_STAGES = ("sft", "grpo")
#: What GitHub's Markdown, a table or mathematics in it gives a meaning to; addresses become links.
_SPECIAL = re.compile(
    r"""( [\\`*_\[\]|~$@] | \.(?!\d) | (?<!\d)\. | :(?=\S) | ^[-+\#=] )""", re.VERBOSE
)


@dataclass(frozen=True)
class Code:
    """Markdown that is made already: code, whose fence no content ends."""

    text: str


def write_card(
    folder: Path,
    model: Path | None = None,
    *,
    step: int | None = None,
    licence: str | None = None,
    source: Source = "log",
) -> Path:
    """Write the card of the training in `folder` into the folder of its `model`; return its path.

    `model` is `folder / "final"` unless given; where an adapter lies in it, the card is that of an
    adapter. `step` is the one whose weights it has; `licence` is the Hub's name of their licence,
    left out where nobody says it. `source` is that of `curve_data.read_folder`, whose sentences
    about what is missing are in the card. A picture of the curves lies beside the card, unless
    nothing was evaluated.

    Raises `RunError` where there is no model's folder, and `StorageError` where the card cannot be
    written.
    """
    model = folder / "final" if model is None else model
    if not model.is_dir():
        raise RunError(f"{model} is no folder; give the folder that the trained model is in")
    data = read_folder(folder, source)
    is_adapter = (model / "adapter_config.json").is_file()
    text = card_text(data, step=step, licence=licence, is_adapter=is_adapter)
    _write_picture(data, model / PICTURE)
    write_text(model / CARD, text)
    return model / CARD


def _write_picture(data: CurveData, path: Path) -> None:
    svg = standalone_svg(data)
    if svg is None:
        path.unlink(missing_ok=True)
    else:
        write_text(path, svg)


def card_text(
    data: CurveData,
    *,
    step: int | None = None,
    licence: str | None = None,
    is_adapter: bool = False,
) -> str:
    """The whole card. Raises `RunError` where the Hub's own reader doesn't read it back."""
    facts = facts_of(data.manifest)
    recipe = mapping(data.manifest.get("recipe"))
    matter = front_matter(facts, licence, is_adapter=is_adapter)
    body = (
        _environment()
        .get_template("card.md.j2")
        .render(
            facts=facts,
            data=data,
            step=step,
            weights=weights_line(facts, is_adapter=is_adapter),
            evaluations=told_evaluations(data),
            masked=_masked(data),
            rewards=_ends(data),
            picture=score_picture(data),
            picture_file=Code(PICTURE),
            recipe=fenced(recipe_text(recipe, facts.model), "yaml"),
            command=fenced(command(recipe, facts, is_adapter=is_adapter), "sh"),
            licence=licence,
            version=kardiabench.__version__,
        )
    )
    text = f"---\n{matter.to_yaml()}\n---\n\n{body}"
    _check(text, matter)
    return text


def weights_line(facts: Facts, *, is_adapter: bool) -> str:
    """What lies beside the card: all weights, an adapter, or one that was merged."""
    if facts.lora is None:
        return "a LoRA adapter of the base model" if is_adapter else "all weights"
    known = [(key, facts.lora.get(key)) for key in ("r", "alpha")]
    sizes = [f"{key} {size:g}" for key, size in known if isinstance(size, int | float)]
    lora = "a LoRA adapter" + (f" ({', '.join(sizes)})" if sizes else "")
    if is_adapter:
        return f"{lora} of the base model, which it needs"
    return f"all weights; {lora} was trained, and is merged into the base model's here"


def front_matter(facts: Facts, licence: str | None, *, is_adapter: bool = False) -> ModelCardData:
    """What the Hub reads: only names that it takes as such."""
    from huggingface_hub import ModelCardData

    matter: dict[str, Any] = {
        "base_model": facts.hub_model,
        "datasets": [facts.hub_dataset] if facts.hub_dataset else None,
        "language": "en" if facts.is_kardiabench else None,
        "library_name": "peft" if is_adapter else "transformers",
        "license": licence,
        "pipeline_tag": "text-generation",
        "tags": ["kardiabench", "trl", *([facts.stage] if facts.stage in _STAGES else [])],
    }
    if facts.hub_model:
        matter["base_model_relation"] = "adapter" if is_adapter else "finetune"
    return ModelCardData(**matter)


def _check(text: str, matter: ModelCardData) -> None:
    from huggingface_hub import ModelCard

    try:
        read = ModelCard(text).data
    except ValueError as error:
        raise RunError(f"the model card's front matter cannot be read ({error})") from error
    if read.to_yaml() != matter.to_yaml():
        raise RunError("the model card's front matter reads otherwise than it was written")


def told_evaluations(data: CurveData) -> list[dict[str, str]]:
    """The first evaluation, the chosen one and the last, each once, by step."""
    rows = [dict(row) for row in evaluation_table(data)]
    if not rows:
        return []
    chosen = None if data.choice is None else data.choice.step
    told = {rows[0]["step"]: "first", rows[-1]["step"]: "last"}
    if len(rows) == 1:
        told = {rows[0]["step"]: "the only one"}
    if chosen is not None:
        before = told.get(str(chosen))
        told[str(chosen)] = f"{before}, chosen" if before else "chosen"
    return [row | {"which": told[row["step"]]} for row in rows if row["step"] in told]


def _masked(data: CurveData) -> float | None:
    """The mean share of candidates without a reward; None where it isn't known."""
    known = [value for _, value in data.courses.get(MASKED, ()) if value is not None]
    return sum(known) / len(known) if known else None


def _ends(data: CurveData) -> tuple[float, float] | None:
    """The mean reward of the first and of the last tenth of the steps that have one."""
    known = [value for _, value in data.courses.get(REWARD, ()) if value is not None]
    few = max(1, len(known) // 10)
    return (sum(known[:few]) / few, sum(known[-few:]) / few) if known else None


def recipe_text(recipe: Mapping[str, Any], model: str | None = None) -> str:
    """The recipe as YAML, without where things lie, and without keys."""
    import yaml

    public = public_recipe(recipe, model)
    text: str = yaml.safe_dump(public, sort_keys=False, allow_unicode=False)
    return without_keys(text)


def command(recipe: Mapping[str, Any], facts: Facts, *, is_adapter: bool = False) -> str:
    """How the model is evaluated with the same judges, as for a shell; no server's address."""
    import shlex

    words = ["kardiabench", "run", "--model", "hf/PATH_OR_NAME_OF_THIS_MODEL"]
    if is_adapter:
        words[3] = f"hf/{facts.hub_model or 'PATH_OF_THE_BASE_MODEL'}"
        words += ["--adapter", "PATH_OR_NAME_OF_THIS_MODEL"]
        words += ["--model-revision", facts.revision] if facts.revision else []
    words += ["--dataset", facts.dataset or "KardiaBench"]
    words += ["--split", "test"] if facts.split else []
    words += _prompt_options(recipe)
    words += _reply_options(recipe)
    model = mapping(recipe.get("judging")).get("judge_model")
    words += ["--judge-model", public_model(model)] if isinstance(model, str) else []
    specs = _judge_specs(recipe)
    words += [word for spec in specs for word in ("--judge", spec)] or ["--no-rubric"]
    words += _weight_options(facts.weights_of_judges)
    words += [word for file in _plugins(recipe) for word in ("--plugin", file)]
    return without_keys(" ".join(shlex.quote(short(word, 200)) for word in words))


def _prompt_options(recipe: Mapping[str, Any]) -> list[str]:
    """How prompts are made; of a system prompt of the user's own, the file's name."""
    chosen = mapping(recipe.get("data"))
    words: list[str] = []
    prompt = chosen.get("system_prompt")
    if isinstance(prompt, str) and prompt != "dataset":
        words += ["--system-prompt", last_part(prompt)]
    if chosen.get("history_content") == "response":
        words += ["--history-content", "response"]
    if isinstance(recipe.get("thinking"), bool):
        words.append("--thinking" if recipe["thinking"] else "--no-thinking")
    return words


def _reply_options(recipe: Mapping[str, Any]) -> list[str]:
    """How long replies may be: as in the evaluation after training, else as in training."""
    known = (mapping(recipe.get("final")).get("max_tokens"), recipe.get("max_tokens"))
    tokens = next((one for one in known if isinstance(one, int)), None)
    return [] if tokens is None else ["--max-tokens", str(tokens)]


def _weight_options(weights: Mapping[str, float]) -> list[str]:
    """The reward's weights; none where they are the harness's own, of which each counts alike."""
    if weights.keys() == DEFAULT_WEIGHTS.keys() and len(set(weights.values())) == 1:
        return []
    pairs = (f"{name}={str(weight).removesuffix('.0')}" for name, weight in weights.items())
    return [word for pair in pairs for word in ("--weight", pair)]


def _plugins(recipe: Mapping[str, Any]) -> list[str]:
    given = recipe.get("plugins")
    return [last_part(str(file)) for file in given] if isinstance(given, list) else []


def _judge_specs(recipe: Mapping[str, Any]) -> list[str]:
    """The judges of the recipe, those that only watched too; those every run has are left out."""
    given = [mapping(recipe.get(part)).get("judges") for part in ("judging", "held_out")]
    specs = [spec for part in given if isinstance(part, list) for spec in part]
    return [public_spec(str(spec)) for spec in specs if spec not in ("format", "emotion")]


def fenced(text: str, language: str) -> Code:
    """`text` as a block of code: its fence is longer than any in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return Code(f"{fence}{language}\n{text.rstrip()}\n{fence}")


def escaped(value: object) -> str:
    """`value` as Markdown that shows it as it is, on one line."""
    if isinstance(value, Code):
        return value.text
    line = short(str(value), 2000)
    return html.escape(_SPECIAL.sub(r"\\\1", line), quote=False)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=False,  # noqa: S701 - `finalize` escapes, for Markdown
        finalize=escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
