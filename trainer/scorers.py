"""The Scorers of a training, put together from the same parts as `kardiabench run`'s."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kardiabench.cache import Cache, default_path
from kardiabench.contracts import ChatModel
from kardiabench.errors import ConfigError
from kardiabench.fingerprints import fingerprint
from kardiabench.plugins import load_registry
from kardiabench.registry import Registry, parse_spec
from kardiabench.scoring import Scorer
from kardiabench.session import Models, make_scorer
from kardiabench.settings import RunSettings
from trainer.config import Data, Judging, Stage
from trainer.patience import PatientJudge

#: One sentence for the user.
Warn = Callable[[str], None]


@dataclass(frozen=True)
class Scorers:
    """`rewarded` scores candidates; `watched` has the held-out judges too, with the same weights.

    `held_out` are the names of the judges that are never rewarded. A Scorer belongs to an event
    loop, so `fresh` makes both anew, with the same judges and cache.
    """

    rewarded: Scorer
    watched: Scorer
    held_out: tuple[str, ...]
    #: Those of `kardiabench run` with the rewarded judges, and with all of them.
    settings: RunSettings
    all_settings: RunSettings
    registry: Registry
    models: Mapping[str, ChatModel]
    cache: Cache | None
    patience: Judging
    warn: Warn

    def fresh(self, *, breaker: bool = True) -> dict[str, Scorer]:
        """Both Scorers, by phase, each judge with its limits.

        The `breaker` counts batches, and so is for callers who hand over a step's candidates at
        once: for those who ask about one after another a few hard ones in a row would open it.
        """
        patient = {judge.name: self._patient(judge, breaker) for judge in self.watched.judges}
        return {
            phase: replace(
                scorer,
                judges=[patient[judge.name] for judge in scorer.judges],
                _flights={},
            )
            for phase, scorer in (("train", self.rewarded), ("eval", self.watched))
        }

    @property
    def limit(self) -> float:
        """The most seconds that a batch may take: every attempt of the slowest judge."""
        return (self.patience.judge_timeout + 1.0) * (self.patience.judge_retries + 1)

    async def aclose(self) -> None:
        """Close the judges' models."""
        for model in self.models.values():
            await model.aclose()

    def close(self) -> None:
        """Close the cache."""
        if self.cache is not None:
            self.cache.close()

    def _patient(self, judge: Any, breaker: bool) -> PatientJudge:
        return PatientJudge(
            judge,
            timeout=self.patience.judge_timeout,
            retries=self.patience.judge_retries,
            failures=self.patience.breaker_failures if breaker else None,
            rest=self.patience.breaker_rest,
            warn=self.warn,
        )


def run_settings(
    stage: Stage, judging: Judging, held_out: tuple[str, ...] = (), processes: int = 1
) -> RunSettings:
    """The settings of a `kardiabench run` with this data and these judges.

    `concurrency` is shared out among `processes`. The model is the one that is trained.
    """
    data: Data = stage.data
    specs = [*judging.judges, *held_out]
    return RunSettings(
        model=f"hf/{stage.model}",
        dataset=data.dataset,
        split=data.split,
        revision=data.revision,
        on_bad_row=data.on_bad_row,
        limit=data.limit,
        limit_personas=data.limit_personas,
        history_content=data.history_content,
        system_prompt=data.system_prompt,
        judges=specs,
        no_rubric=not any(parse_spec(spec)[0] == "rubric" for spec in specs),
        judge_model=judging.judge_model,
        judge_api_base=judging.judge_api_base,
        on_missing=judging.on_missing,
        timeout=judging.judge_timeout,
        concurrency=max(1, judging.concurrency // processes),
        thinking=stage.thinking,
        plugins=[str(path.absolute()) for path in stage.plugins],
        cache=judging.cache,
    )


def open_scorers(
    stage: Stage,
    judging: Judging,
    held_out: tuple[str, ...] = (),
    *,
    warn: Warn,
    processes: int = 1,
    registry: Registry | None = None,
) -> Scorers:
    """Make the judges without calling a model; raises a `KardiaBenchError`, one sentence.

    `held_out` are specs of judges that are not rewarded: one with the fingerprint of a rewarded
    judge is refused.
    """
    settings = run_settings(stage, judging, processes=processes)
    registry = registry or load_registry(settings.plugins)
    cache = Cache(default_path()) if judging.cache else None
    models = Models(registry, settings)
    rewarded = _weighted(make_scorer(settings, registry, models, cache), judging)
    watched, both = rewarded, settings
    if held_out:
        _check_names(judging, held_out)
        both = run_settings(stage, judging, held_out, processes)
        scorer = make_scorer(both, registry, models, cache)
        watched = replace(scorer, weights=rewarded.weights, _flights={})
    names = {judge.name for judge in rewarded.judges}
    extra = tuple(judge.name for judge in watched.judges if judge.name not in names)
    _check_held_out(rewarded, watched, extra)
    return Scorers(
        rewarded=rewarded,
        watched=watched,
        held_out=extra,
        settings=replace(settings, weights=rewarded.weights),
        all_settings=replace(both, weights=rewarded.weights),
        registry=registry,
        models=models.opened,
        cache=cache,
        patience=judging,
        warn=warn,
    )


def _check_names(judging: Judging, held_out: tuple[str, ...]) -> None:
    for spec in held_out:
        if spec in judging.judges:
            raise ConfigError(
                f"{spec} stands in judging.judges and in held_out.judges: a judge that is rewarded "
                "cannot watch; hold out one of another model or prompt"
            )


def _weighted(scorer: Scorer, judging: Judging) -> Scorer:
    weights = judging.weights or {judge.name: 1.0 for judge in scorer.judges}
    return replace(scorer, weights=weights, _flights={})


def _check_held_out(rewarded: Scorer, watched: Scorer, names: tuple[str, ...]) -> None:
    marks = {fingerprint(judge.identity): judge.name for judge in rewarded.judges}
    for judge in watched.judges:
        twin = marks.get(fingerprint(judge.identity)) if judge.name in names else None
        if twin is not None:
            raise ConfigError(
                f"held_out.judges: {judge.name} is the rewarded judge {twin} under another name, "
                "and would rise with the reward; give it another model or prompt"
            )
