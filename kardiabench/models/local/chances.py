"""The alternatives to each token of a reply, as texts that join to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kardiabench.models.local.decoding import ReplyDecoder
from kardiabench.records import TokenChances

#: Tokens before one that its text may depend on: characters of several tokens, leading spaces.
_BEFORE = 6
_UNFINISHED = "\ufffd"


def chances_of(
    decoder: ReplyDecoder,
    ids: Sequence[int],
    logprobs: Sequence[Mapping[int, float]],
    text: str,
    prefill: str = "",
) -> tuple[TokenChances, ...]:
    """The chances of the tokens that `text` is made of; empty where they do not join to it.

    `logprobs` has the natural log probabilities of the chosen and of the likeliest tokens at each
    place, by id; where a reply ends with an end token that place may be missing. `prefill` was in
    the prompt: it stands first and was certain.
    """
    if not logprobs:
        return ()
    pieces = [TokenChances(prefill, ((prefill, 0.0),))] if prefill else []
    for place in range(len(logprobs)):
        begun = ids[max(0, place - _BEFORE) : place]
        token = _piece(decoder, begun, ids[place])
        likeliest = sorted(logprobs[place].items(), key=lambda one: -one[1])
        top = ((_piece(decoder, begun, number), value) for number, value in likeliest)
        pieces.append(TokenChances(token, tuple(top)))
    return _cut(pieces, text)


def _piece(decoder: ReplyDecoder, begun: Sequence[int], number: int) -> str:
    """What one token adds to the text of those before it; a character counts where it is whole."""
    before = decoder.whole(begun).rstrip(_UNFINISHED)
    return decoder.whole([*begun, number]).rstrip(_UNFINISHED)[len(before) :]


def _cut(pieces: Sequence[TokenChances], text: str) -> tuple[TokenChances, ...]:
    """The pieces of `text` alone: without thinking, outer white space and what follows a stop."""
    start = "".join(piece.token for piece in pieces).rfind(text)
    if start < 0 or not text:
        return ()
    kept, place = [], 0
    for piece in pieces:
        low, high = max(start - place, 0), start + len(text) - place
        place += len(piece.token)
        part = piece.token[low:high] if high > 0 else ""
        if part:
            kept.append(piece._replace(token=part))
    return tuple(kept)
