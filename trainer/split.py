"""Easy and hard dialogues, by how often a model's own samples pass under the Scorer.

The paper calls a dialogue easy where its critic's verdicts on the model's samples say
p(FAIL) < p(PASS) + p(SOLVED), which is p(FAIL) < 0.5; the critic and its verdicts are not
published. Here a sample passes when its composite reaches `pass_mark`. The criterion is ours;
`easy_share` 0.5 draws the line where the paper does.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kardiabench.dialogues import Entry, load
from kardiabench.errors import ConfigError, ScoringError
from kardiabench.registry import Registry
from kardiabench.session import open_tested_model
from kardiabench.settings import RunSettings
from trainer.preflight import check_output
from trainer.scorers import Scorers, open_scorers
from trainer.split_log import SAMPLES, VERDICTS, SplitLog
from trainer.split_manifest import SPLIT, SplitDialogue, SplitManifest, is_easy, write_split
from trainer.splitting import Splitting, Work

if TYPE_CHECKING:
    from trainer.config import Split

#: 0.8 of the composite comes out as 0.7999999999999999 for some scores.
_ROUNDING = 1e-9


def run_split(stage: Split, say: Callable[[str], None]) -> Path:
    """Draw samples, score them, write `split.json` and give its path.

    What is in the output folder already is not asked for again: the same command goes on after any
    interruption, and asks again for what failed. Raises a `KardiaBenchError` for what cannot be
    used, and `RunError` where the folder's samples are of another model, judge or recipe.
    """
    if stage.data.manifest is not None:
        raise ConfigError(
            "data.manifest: split makes a manifest and reads none; leave it out of the recipe"
        )
    check_output(stage.output, (SPLIT, SAMPLES, VERDICTS))
    scorers = open_scorers(stage, stage.judging, warn=say)
    try:
        work = _open_work(stage, scorers)
        with SplitLog(stage.output, _asked(work), work.judges, stage.samples) as log:
            splitting = Splitting(work, log)
            with warnings.catch_warnings():
                # What a cancelled call inside a client library had prepared and never awaited.
                warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
                asyncio.run(splitting.run())
            manifest = _manifest(work, log)
    finally:
        scorers.close()
    path = stage.output / SPLIT
    write_split(path, manifest)
    said = describe_split(manifest, path, splitting.failures)
    if not manifest.counts["easy"] + manifest.counts["hard"]:
        raise ScoringError(f"no sample was judged: {said}")
    say(said)
    return path


def describe_split(manifest: SplitManifest, path: Path, failures: Mapping[str, int]) -> str:
    """One sentence: how many dialogues are easy, hard and unjudged, and what failed by its kind."""
    counts = manifest.counts
    sentence = (
        f"{path}: {counts['easy']} easy, {counts['hard']} hard and {counts['unjudged']} unjudged "
        f"of {len(manifest.dialogues)} dialogues"
    )
    missing = sum(d.n_samples - d.n_judged for d in manifest.dialogues)
    if missing:
        kinds = ", ".join(f"{number} by {kind}" for kind, number in sorted(failures.items()))
        sentence += (
            f"; {missing} samples have no score ({kinds}), and the same command asks for them again"
        )
    return sentence


def model_name(name: str, registry: Registry) -> str:
    """The recipe's model as `kardiabench run` names it.

    A folder and a bare name of the Hub are `hf/…`. A name with a prefix that is registered
    (`vllm/…`) or that litellm serves (`openai/…`) stays as it is.
    """
    prefix, slash, _ = name.partition("/")
    if prefix in registry.models and slash:
        return name
    if Path(name).expanduser().exists() or not slash or not prefix:
        return f"hf/{name}"
    from kardiabench.models.api import load_litellm

    served = {str(getattr(one, "value", one)) for one in load_litellm().provider_list}
    return name if prefix in served else f"hf/{name}"


def _open_work(stage: Split, scorers: Scorers) -> Work:
    settings = _settings(stage, scorers)
    prompts = settings.prompts
    prompts.check()
    model = open_tested_model(settings, scorers.registry)
    source = scorers.registry.open_dataset(settings.dataset, settings.split, settings.revision)
    dialogues = load(source, settings.selection, settings.on_bad_row)
    return Work(stage, scorers, scorers.fresh(breaker=False)["train"], model, dialogues, prompts)


def _settings(stage: Split, scorers: Scorers) -> RunSettings:
    name = model_name(stage.model, scorers.registry)
    rows = {"batch_rows": stage.batch_rows} if name.startswith("hf/") else {}
    return replace(
        scorers.settings,
        model=name,
        temperature=stage.temperature,
        max_tokens=stage.max_tokens,
        seed=stage.seed,
        dtype=stage.dtype,
        model_revision=stage.model_revision,
        trust_remote_code=stage.trust_remote_code,
        concurrency=stage.concurrency,
        model_args=rows,
    )


def _asked(work: Work) -> dict[str, Any]:
    """What decides samples and verdicts, in the form of a run's manifest.

    Neither `pass_mark` nor `easy_share`: another line can be drawn through the same scores.
    """
    return {
        "model": {"name": work.model.name, "identity": dict(work.model.identity)},
        "protocol": {
            "dataset": {"fingerprint": work.dialogues.fingerprint},
            "prompts": dict(work.prompts.identity),
            "scorer": dict(work.scorer.identity),
            "sampling": _sampling(work.stage),
        },
    }


def _sampling(stage: Split) -> dict[str, Any]:
    return {
        "samples": stage.samples,
        "temperature": stage.temperature,
        "max_tokens": stage.max_tokens,
        "seed": stage.seed,
    }


def _manifest(work: Work, log: SplitLog) -> SplitManifest:
    """The split by what is on the disk, and nothing else."""
    stage = work.stage
    return SplitManifest(
        dataset={**work.dialogues.identity, "fingerprint": work.dialogues.fingerprint},
        prompts=dict(work.prompts.identity),
        model={"name": work.model.name, "identity": dict(work.model.identity)},
        scorer=dict(work.scorer.identity),
        **_sampling(stage),
        pass_mark=stage.pass_mark,
        easy_share=stage.easy_share,
        dialogues=[_dialogue(work, log, entry) for entry in work.dialogues.entries],
    )


def _dialogue(work: Work, log: SplitLog, entry: Entry) -> SplitDialogue:
    stage = work.stage
    composites = [
        work.scorer.card(turn_id, log.verdicts(turn_id, number)).composite
        for turn_id in (f"{entry.id}/{index}" for index in range(entry.n_turns))
        for number in range(stage.samples)
    ]
    judged = [value for value in composites if value is not None]
    passed = sum(value >= stage.pass_mark - _ROUNDING for value in judged)
    rate = passed / len(judged) if judged else None
    easy = is_easy(rate, stage.easy_share)
    return SplitDialogue(entry.id, len(composites), len(judged), rate, easy)
