"""Which family a language model is of, by its name: judges may like their own family's replies."""

from __future__ import annotations

import re

#: Names are read from the left, and the first that fits counts: a distilled model is named after
#: both its teacher and its base, and writes like the one that is named first.
_FAMILIES = (
    ("gpt", r"gpt|chatgpt|o[134](?:-mini|-pro|-preview)?|davinci"),
    ("claude", r"claude"),
    ("gemini", r"gemini"),
    ("gemma", r"gemma"),
    ("qwen", r"qwen|qwq|qvq"),
    ("llama", r"llama|vicuna"),
    ("deepseek", r"deepseek"),
    ("mistral", r"mistral|mixtral|ministral|magistral|codestral|devstral"),
    ("grok", r"grok"),
    ("phi", r"phi"),
    ("glm", r"glm|chatglm"),
    ("kimi", r"kimi"),
    ("command", r"command"),
    ("nova", r"nova"),
    ("minimax", r"minimax"),
    ("yi", r"yi"),
    ("internlm", r"internlm"),
    ("olmo", r"olmo"),
    ("granite", r"granite"),
    ("smollm", r"smollm"),
)
_KNOWN = [(family, re.compile(rf"(?<![a-z])(?:{names})(?![a-z])")) for family, names in _FAMILIES]


def family_of(model: str) -> str | None:
    """The family of `model` (`openai/gpt-5-mini`, `Qwen2.5-7B-Instruct`); None for an unknown name.

    The model's own name tells, not who serves it: `deepseek/…` and `mistral/…` are read only where
    the part after the last slash says nothing.
    """
    for part in reversed(model.lower().split("/")):
        found = [(hit.start(), family) for family, names in _KNOWN if (hit := names.search(part))]
        if found:
            return min(found)[1]
    return None
