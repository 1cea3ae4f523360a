"""Whether prompt and reply fit into a model's context."""

from __future__ import annotations

#: A reply is given at least so many tokens, if it may have as many: less is no fair trial.
LEAST_REPLY = 256


def room_for(prompt_tokens: int, max_tokens: int, context: int | None) -> int | str:
    """How many tokens the reply may have, or a sentence on why there are too few.

    `max_tokens` are cut to what the context of the model leaves, down to `LEAST_REPLY`.
    """
    if context is None:
        return max_tokens
    left = context - prompt_tokens
    if left < min(max_tokens, LEAST_REPLY):
        fewer = f", --max-tokens {left} if replies are that short" if left > 0 else ""
        return (
            f"the prompt has {prompt_tokens} tokens and the model's context {context}, which "
            f"leaves {max(0, left)} for a reply; use a model with a longer context, or "
            f"--truncate-history{fewer}"
        )
    return min(max_tokens, left)
