"""Two runs brought before a pairwise judge.

A pairwise judge is an ordinary judge with a dimension `preference`: 1 the reply is better than its
rival, .5 a tie, 0 worse. The rival's reply stands where a judge reads the dataset's gold reply.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kardiabench.bench import Bench, run
from kardiabench.cases import Case, make_case
from kardiabench.contracts import Judge
from kardiabench.dialogues import Dialogues, load
from kardiabench.errors import ConfigError, DataError, PluginError, RunError
from kardiabench.fingerprints import fingerprint
from kardiabench.manifests import Manifest, read_manifest
from kardiabench.records import Reply, Turn, Verdict
from kardiabench.redaction import refuse_secrets
from kardiabench.registry import Registry, parse_spec
from kardiabench.scoring import item_key
from kardiabench.settings import RunSettings
from kardiabench.shards import refuse_part
from kardiabench.store import iterate_replies

COMPARISON, JOURNAL = "comparison.json", "journal.jsonl"
TASK = "compare"
PREFERENCE = "preference"


@dataclass(frozen=True)
class Side:
    """One of the two runs."""

    path: Path
    manifest: Manifest

    @property
    def model(self) -> str:
        """The model's name."""
        return str(self.manifest["model"]["name"])

    @property
    def identity(self) -> dict[str, Any]:
        """What tells the run apart, without its path."""
        return {
            "model": self.model,
            "run": self.path.resolve().name,
            "created": self.manifest.get("created"),
            "protocol": self.manifest["protocol_id"],
        }

    def replies(self, wanted: Collection[str]) -> dict[str, Reply]:
        """The last reply to each of the `wanted` turns."""
        stored = (line.stored.reply for line in iterate_replies(self.path))
        return {reply.turn_id: reply for reply in stored if reply.turn_id in wanted}


@dataclass(frozen=True)
class Pair:
    """Two runs over the same turns with the same prompts; how the dataset of both was opened."""

    a: Side
    b: Side
    settings: RunSettings

    @property
    def fingerprint(self) -> str:
        """Of the dialogues' content."""
        return str(self.a.manifest["protocol"]["dataset"]["fingerprint"])

    def cases(self, turns: Sequence[Turn]) -> list[Case]:
        """The case of each turn, with what the two runs have for it."""
        wanted = {turn.id for turn in turns}
        a, b = self.a.replies(wanted), self.b.replies(wanted)
        return [make_case(turn, a.get(turn.id), b.get(turn.id)) for turn in turns]

    @property
    def plugins(self) -> list[str]:
        """The plugin files of the run that its dataset may come from; none for other datasets."""
        known = self.a.manifest.get("environment", {}).get("plugins", {})
        return list(self.settings.plugins) if f"datasets.{self.settings.dataset}" in known else []


def open_pair(a: Path, b: Path) -> Pair:
    """The runs at `a` and `b`; raises `RunError` where their replies cannot be compared."""
    if a.resolve() == b.resolve():
        raise RunError(f"{a} and {b} are the same run; give two")
    left, right = Side(a, read_manifest(a)), Side(b, read_manifest(b))
    for side in (left, right):
        refuse_part(side.path, side.manifest)
    one, two = _common_ground(left.manifest), _common_ground(right.manifest)
    differing = [f"{key}: {_brief(one, key)} and {_brief(two, key)}" for key in _keys(one, two)]
    if differing:
        raise RunError(
            f"{a} and {b} do not have the same turns and prompts ({'; '.join(differing)}); give "
            "runs made with the same dataset, selection and prompt options"
        )
    if one.get("prompts.history") == "free":
        raise RunError(
            f"{a} and {b} were made with --history free, so the two models were in different "
            "conversations and their replies cannot be compared; give runs with --history gold"
        )
    settings = RunSettings.from_json(left.manifest["config"], str(a))
    pinned = settings.revision or left.manifest["dataset"].get("revision")
    return Pair(left, right, replace(settings, revision=pinned))


def open_turns(
    pair: Pair, registry: Registry, dataset: str | None, split: str | None, revision: str | None
) -> Dialogues:
    """The dialogues of both runs, from where the first had them or from what the options name.

    Raises `DataError` where they cannot be had, and where they have changed since.
    """
    recorded = pair.settings
    moved = replace(recorded, dataset=dataset, split=None, revision=None) if dataset else recorded
    where = replace(moved, split=split or moved.split, revision=revision or moved.revision)
    try:
        source = registry.open_dataset(where.dataset, where.split, where.revision)
        dialogues = load(source, where.selection, where.on_bad_row)
    except (DataError, PluginError) as error:
        if dataset:
            raise
        raise DataError(f"{error}; or name the dataset of these runs with --dataset") from error
    if dialogues.fingerprint != pair.fingerprint:
        raise DataError(
            f"{where.dataset} does not hold the dialogues that {pair.a.path} was made on (its "
            f"fingerprint is {dialogues.fingerprint}, not {pair.fingerprint}); name the dataset "
            "of these runs with --dataset, --split and --revision"
        )
    return dialogues


def open_judge(bench: Bench, spec: str, model: str | None, api_base: str | None) -> Judge:
    """The pairwise judge of `spec`, asking `model` at `api_base` where the spec names none.

    Raises `ConfigError` for a judge that compares nothing.
    """
    name, options = parse_spec(spec)
    for option, value in (("model", model), ("api_base", api_base)):
        if value is not None and option not in options:
            if "," in value:
                raise ConfigError(f"--judge-{option.replace('_', '-')} {value!r} may hold no comma")
            spec += f"{',' if ':' in spec else ':'}{option}={value}"
    refuse_secrets(options, f"--judge {name}")
    judge = bench.make(spec)
    found = [d for d in judge.dimensions if d.name == PREFERENCE]
    if not found or (found[0].low, found[0].high) != (0, 1):
        raise ConfigError(
            f"judge {judge.name} compares nothing: it has no dimension {PREFERENCE!r} from 0 to 1; "
            "give a pairwise judge, as --judge pairwise"
        )
    return judge


def known(cases: Sequence[Case], judge: Judge, bench: Bench) -> int:
    """How many of the cases to judge the bench's journal has already."""
    if bench.journal is None:
        return 0
    mark, journal = fingerprint(judge.identity), bench.journal
    keys = [item_key(*case.item) for case in cases if case.item]
    return sum(journal.get(TASK, mark, key) is not None for key in keys)


def judge_cases(cases: Sequence[Case], judge: Judge, bench: Bench) -> dict[str, Verdict]:
    """The judge's verdict on each case that has both replies, by turn.

    The judge is tried on a reply of the sample first, if there is anything to ask it. Raises as
    `Bench.preflight` and `Bench.verdicts`.
    """
    items = [case.item for case in cases if case.item]
    missing = len(items) - known(cases, judge, bench)

    async def work() -> list[Verdict]:
        if missing:
            await bench.preflight(judge)
        with bench.measuring(len(items), f"comparing by {judge.name}"):
            return await bench.verdicts(judge, items, TASK)

    verdicts = run(bench, work)
    return {item.turn.id: verdict for item, verdict in zip(items, verdicts, strict=True)}


def default_folder(pair: Pair) -> Path:
    """`runs/compare-A-B`, of the names of the run directories."""
    names = [_slug(side.path.resolve().name) for side in (pair.a, pair.b)]
    return Path("runs") / f"compare-{names[0]}-{names[1]}"


def check_folder(folder: Path, pair: Pair) -> None:
    """Raise `RunError` where `folder` holds something else than a comparison of these runs."""
    if not folder.exists():
        return
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / JOURNAL).exists()):
        raise RunError(f"--out {folder} holds other files; give a new directory")
    try:
        old = json.loads((folder / COMPARISON).read_text("utf-8"))
        runs = [_origin(old[side]) for side in ("a", "b")]
    except FileNotFoundError:
        return
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RunError(
            f"{folder / COMPARISON} cannot be read ({error}); delete it, the judgements are kept"
        ) from error
    if runs != [_origin(side.identity) for side in (pair.a, pair.b)]:
        raise RunError(f"--out {folder} holds a comparison of other runs; give another directory")


def _origin(identity: Mapping[str, Any]) -> list[Any]:
    """What of a run's identity stays as it is when judges are added to it."""
    return [identity[key] for key in ("model", "run", "created")]


def _slug(name: str) -> str:
    """Letters, digits and hyphens only: a name is never a path."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name)[-60:].strip("-") or "run"


def _common_ground(manifest: Manifest) -> dict[str, Any]:
    """What two runs must share: the dialogues, and how prompts were made of them."""
    protocol = manifest["protocol"]
    prompts = {f"prompts.{key}": value for key, value in protocol.get("prompts", {}).items()}
    return {"dataset.fingerprint": protocol["dataset"].get("fingerprint"), **prompts}


def _keys(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[str]:
    return sorted(key for key in one.keys() | two.keys() if one.get(key) != two.get(key))


def _brief(values: Mapping[str, Any], key: str) -> str:
    text = str(values.get(key, "(absent)"))
    return text if len(text) <= 40 else text[:37] + "…"
