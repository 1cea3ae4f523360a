"""The evaluation after a training: a run of the harness on the trained model, for a leaderboard."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kardiabench.execution import Manner, execute
from kardiabench.manifests import MANIFEST, read_manifest
from kardiabench.progress import Progress
from kardiabench.session import check_same, make_manifest, open_session
from kardiabench.settings import RunSettings
from kardiabench.store import RunStore, create
from trainer.config import Final, Grpo

RUN = "run"


def evaluate_final(
    stage: Grpo, final: Final, trained: RunSettings, model: Path, *, quiet: bool = False
) -> Path:
    """Run `model` over the test dialogues with all judges of the training; the run directory.

    `trained` are the settings with the training's judges and weights. The same as `kardiabench
    run`, whose `resume` goes on with it where it was broken off.
    """
    session = open_session(settings_of(stage, final, trained, model))
    manifest = make_manifest(session)
    path = stage.output / RUN
    if (path / MANIFEST).exists():
        check_same(read_manifest(path), manifest, path)
    else:
        create(path, manifest)
    with RunStore(path) as store:
        execute(session, store, Manner(), Progress(quiet=quiet))
    return path


def settings_of(stage: Grpo, final: Final, trained: RunSettings, model: Path) -> RunSettings:
    """The settings of that run: prompts, judges and weights are the training's."""
    same = final.dataset in (None, stage.data.dataset)
    return replace(
        trained,
        model=f"hf/{model if model.is_absolute() else f'./{model}'}",
        dataset=final.dataset or stage.data.dataset,
        split=final.split,
        revision=stage.data.revision if same else None,
        limit=final.limit,
        limit_personas=None,
        max_tokens=final.max_tokens,
        trust_remote_code=stage.trust_remote_code,
    )
