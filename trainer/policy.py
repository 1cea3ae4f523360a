"""TRL's GRPO trainer with our prompts, our texts, our ledger, and checkpoints that are exact.

It imports TRL, and so is imported late.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from trl import GRPOTrainer

from kardiabench.records import Turn
from trainer.checkpoints import reading, storing
from trainer.exact import epoch_sampler, load_candidates, save_candidates
from trainer.ledger import Row
from trainer.rewards import MaskedBudget, Reward
from trainer.saving import check_finite, diverged
from trainer.texts import Texts

if TYPE_CHECKING:
    from collections.abc import Iterator


class Watcher(Protocol):
    """What follows a training: `trainer.watching.Watching`."""

    def trained(self, rows: Sequence[Row], divergence: float | None) -> Mapping[str, float]:
        """Take the rows of a batch of candidates and the last KL divergence; numbers to log."""

    def evaluated(self, rows: Sequence[Row]) -> Mapping[str, float]:
        """Take the rows of an evaluation, of all processes; numbers to log."""

    def stop(self) -> bool:
        """Whether the training has to end early."""


@dataclass(frozen=True)
class Ways:
    """What the trainer asks for: prompts and texts, rewards, and who watches."""

    turns: Mapping[str, Turn]
    texts: Texts
    reward: Reward
    budget: MaskedBudget
    watching: Watcher


class PolicyTrainer(GRPOTrainer):  # type: ignore[misc]  # TRL is untyped here
    """A GRPO trainer; further arguments are those of TRL's `GRPOTrainer`.

    Rows of its datasets have a `turn_id`, and a `prompt` that TRL only counts.
    """

    def __init__(self, ways: Ways, **arguments: Any) -> None:
        self._ways = ways
        self._turn_ids: list[str] = []
        self._eval_rows: list[Row] = []
        super().__init__(**arguments)

    # --- prompts and rewards ---------------------------------------------------------------

    def _tokenize_prompts(self, _: list[Any]) -> tuple[list[list[int]], None, dict[Any, Any]]:
        turns = (self._ways.turns[turn_id] for turn_id in self._turn_ids)
        return [list(self._ways.texts.prompt(turn).ids) for turn in turns], None, {}

    def _generate(self, prompts: list[Any]) -> Any:
        try:
            generated = super()._generate(prompts)
        except RuntimeError as error:
            if "probability tensor contains" not in str(error):
                raise
            raise diverged(self.state.global_step) from error
        training = self.model.training
        self._ways.reward.begin(  # judges work while TRL computes log probabilities
            self._turn_ids,
            generated[1],
            phase="train" if training else "eval",
            step=self.state.global_step,
            per_group=self.num_generations if training else self.num_generations_eval,
        )
        return generated

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._turn_ids = [row["turn_id"] for row in inputs]
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        training = self.model.training
        rows = self._ways.reward.settle(output["advantages"].tolist() if training else None)
        if not training:
            self._eval_rows += rows
            return output
        # What follows is the same on every process, so that all of them end together.
        self._ways.budget.add(self._metrics["train"]["masked_share"][-1])
        numbers = self._ways.watching.trained(_gathered(rows), self._last_divergence())
        for name, value in numbers.items():
            self._metrics["train"][name].append(value)
        return output

    def _last_divergence(self) -> float | None:
        if not self.beta:  # TRL measures none then, and the whole log would be looked through
            return None
        logged = (entry["kl"] for entry in reversed(self.state.log_history) if "kl" in entry)
        return next(logged, None)

    # --- evaluation ------------------------------------------------------------------------

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """TRL's evaluation, and what its candidates' scores come to."""
        self._eval_rows = []
        with _own_randomness(self.args.seed + self.args.process_index):
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)
        numbers = self._ways.watching.evaluated(_each_once(_gathered(self._eval_rows)))
        if numbers:
            # past GRPO's own `log`, which would flush what the training steps collect
            super(GRPOTrainer, self).log(dict(numbers))
        if self._ways.watching.stop():
            self.control.should_training_stop = True
        return metrics | dict(numbers)

    # --- checkpoints -----------------------------------------------------------------------

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        # `epoch` is a whole number when an epoch begins, up to the last bit of a division.
        return epoch_sampler(
            super()._get_train_sampler(dataset), lambda: int((self.state.epoch or 0.0) + 1e-6)
        )

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Ours is written when the training has ended."""

    def _send_telemetry(self) -> None:
        """What is trained, and where, is nobody's business."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        check_finite(self.model, self.state.global_step)
        folder = Path(self._get_output_dir(trial=trial))
        checkpoint = folder / f"checkpoint-{self.state.global_step}"
        generate_every = self.args.steps_per_generation * self.num_iterations
        in_use = self._step % generate_every != 0
        with storing(checkpoint):
            super()._save_checkpoint(model, trial)
            save_candidates(
                checkpoint,
                self.args.process_index,
                self._step,
                self._buffered_inputs if in_use else None,
            )

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            super()._load_optimizer_and_scheduler(None)
            return
        with reading(Path(checkpoint)):
            super()._load_optimizer_and_scheduler(checkpoint)
            self._step, self._buffered_inputs = load_candidates(
                Path(checkpoint), self.args.process_index, self.accelerator.device
            )


def _gathered(rows: list[Row]) -> list[Row]:
    """The rows of all processes."""
    from accelerate.utils import gather_object

    found: list[Row] = gather_object(rows)
    return found


def _each_once(rows: Sequence[Row]) -> list[Row]:
    """The rows less those that a sampler repeats to fill the last batch."""
    return list({row.turn_id: row for row in reversed(rows)}.values())[::-1]


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Draw the same numbers at every evaluation, and none of the training's.

    Checkpoints are then compared on the same draws, and how often they are evaluated changes no
    weight. That holds for transformers' generation: vLLM has its own numbers.
    """
    import torch

    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
