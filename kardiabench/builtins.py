"""What the project itself registers, through the same hooks as any plugin, by dotted name."""

from __future__ import annotations

from kardiabench.hookspecs import (
    API_VERSION,
    RegisterDataset,
    RegisterJudge,
    RegisterModel,
    hookimpl,
)

KARDIABENCH_API = API_VERSION


@hookimpl
def register_judges(register: RegisterJudge) -> None:
    """The judges under `judges/`."""
    register("format", "judges.format:build")
    register("emotion", "judges.emotion:build")
    register("rubric", "judges.rubric:build")
    register("safety", "judges.safety:build")
    register("pairwise", "judges.pairwise:build")
    register("panel", "judges.panel:build")
    register("smoke", "judges.smoke:build")


@hookimpl
def register_models(register: RegisterModel) -> None:
    """The backends under `kardiabench/models/`; every other name goes to litellm."""
    register("baseline", "kardiabench.models.baseline:build")
    register("hf", "kardiabench.models.hf:build")
    register("replay", "kardiabench.models.replay:build")
    register("scripted", "kardiabench.models.scripted:build")
    register("vllm", "kardiabench.models.vllm:build")


@hookimpl
def register_datasets(register: RegisterDataset) -> None:
    """The benchmark and the embedded sample; every other name is a path."""
    register("KardiaBench", "kardiabench.sources:open_hub")
    register("sample", "kardiabench.sources:open_sample")
