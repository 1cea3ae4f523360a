"""Over how many devices a launcher spreads the weights and the optimizer of a training."""

from __future__ import annotations

import os
from dataclasses import dataclass

_DEEPSPEED = "ACCELERATE_DEEPSPEED"


@dataclass(frozen=True)
class Shards:
    """Over how many devices weights are spread, and the optimizer; 0: they are not on a device."""

    weights: int = 1
    optimizer: int = 1


WHOLE = Shards()


def shards_here(world: int) -> Shards:
    """How `accelerate launch` was told to, over `world` processes; by its environment variables."""
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        off = os.environ.get("FSDP_OFFLOAD_PARAMS") == "true"
        return Shards(0, 0) if off else Shards(world, world)
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") != "true":
        return Shards()
    if f"{_DEEPSPEED}_CONFIG_FILE" in os.environ:  # unread: nothing may be refused for it
        return Shards(0, 0)
    return _of_deepspeed(int(os.environ.get(f"{_DEEPSPEED}_ZERO_STAGE", "2")), world)


def _of_deepspeed(stage: int, world: int) -> Shards:
    """ZeRO spreads the optimizer from stage 1 on, the weights in stage 3."""
    weights, optimizer = world if stage == 3 else 1, world if stage else 1
    if stage == 3 and _offloaded("PARAM"):
        weights = 0
    return Shards(weights, 0 if _offloaded("OPTIMIZER") else optimizer)


def _offloaded(what: str) -> bool:
    return os.environ.get(f"{_DEEPSPEED}_OFFLOAD_{what}_DEVICE", "none") != "none"
