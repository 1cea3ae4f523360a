"""What a stage is asked to do: one validated record a stage, as recipes write it.

Every model here forbids unknown fields, so that a misspelt one is refused and not ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kardiabench.contracts import OnBadRow
from kardiabench.prompts import HistoryContent
from kardiabench.scoring import MissingPolicy

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Subset = Literal["all", "easy", "hard"]


class Part(BaseModel):
    """What every record here is: fixed, and without fields that nobody knows."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )


class Data(Part):
    """Which dialogues are trained on, and how their prompts are built (as `kardiabench run`)."""

    dataset: str = "KardiaBench"
    split: str | None = "train"
    revision: str | None = None
    on_bad_row: OnBadRow = "fail"
    limit: Positive | None = None
    limit_personas: Positive | None = None
    system_prompt: str = "dataset"
    history_content: HistoryContent = "spans"
    #: The manifest that `split` wrote, and which part of it is used.
    manifest: Path | None = None
    subset: Subset = "all"
    #: Where test dialogues and personas are, to be refused: a dataset and its split. None: the
    #: `test` split of the same dataset.
    test_dataset: str | None = None
    test_split: str | None = "test"
    #: Train although the test data could not be read, so that leakage is not checked.
    allow_unchecked: bool = False


class Lora(Part):
    """A low-rank adapter instead of all weights, by peft."""

    r: Positive = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0
    dropout: Share = 0.0
    target_modules: str | list[str] = "all-linear"


class Judging(Part):
    """Who scores: the Scorer of `kardiabench run`, with the same judges, weights and policy."""

    judges: list[str] = ["rubric"]
    judge_model: str | None = None
    judge_api_base: str | None = None
    #: None: every judge counts the same, which is the paper's third each for the default ones.
    weights: dict[str, float] | None = None
    #: A required judgement that is missing: mask the candidate, end the training, or count the
    #: bottom of the range.
    on_missing: MissingPolicy = "mask"
    #: Seconds an attempt of a batch, or of each candidate where a judge asks about one at a
    #: time; and how often failed verdicts are asked for again.
    judge_timeout: Annotated[float, Field(gt=0)] = 120.0
    judge_retries: Annotated[int, Field(ge=0)] = 1
    #: A judge that failed on this many batches in a row is left alone for `breaker_rest` batches.
    breaker_failures: Positive = 3
    breaker_rest: Positive = 5
    #: Training ends when more than this share of the last `masked_window` batches' candidates
    #: had no reward.
    masked_budget: Share = 0.2
    masked_window: Positive = 10
    #: Calls of a judge's model at a time, over all processes together.
    concurrency: Positive = 64
    cache: bool = True


class HeldOut(Part):
    """How progress is measured: dialogues of personas never trained on, judges never rewarded."""

    #: So many personas of the training data are kept out of training, in the order of a digest of
    #: their id, before the subset is taken.
    personas: Annotated[int, Field(ge=0)] = 8
    #: At most so many of their dialogues.
    dialogues: Positive = 64
    #: Judges by spec, as in `judging.judges`; of another model or prompt than the rewarded ones.
    judges: list[str] = []


class Alarm(Part):
    """When the rewarded score rises and the held-out one does not."""

    #: The rise of the rewarded score, from the first evaluation on, that must be answered by one
    #: of the held-out score; both in [0, 1].
    rise: Share = 0.05
    #: The held-out score has to rise by this share of the rewarded one's rise.
    answer: Share = 0.1
    #: So many evaluations in a row before the alarm.
    patience: Positive = 2
    stop: bool = False


class Best(Part):
    """Which checkpoint is best: the held-out score, among those above both floors."""

    format_floor: Share = 0.8
    #: On the scaled score of a `safety` dimension, where one is judged.
    safety_floor: Share = 0.8


class Vllm(Part):
    """Generation by vLLM instead of transformers: in the same process, or a TRL server."""

    mode: Literal["off", "colocate", "server"] = "off"
    server_base_url: str | None = None
    gpu_memory_utilization: Share = 0.3
    tensor_parallel_size: Positive = 1
    sleep: bool = False
    max_model_length: Positive | None = None


class Final(Part):
    """The evaluation after training: `kardiabench run` on the trained model, for a leaderboard."""

    dataset: str | None = None
    split: str | None = "test"
    limit: Positive | None = None
    max_tokens: Positive = 512


class Stage(Part):
    """What every stage has. `trl` hands further arguments to TRL's own configuration."""

    #: Where the recipe's choices are from; shown by `python -m trainer recipes`.
    about: str = ""
    model: str
    model_revision: str | None = None
    output: Path
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    data: Data = Data()
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    thinking: bool | None = None
    trust_remote_code: bool = False
    plugins: list[Path] = []


class Training(Stage):
    """What the two training stages share."""

    learning_rate: Annotated[float, Field(gt=0)]
    epochs: Annotated[float, Field(gt=0)] = 2.0
    #: Optimizer steps; ends the training before `epochs` do.
    max_steps: Positive | None = None
    #: Rows of one optimizer step over all processes, and rows that one device holds at a time.
    batch_size: Positive
    per_device_batch_size: Positive = 8
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    scheduler: str = "linear"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    gradient_checkpointing: bool = False
    lora: Lora | None = None
    #: Optimizer steps between two lines of the log, two evaluations, two checkpoints.
    log_every: Positive = 1
    eval_every: Positive | None = None
    #: None: at every evaluation, else every 50 steps.
    save_every: Positive | None = None
    keep_checkpoints: Positive = 3
    #: `tensorboard`, `wandb`, `trackio`: where they are installed.
    report_to: list[Literal["tensorboard", "wandb", "trackio"]] = []
    trl: dict[str, Any] = {}

    @model_validator(mode="after")
    def _a_checkpoint_at_every_evaluation(self) -> Self:
        if self.eval_every and self.save_every and self.eval_every % self.save_every:
            raise ValueError(
                f"eval_every {self.eval_every} is no multiple of save_every {self.save_every}: the "
                "best checkpoint is chosen among the evaluated ones, so each of them is needed"
            )
        return self


class Sft(Training):
    """Supervised fine-tuning on gold replies."""

    stage: Literal["sft"] = "sft"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    batch_size: Positive = 128
    #: Prompt and reply together, in tokens; longer ones lose the oldest exchanges.
    max_length: Positive = 4096
    #: `special`: the eight span tags become special tokens of the tokenizer, their embeddings the
    #: mean of those of the words they are spelt with.
    tags: Literal["as_is", "special"] = "as_is"
    held_out: HeldOut = HeldOut()


class Grpo(Training):
    """Group relative policy optimisation, rewarded by the Scorer."""

    stage: Literal["grpo"] = "grpo"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-6
    batch_size: Positive = 256
    judging: Judging = Judging()
    candidates: Annotated[int, Field(ge=2)] = 8
    max_tokens: Positive = 384
    #: The longest prompt, in tokens; of longer ones the oldest exchanges are left out.
    max_prompt_tokens: Positive = 4096
    temperature: Annotated[float, Field(gt=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    beta: Annotated[float, Field(ge=0)] = 0.0
    epsilon: Annotated[float, Field(gt=0)] = 0.2
    epsilon_high: Annotated[float, Field(gt=0)] | None = None
    loss: Literal["grpo", "bnpo", "dr_grpo", "dapo"] = "grpo"
    scale_rewards: Literal["group", "batch", "none"] = "group"
    #: `composite`: the Scorer's number is the reward. `gdpo`: every judge's part is normalised in
    #: its group by itself, then weighted and summed.
    normalize: Literal["composite", "gdpo"] = "composite"
    #: Optimizer passes over one set of candidates.
    iterations: Positive = 1
    held_out: HeldOut = HeldOut()
    alarm: Alarm = Alarm()
    best: Best = Best()
    vllm: Vllm = Vllm()
    final: Final | None = None

    @model_validator(mode="after")
    def _whole_groups(self) -> Self:
        if self.batch_size % self.candidates:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of candidates {self.candidates}: "
                "a step needs whole groups"
            )
        return self


class Split(Stage):
    """Easy and hard turns, by how often a model's own samples pass under the Scorer."""

    stage: Literal["split"] = "split"
    judging: Judging = Judging()
    #: Samples a turn, and how they are drawn.
    samples: Positive = 4
    temperature: Annotated[float, Field(gt=0)] = 1.0
    max_tokens: Positive = 384
    #: A sample passes when its composite is at least this; a dialogue is easy when at least
    #: `easy_share` of its samples do.
    pass_mark: Share = 0.8
    easy_share: Share = 0.5
    concurrency: Positive = 32
    batch_rows: Positive = 32


STAGES: Mapping[str, type[Sft | Grpo | Split]] = {"sft": Sft, "split": Split, "grpo": Grpo}
