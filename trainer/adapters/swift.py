"""ms-swift: the reward functions `kardiabench` and `kardiabench_async` of a GRPO plugin.

    # plugin.py, in a folder of its own: swift puts that folder on sys.path
    from trainer.adapters.swift import register
    register()

    swift rlhf --rlhf_type grpo --external_plugins plugin.py --reward_funcs kardiabench …

Written for the signatures of ms-swift 4.6.0; not run inside swift. The dataset's column `turn_id`
says which turn a completion is for. The text is made from swift's `response_token_ids`, so that
span tags may be special tokens; `finish_reason` says whether it was cut off. Where a swift hands
over no ids, the completion's text is taken, and refused where the tags are special.

swift counts a reward of None as 0 when it adds functions up, so a missing judgement raises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from kardiabench.errors import ConfigError
from trainer.adapters.scoring import shared

_INSTEAD = "use a version of ms-swift that hands over response_token_ids (4.6.0 does)"


class KardiaBenchReward:
    """A synchronous reward: `__call__(completions, **columns) -> list[float]`."""

    def __init__(self, args: Any = None, **_: Any) -> None:
        self.args = args

    def __call__(self, completions: Sequence[str], **columns: Any) -> list[float]:
        """The composite of every completion, in [0, 1]."""
        return rewards(completions, **columns)


class AsyncKardiaBenchReward:
    """The same, awaited: swift runs it beside other async rewards."""

    def __init__(self, args: Any = None, **_: Any) -> None:
        self.args = args

    async def __call__(self, completions: Sequence[str], **columns: Any) -> list[float]:
        """The composite of every completion, in [0, 1]."""
        return await asyncio.to_thread(rewards, completions, **columns)


def rewards(
    completions: Sequence[str],
    *,
    turn_id: Sequence[str] | None = None,
    response_token_ids: Sequence[Any] | None = None,
    finish_reason: Sequence[str | None] | None = None,
    **_: Any,
) -> list[float]:
    """The composites; every column has one value a completion."""
    if turn_id is None:
        raise ConfigError(
            "the dataset has no column turn_id; export the rows with: python -m trainer export "
            "--engine swift"
        )
    adapter = shared()
    if response_token_ids is None or not all(response_token_ids):
        scored = adapter.of_stripped(list(turn_id), list(completions), _INSTEAD)
    else:
        ids = [last_turn(numbers) for numbers in response_token_ids]
        reasons = [None] * len(ids) if finish_reason is None else finish_reason
        scored = adapter.of_ids(list(turn_id), ids, [_is_finished(reason) for reason in reasons])
    return [one.composite for one in scored]


def last_turn(ids: Sequence[Any]) -> list[int]:
    """The ids of the reply: swift nests them by turn where a rollout has several."""
    return list(ids[-1]) if ids and not isinstance(ids[0], int) else list(ids)


def register() -> None:
    """Make both rewards known to swift, which has to be installed."""
    from swift.rewards import orms  # type: ignore[import-not-found]  # ms-swift's, not ours

    orms["kardiabench"] = KardiaBenchReward
    orms["kardiabench_async"] = AsyncKardiaBenchReward


def _is_finished(reason: str | None) -> bool | None:
    return None if reason is None else reason != "length"
