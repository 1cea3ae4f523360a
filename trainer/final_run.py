"""The evaluation after a training: a run of the harness on the trained model, for a leaderboard."""

from __future__ import annotations

from pathlib import Path

from kardiabench.execution import Manner, execute
from kardiabench.progress import Progress
from kardiabench.session import check_same, make_manifest, open_session
from kardiabench.settings import RunSettings
from kardiabench.store import MANIFEST, RunStore, create, read_manifest
from trainer.config import Final, Grpo

RUN = "run"


def evaluate_final(stage: Grpo, final: Final, model: Path, *, quiet: bool = False) -> Path:
    """Run `model` over the test dialogues with all judges of the training; the run directory.

    The same as `kardiabench run`, whose `resume` goes on with it where it was broken off.
    """
    session = open_session(settings_of(stage, final, model))
    manifest = make_manifest(session)
    path = stage.output / RUN
    if (path / MANIFEST).exists():
        check_same(read_manifest(path), manifest, path)
    else:
        create(path, manifest)
    with RunStore(path) as store:
        execute(session, store, Manner(), Progress(quiet=quiet))
    return path


def settings_of(stage: Grpo, final: Final, model: Path) -> RunSettings:
    """The settings of that run: prompts and judges as in the training, weights too."""
    judging = stage.judging
    settings = RunSettings(
        model=f"hf/{model.absolute()}",
        dataset=final.dataset or stage.data.dataset,
        split=final.split,
        limit=final.limit,
        history_content=stage.data.history_content,
        system_prompt=stage.data.system_prompt,
        judges=[*judging.judges, *stage.held_out.judges],
        judge_model=judging.judge_model,
        judge_api_base=judging.judge_api_base,
        on_missing=judging.on_missing,
        max_tokens=final.max_tokens,
        thinking=stage.thinking,
        plugins=[str(path.absolute()) for path in stage.plugins],
        cache=judging.cache,
        no_rubric="rubric" not in {spec.partition(":")[0] for spec in judging.judges},
    )
    return settings if judging.weights is None else _weighted(settings, judging.weights)


def _weighted(settings: RunSettings, weights: dict[str, float]) -> RunSettings:
    from dataclasses import replace

    return replace(settings, weights=weights)
