"""TRL's SFT trainer as the `sft` stage uses it. It imports TRL, and so is imported late."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from trl import SFTTrainer

from kardiabench.models.local.trouble import quiet
from trainer.checkpoints import storing
from trainer.saving import check_finite


class GoldTrainer(SFTTrainer):  # type: ignore[misc]  # TRL is untyped here
    """An SFT trainer that writes no model card, sends nothing, and keeps checkpoints small."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        if arguments.get("peft_config") is not None:
            _show_bias(self.model.get_output_embeddings())
            # Peft would add all embeddings to every checkpoint where tokens were added, though the
            # adapter has the rows that learn.
            save = self.model.save_pretrained
            self.model.save_pretrained = partial(save, save_embedding_layers=False)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Ours is written when the training has ended."""

    def _send_telemetry(self) -> None:
        """What is trained, and where, is nobody's business."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        step = self.state.global_step
        check_finite(self.model, step)
        with storing(Path(self._get_output_dir(trial=trial)) / f"checkpoint-{step}"):
            super()._save_checkpoint(model, trial)

    def _save(self, *args: Any, **kwargs: Any) -> None:
        with quiet():
            super()._save(*args, **kwargs)

    def _load_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with quiet():  # transformers misses an output head that is tied
            super()._load_from_checkpoint(*args, **kwargs)


def _show_bias(head: Any) -> None:
    """TRL's loss asks the output head for its bias, which peft's wrapper of some rows hides."""
    from peft.utils.other import TrainableTokensWrapper

    if isinstance(head, TrainableTokensWrapper):
        # Past `nn.Module`, which would count it as a second parameter.
        vars(head)["bias"] = head.token_adapter.base_layer.bias
