"""What a run is asked to do: the command line's options as one record, kept in the manifest."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from kardiabench.contracts import LocalOptions, OnBadRow, Quantize
from kardiabench.errors import ConfigError, RunError
from kardiabench.prompts import HistoryContent, HistoryMode, PromptPlan
from kardiabench.sampling import Selection
from kardiabench.scoring import DEFAULT_WEIGHTS, MissingPolicy

#: Judged on every run: they cost nothing and the composite needs them.
ALWAYS = ("format", "emotion")
#: Judges that ask one model, which `--judge-model` names for all of them.
ONE_MODEL = frozenset({"rubric", "safety", "pairwise"})
DEFAULT_DATASET = "KardiaBench"
DEFAULT_SEED = 0

_API_BASE = re.compile(r"([:,]api_base=)[^,]*")


@dataclass(frozen=True)
class RunSettings:
    """Everything a run needs, JSON-able. `judges` are specs (`rubric:model=…,samples=3`)."""

    model: str
    dataset: str = DEFAULT_DATASET
    split: str | None = None
    revision: str | None = None
    on_bad_row: OnBadRow = "fail"
    limit: int | None = None
    limit_personas: int | None = None
    emotions: Sequence[str] = ()
    history: HistoryMode = "gold"
    history_content: HistoryContent = "spans"
    system_prompt: str = "dataset"
    truncate_history: bool = False
    guided_spans: bool = False
    judges: Sequence[str] = ()
    judge_model: str | None = None
    judge_api_base: str | None = None
    no_rubric: bool = False
    weights: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_WEIGHTS))
    on_missing: MissingPolicy = "mask"
    temperature: float | None = None
    max_tokens: int = 4096
    seed: int | None = DEFAULT_SEED
    api_base: str | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "auto"
    device: str = "auto"
    adapter: str | None = None
    model_revision: str | None = None
    quantize: Quantize | None = None
    thinking: bool | None = None
    trust_remote_code: bool = False
    ray: str | None = None
    replicas: int = 1
    replica_args: Mapping[str, Any] = field(default_factory=dict)
    shard: str | None = None
    concurrency: int = 32
    timeout: float = 120.0
    retries: int = 6
    plugins: Sequence[str] = ()
    cache: bool = True

    @property
    def selection(self) -> Selection:
        """Which dialogues are used."""
        return Selection(self.limit, self.limit_personas, tuple(self.emotions))

    @property
    def prompts(self) -> PromptPlan:
        """How prompts are built."""
        return PromptPlan(
            self.system_prompt,
            self.history,
            self.history_content,
            truncate=self.truncate_history,
            guided=self.guided_spans,
        )

    @property
    def local(self) -> LocalOptions:
        """How a model in this process is loaded and spoken to."""
        return LocalOptions(
            dtype=self.dtype,
            device=self.device,
            adapter=self.adapter,
            revision=self.model_revision,
            quantize=self.quantize,
            thinking=self.thinking,
            trust_remote_code=self.trust_remote_code,
        )

    @property
    def judge_specs(self) -> list[str]:
        """The judges to run: `format` and `emotion`, and those asked for (else `rubric`)."""
        chosen = list(self.judges) or ([] if self.no_rubric else ["rubric"])
        if self.no_rubric:
            chosen = [spec for spec in chosen if _judge_name(spec) != "rubric"]
        named = {_judge_name(spec) for spec in chosen}
        specs = [name for name in ALWAYS if name not in named] + chosen
        return [self._with_judge_model(spec) for spec in specs]

    def with_judges(
        self, judges: Sequence[str], judge_model: str | None, judge_api_base: str | None
    ) -> RunSettings:
        """These settings with further judges (else `rubric`), whose own model the options name."""
        options = replace(self, judge_model=judge_model, judge_api_base=judge_api_base)
        given = [options._with_judge_model(spec) for spec in judges or ["rubric"]]
        added = [spec for spec in given if spec not in self.judge_specs]
        return replace(
            self,
            judges=[*self.judge_specs, *added],
            judge_model=None,
            judge_api_base=None,
            no_rubric=False,
        )

    def with_servers(self, api_base: str | None, judge_api_base: str | None) -> RunSettings:
        """These settings with the model's or the judges' server at another address."""
        if judge_api_base is None:
            return replace(self, api_base=api_base or self.api_base)
        moved = [_API_BASE.sub(lambda m: m[1] + judge_api_base, spec) for spec in self.judges]
        return replace(
            self,
            api_base=api_base or self.api_base,
            judges=moved,
            judge_api_base=judge_api_base if self.judge_api_base else None,
        )

    def with_plugins(self, plugins: Sequence[str]) -> RunSettings:
        """These settings with further plugin files; one of the same name stands for the old."""
        given = {Path(plugin).name for plugin in plugins}
        kept = [plugin for plugin in self.plugins if Path(plugin).name not in given]
        return replace(self, plugins=[*kept, *plugins])

    def to_json(self) -> dict[str, Any]:
        """The settings as the manifest keeps them."""
        return asdict(self)

    @staticmethod
    def from_json(config: Mapping[str, Any], where: str) -> RunSettings:
        """The settings that a manifest holds; raise `RunError` when this version cannot."""
        from pydantic import TypeAdapter, ValidationError

        known = {item.name for item in fields(RunSettings)}
        unknown = sorted(set(config) - known)
        if unknown or "model" not in config:
            raise RunError(
                f"{where} was made by another version of kardiabench (its configuration has "
                f"{', '.join(unknown) or 'no model'}); resume it with that version"
            )
        try:
            settings = TypeAdapter(RunSettings).validate_python(dict(config))
        except ValidationError as error:
            what = error.errors()[0]
            raise RunError(
                f"{where}: {what['loc'][0]} in the configuration of its manifest was changed "
                f"({what['msg']}); restore the manifest"
            ) from error
        if min(settings.concurrency, settings.timeout) <= 0:
            raise RunError(f"{where}: its manifest's concurrency or timeout is not above 0")
        return settings

    def _with_judge_model(self, spec: str) -> str:
        if _judge_name(spec) not in ONE_MODEL:
            return spec
        for option, value in (("model", self.judge_model), ("api_base", self.judge_api_base)):
            if value is not None and f"{option}=" not in spec:
                if "," in value:
                    raise ConfigError(f"the judge's {option} {value!r} may not hold a comma")
                spec += ("," if ":" in spec else ":") + f"{option}={value}"
        return spec


def parse_shard(text: str) -> tuple[int, int]:
    """`2/8` as (2, 8): the second of eight parts; raise `ConfigError` for anything else."""
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
    number, parts = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= parts:
        raise ConfigError(f"--shard {text!r}: write i/n, with i from 1 to n, for example 2/8")
    return number, parts


def _judge_name(spec: str) -> str:
    return spec.partition(":")[0].strip()
