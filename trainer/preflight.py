"""What is looked at before any weight moves; one sentence for everything that is wrong.

Each check returns a line for display, or raises a `KardiaBenchError` that names the next step.
"""

from __future__ import annotations

import asyncio
import math
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kardiabench.errors import ConfigError, PreflightError
from kardiabench.models.local.chat import TemplateError
from kardiabench.models.local.marks import THINK_CLOSE
from kardiabench.preflight import sample_item
from kardiabench.records import Item, Turn
from kardiabench.scoring import Scorer
from kardiabench.spans import SPAN_NAMES, parse_spans
from trainer.scorers import Scorers
from trainer.sft_rows import gold_text
from trainer.split_log import is_whole
from trainer.texts import Texts

TAGS = tuple(f"<|{name}_{end}|>" for name in SPAN_NAMES for end in ("begin", "end"))

#: What stages write into their output folder; a folder without any of it is somebody else's.
OWN_FILES = ("training.json", "ledger*.jsonl", "log.jsonl", "evaluations.jsonl", "checkpoint-*")

_FORMATS = {
    "template": "the model's own chat template",
    "folded": "the model's own chat template, which has no system role: the system prompt stands "
    "before the first user message",
    "plain": "plain headings, since the model has no chat template",
}


# --- tags and prompts -----------------------------------------------------------------------------


def describe_tags(tokenizer: Any) -> str:
    """Whether the eight span tags are special tokens, and how rewards will see them."""
    kinds = {tag: _kind(tokenizer, tag) for tag in TAGS}
    counts = Counter(kinds.values())
    if len(counts) > 1:
        parts = [
            f"{', '.join(tag for tag in TAGS if kinds[tag] == kind)} {_IS[kind]}"
            for kind in sorted(counts)
        ]
        what = f"the span tags are of several kinds: {'; '.join(parts)}"
    else:
        (kind,) = counts
        what = f"the eight span tags {_ARE[kind]}"
    if counts["special"]:
        return (
            f"{what}; rewards read them off the token ids, since decoding as TRL does it drops them"
        )
    return f"{what} ({TAGS[-2]} is {_length(tokenizer, TAGS[-2])}); rewards read them as text"


def check_round_trip(texts: Texts, tokenizer: Any, turn: Turn | None = None) -> str:
    """The gold reply of `turn` through `texts`, to token ids and back.

    The built-in sample has one, where no turn is given or its own has not all four spans. Raises
    `PreflightError`, which names the first tag that is lost, when the spans do not come back.
    """
    own, gold_reply = sample_item()
    gold = (None if turn is None else gold_text(turn)) or gold_reply.text
    turn = turn or own
    prompt = texts.prompt(turn)
    rest = gold.removeprefix(prompt.prefill.strip())
    if prompt.opens_thinking:
        rest = f"{THINK_CLOSE}\n\n{rest}"
    ids = [*tokenizer(rest, add_special_tokens=False).input_ids, texts.end_id]
    reply = texts.reply(turn, ids)
    if reply.spans == parse_spans(gold) and reply.status == "ok":
        return "a gold reply comes back from its token ids with all four spans"
    raise PreflightError(
        f"a gold reply does not survive the tokenizer: {_what_is_lost(reply.text, gold)}, so that "
        "every reward would be of a broken reply; train `sft` with tags: special first, or take "
        "another model"
    )


def describe_prompt(texts: Texts, turn: Turn) -> str:
    """How the prompt of `turn` is made, what the template writes ahead, and what thinking does.

    Raises `PreflightError` for a template that makes no prompt, and for a `thinking` that it does
    not know.
    """
    prompt, form = texts.prompt(turn), texts.format
    try:
        kind, switch = form.kind, form.has_switch
    except TemplateError as error:
        raise PreflightError(f"{error}; give the model another chat template") from error
    if form.thinking is not None and not switch:
        raise PreflightError(
            f"thinking: {str(form.thinking).lower()} is set, and the model's chat template has no "
            "switch for it; leave thinking out of the recipe"
        )
    parts = [f"prompts: {_FORMATS[kind]}; {len(prompt.ids)} tokens for turn {turn.id}"]
    if prompt.prefill:
        parts.append(
            f"the template begins every reply with {prompt.prefill!r}, put back for judges"
        )
    if prompt.opens_thinking:
        parts.append("the template opens a think block: thinking counts as tokens, and is no reply")
    if switch and form.thinking is None:
        parts.append("thinking is as the template has it: set thinking to decide")
    return "; ".join(parts)


_IS = {"special": "special", "single": "a token of its own", "text": "ordinary text"}
_ARE = {
    "special": "are special tokens",
    "single": "are tokens of their own, not special",
    "text": "are ordinary text",
}


def _kind(tokenizer: Any, tag: str) -> str:
    ids = tokenizer(tag, add_special_tokens=False).input_ids
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        return "text"
    added = tokenizer.added_tokens_decoder.get(ids[0])
    is_special = ids[0] in tokenizer.all_special_ids or (added is not None and added.special)
    return "special" if is_special else "single"


def _length(tokenizer: Any, tag: str) -> str:
    number = len(tokenizer(tag, add_special_tokens=False).input_ids)
    return "1 token" if number == 1 else f"{number} tokens"


def _what_is_lost(text: str, gold: str) -> str:
    for tag in TAGS:
        if tag in gold and tag not in text:
            return f"the tag {tag} is lost"
    was, now = parse_spans(gold), parse_spans(text)
    for name in SPAN_NAMES:
        if getattr(was, name) != getattr(now, name):
            return f"the span {name} is {(getattr(now, name) or '')[:60]!r} afterwards"
    return f"it reads {text[:60]!r} afterwards"


# --- judges ---------------------------------------------------------------------------------------


def check_judges(scorers: Scorers) -> str:
    """Have every judge's model answer and every judge judge one reply of the built-in sample.

    Raises `PreflightError` for the first that does not. Not for use on a running event loop.
    """
    return asyncio.run(ask_judges(scorers))


async def ask_judges(scorers: Scorers) -> str:
    """`check_judges` on the running event loop."""
    for name, model in scorers.models.items():
        try:
            await _try_model(model)
        except PreflightError as error:
            why = str(error).replace("--api-base", "judging.judge_api_base")
            raise PreflightError(
                f"a judge cannot run: its model {name.partition(' ')[0]}: {why}; or give another "
                "judging.judge_model"
            ) from error
    scorer = scorers.fresh()["eval"]
    item = sample_item()
    for judge in scorer.judges:
        await _try_judge(scorer, judge.name, item)
    names = ", ".join(judge.name for judge in scorer.judges)
    return f"judges: {names}; each judged a reply of the built-in sample"


async def _try_model(model: Any) -> None:
    check_key = getattr(model, "check_key", None)
    if check_key is not None:
        check_key()
    await model.preflight()


async def _try_judge(scorer: Scorer, name: str, item: Item) -> None:
    judge = next(judge for judge in scorer.judges if judge.name == name)
    (verdict,) = await scorer.verdicts(judge, [item])
    if not is_whole(verdict):
        why = " ".join(verdict.evidence.values()) or "no reason given"
        raise PreflightError(
            f"judge {name} did not judge a sample reply ({verdict.status}: {why}); mend it, give "
            "another judging.judge_model, or leave it out of judging.judges"
        )


# --- sizes and folders ----------------------------------------------------------------------------


def check_batches(
    batch_size: int, per_device: int, world: int = 1, candidates: int | None = None
) -> str:
    """How an optimizer step of `batch_size` rows is made up, on `world` processes.

    Raises `ConfigError` with the nearest sizes that divide. `candidates`: rows of one prompt, of
    which a step needs whole groups.
    """
    at_once = per_device * world
    unit = at_once if candidates is None else math.lcm(at_once, candidates)
    if batch_size % unit:
        raise ConfigError(_uneven(batch_size, per_device, world, candidates, unit))
    line = f"a step: {batch_size} rows = {per_device} rows"
    if world > 1:
        line += f" x {world} processes"
    if batch_size > at_once:
        line += f" x {batch_size // at_once} accumulated"
    return line if candidates is None else f"{line}; {batch_size // candidates} prompts"


def _uneven(batch_size: int, per_device: int, world: int, candidates: int | None, unit: int) -> str:
    below = batch_size // unit * unit
    sizes = [below, below + unit] if below else [unit]
    what = f"per_device_batch_size {per_device}"
    what += f" x {world} processes" if world > 1 else ""
    groups = f" in whole groups of {candidates} candidates" if candidates is not None else ""
    hint = f"give batch_size {_either(sizes)}"
    is_whole_groups = candidates is None or batch_size % candidates == 0
    if batch_size % world == 0 and is_whole_groups:
        hint += f", or per_device_batch_size {_either(_divisors(batch_size // world, per_device))}"
    return f"batch_size {batch_size} does not divide into {what}{groups}; {hint}"


def _divisors(rows: int, near: int) -> list[int]:
    """The divisors of `rows` next to `near`, below and above."""
    divisors = [number for number in range(1, rows + 1) if rows % number == 0]
    below = [number for number in divisors if number < near][-1:]
    return below + [number for number in divisors if number > near][:1]


def _either(sizes: Sequence[int]) -> str:
    return " or ".join(map(str, sizes))


def check_output(folder: Path, own: Sequence[str] = OWN_FILES) -> None:
    """Raise `ConfigError` for a folder that cannot be written or holds other people's files.

    `own` are patterns of files of which an earlier training leaves at least one.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output: {folder} is a file; give a folder")
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ConfigError(
            f"output: nothing can be written in {existing} ({error.strerror or error}); give "
            "another folder"
        ) from error
    if existing == folder:
        _refuse_foreign(folder, own)


def _refuse_foreign(folder: Path, own: Sequence[str]) -> None:
    found = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if found and not any(next(folder.glob(pattern), None) for pattern in own):
        raise ConfigError(
            f"output: {folder} holds files that no training wrote ({found[0]}"
            f"{f' and {len(found) - 1} more' if len(found) > 1 else ''}); give a new folder"
        )
