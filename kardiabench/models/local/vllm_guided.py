r"""A grammar of the four spans, for engines that constrain what a model may write.

In Lark's syntax as llguidance reads it. A tag that is a special token can only be written as that
token, which the grammar names by its id: no text, and so no span, can hold it. A tag that is
ordinary text is matched together with the text before it as one regular expression.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kardiabench.emotions import EMOTIONS
from kardiabench.models.local.marks import THINK_CLOSE, THINK_OPEN, special_tokens
from kardiabench.spans import SPAN_NAMES

#: Not empty, not blank, and no `<` that could begin a tag: `<|`, `</`, `<think>`. `a <3 b` may be.
_TEXT = r"[ \n]?[^\s<\x00-\x1f]([^<]|<+[^<|\/A-Za-z])*"
_LABEL = "(" + "|".join(EMOTIONS) + ")"
_CONTENT: Mapping[str, str] = {
    "understanding": _TEXT,
    "reasoning": _TEXT,
    "emotion": _LABEL,
    "response": _TEXT,
}


def spans_grammar(
    tokenizer: Any, *, prefill: str = "", thinking: bool = False, opened: bool = False
) -> str:
    """The grammar of a reply: four spans in order, the emotion one of the 32 labels.

    `prefill` is what the prompt has of the reply already: the first span's opening tag or nothing.
    `thinking` lets a think block come first; `opened` says that the prompt has opened it.
    """
    special = {token: number for number, token in special_tokens(tokenizer)}
    rules = [] if prefill == _tag("understanding", "begin") else [_symbol(special, "begin", 0)]
    lines: list[str] = []
    for place, name in enumerate(SPAN_NAMES):
        if place:
            rules += ["SPACE?", _symbol(special, "begin", place)]
        end = _tag(name, "end")
        rules.append(name.upper())
        if end in special:
            rules.append(f"<[{special[end]}]>")
            lines.append(f"{name.upper()}: /{_CONTENT[name]}/")
        else:
            lines.append(f"{name.upper()}: /{_CONTENT[name]}{_escaped(end)}/")
    if opened:
        rules.insert(0, "thought")
    elif thinking:
        rules.insert(0, "think?")
    if opened or thinking:
        lines += _thinking_rules(special)
    return "\n".join([f"start: {' '.join(rules)}", *lines, r"SPACE: /[ \n]{1,2}/", ""])


def _thinking_rules(special: Mapping[str, int]) -> list[str]:
    """A think block, up to its first closing tag, and white space behind it."""
    opening = _literal(special, THINK_OPEN)
    if THINK_CLOSE in special:
        end = f"THOUGHT <[{special[THINK_CLOSE]}]> SPACE?"
        return [f"think: {opening} {end}", f"thought: {end}", r"THOUGHT: /(?s:.*)/"]
    closed = f"closed[lazy]: /(?s:.*){_escaped(THINK_CLOSE)}/"
    return [f"think: {opening} closed SPACE?", "thought: closed SPACE?", closed]


def _symbol(special: Mapping[str, int], end: str, place: int) -> str:
    return _literal(special, _tag(SPAN_NAMES[place], end))


def _literal(special: Mapping[str, int], text: str) -> str:
    return f"<[{special[text]}]>" if text in special else json.dumps(text)


def _tag(name: str, end: str) -> str:
    return f"<|{name}_{end}|>"


def _escaped(tag: str) -> str:
    return tag.replace("|", r"\|").replace("/", r"\/")
