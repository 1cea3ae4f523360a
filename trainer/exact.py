"""What TRL and transformers leave out of a checkpoint, so that a resumed run is the unbroken one.

- TRL's sampler draws every epoch's order from one generator, whose state no checkpoint has: past
  the first epoch a resumed run would see other prompts. Here the order is a function of the seed
  and the epoch.
- Candidates that are used for several updates live in a buffer that no checkpoint has either, nor
  has the count of micro-steps that decides when new ones are written.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

_FILE = "candidates-{rank}.pt"


def epoch_sampler(sampler: Any, epoch: Callable[[], int]) -> Any:
    """`sampler` (TRL's `RepeatSampler`), its order of an epoch decided by its seed and the epoch.

    `epoch` is asked when an epoch begins, and counts from 0.
    """
    from trl.trainer.utils import RepeatSampler

    class EpochSampler(RepeatSampler):  # type: ignore[misc]  # TRL is untyped here
        def __iter__(self) -> Any:
            if self.shuffle:
                # Two mixed numbers, so that neighbouring seeds and epochs have nothing in common.
                self.generator.manual_seed(1_000_003 * (self.seed or 0) + epoch())
            return super().__iter__()

    return EpochSampler(
        data_source=range(sampler.num_samples),
        mini_repeat_count=sampler.mini_repeat_count,
        batch_size=sampler.batch_size,
        repeat_count=sampler.repeat_count,
        shuffle=sampler.shuffle,
        seed=sampler.seed,
    )


def save_candidates(checkpoint: Path, rank: int, step: int, buffered: Any) -> None:
    """Keep the micro-steps done and the candidates still in use, beside the weights."""
    import torch

    torch.save({"step": step, "buffered": buffered}, checkpoint / _FILE.format(rank=rank))


def load_candidates(checkpoint: Path, rank: int, device: Any) -> tuple[int, Any]:
    """What `save_candidates` kept."""
    import torch

    kept = torch.load(checkpoint / _FILE.format(rank=rank), map_location=device, weights_only=True)
    return int(kept["step"]), kept["buffered"]
