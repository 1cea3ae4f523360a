"""verl: `compute_score`, its async and batch forms, and a reward manager that sees token ids.

    reward.custom_reward_function.path=pkg://trainer.adapters.verl
    reward.custom_reward_function.name=compute_score

verl's own managers delete special tokens before they call a function, and do not say whether a
reply was cut off. Where the span tags are special tokens, or cut-off replies have to fail as they
do in `kardiabench run`, use the manager instead:

    reward.reward_manager.source=importlib
    reward.reward_manager.module.path=pkg://trainer.adapters.verl
    reward.reward_manager.name=KardiaBenchRewardManager

Written for the signatures of verl 0.9.1; not run inside verl. `ground_truth`, or `turn_id` in
`extra_info`, is the turn's id. A missing judgement raises, which ends the training: verl has no
mask, and a NaN would spread over the group.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.adapters.scoring import Adapter, Scored, part_columns, shared

_INSTEAD = (
    "use trainer.adapters.verl.KardiaBenchRewardManager as reward.reward_manager, which sees token "
    "ids"
)


def compute_score(
    data_source: str,  # noqa: ARG001 - verl hands it over by name
    solution_str: str,
    ground_truth: str,
    extra_info: Mapping[str, Any] | None = None,
    **_: Any,
) -> dict[str, float]:
    """The reward of one reply: `score` and every judge's part, in [0, 1]."""
    turn_id = _turn_id(ground_truth, extra_info)
    return _result(shared().of_stripped([turn_id], [solution_str], _INSTEAD))[0]


async def compute_score_async(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Mapping[str, Any] | None = None,
    **_: Any,
) -> dict[str, float]:
    """The same, awaited: many replies are judged together."""
    return await asyncio.to_thread(
        compute_score, data_source, solution_str, ground_truth, extra_info
    )


def compute_score_batch(
    data_sources: Sequence[str],  # noqa: ARG001 - verl hands it over by name
    solution_strs: Sequence[str],
    ground_truths: Sequence[str],
    extra_infos: Sequence[Mapping[str, Any] | None] | None = None,
    **_: Any,
) -> list[dict[str, float]]:
    """The rewards of a batch, for verl's `batch` manager."""
    extras = [None] * len(solution_strs) if extra_infos is None else extra_infos
    turn_ids = [_turn_id(*pair) for pair in zip(ground_truths, extras, strict=True)]
    return _result(shared().of_stripped(turn_ids, list(solution_strs), _INSTEAD))


class KardiaBenchRewardManager:
    """A reward manager of verl's reward loop: the text is made from the response's token ids."""

    def __init__(
        self,
        config: Any,
        tokenizer: Any,
        compute_score: Any = None,
        reward_router_address: str | None = None,
        reward_model_tokenizer: Any = None,
    ) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.compute_score = compute_score
        self.reward_router_address = reward_router_address
        self.reward_model_tokenizer = reward_model_tokenizer
        self._adapter: Adapter = shared()

    @classmethod
    def init_class(cls, config: Any, tokenizer: Any) -> None:
        """Nothing is shared between instances but the adapter."""

    async def run_single(self, data: Any) -> dict[str, Any]:
        """`reward_score` and `reward_extra_info` of the last sequence in `data`."""
        item = data[-1:][0]
        responses = item.batch["responses"]
        length = int(item.batch["attention_mask"][-responses.shape[-1] :].sum())
        ids = [int(number) for number in responses[:length]]
        others = item.non_tensor_batch
        turn_id = _turn_id(others["reward_model"]["ground_truth"], others.get("extra_info"))
        scored = await asyncio.to_thread(self._adapter.of_ids, [turn_id], [ids])
        (result,) = _result(scored)
        return {"reward_score": result["score"], "reward_extra_info": result}


def _result(scored: Sequence[Scored]) -> list[dict[str, float]]:
    columns = part_columns(scored)
    return [
        {"score": one.composite} | {name: column[place] for name, column in columns.items()}
        for place, one in enumerate(scored)
    ]


def _turn_id(ground_truth: object, extra_info: Mapping[str, Any] | None) -> str:
    return str((extra_info or {}).get("turn_id") or ground_truth)
