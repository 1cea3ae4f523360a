"""Commands that run: run, resume, score, demo."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kardiabench.cli import options as opt
from kardiabench.cli import output
from kardiabench.errors import ConfigError, PreflightError, RunError
from kardiabench.report import plain

if TYPE_CHECKING:
    from kardiabench.execution import Manner, Outcome
    from kardiabench.session import Session
    from kardiabench.settings import RunSettings


@click.command()
@opt.compose(
    opt.config_option,
    click.option(
        "--model",
        required=True,
        help="openai/gpt-4o, hf/PATH, vllm/NAME, ollama/llama3.2, baseline/tfidf, replay/FILE, …",
    ),
    click.option(
        "--dataset",
        default="KardiaBench",
        show_default=True,
        help="KardiaBench, sample, or a .jsonl, .parquet or directory.",
    ),
    opt.dataset_options,
    opt.prompt_options,
    opt.request_options,
    opt.model_options,
    opt.local_options,
    opt.judge_options,
    opt.score_options,
    opt.traffic_options,
    opt.spread_options,
    opt.shard_option,
    click.option(
        "--out",
        type=click.Path(path_type=Path, file_okay=False),
        help="Run directory. [default: runs/MODEL-DATASET-HASH]",
    ),
    opt.manner_options,
    click.option(
        "--retry-errors", is_flag=True, help="When resuming: do failed turns and verdicts again."
    ),
    click.option(
        "--no-cache", is_flag=True, help="Neither read nor fill the cache of replies and verdicts."
    ),
    opt.plugin_option,
    opt.calibration_option,
    click.option("--dry-run", is_flag=True, help="Say what it would take, and stop."),
    opt.output_options,
)
@output.results_only
def run(
    *,
    out: Path | None,
    dry_run: bool,
    calibration: Path | None,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Run a model over the dialogues and judge its replies.

    The same command again resumes where it stopped.
    """
    from kardiabench.session import make_manifest, open_session

    manner = _manner(options)
    session = open_session(_settings(options))
    _warn_of_plugins(session)
    curves = _calibration(calibration, make_manifest(session))
    if dry_run:
        _print_estimate(session, anchors=manner.anchors, as_json=as_json)
        return
    path, manifest = _prepare(session, out)
    try:
        outcome = _execute(
            session, path, manner, quiet=quiet, manifest=manifest, calibration=curves
        )
    except PreflightError:
        _discard_if_unused(path)
        raise
    finish(outcome, path, quiet=quiet, as_json=as_json)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@opt.compose(
    click.option("--retry-errors", is_flag=True, help="Do failed turns and verdicts again."),
    opt.changed_traffic_options,
    opt.manner_options,
    opt.plugin_option,
    opt.output_options,
)
@output.results_only
def resume(
    run: Path,
    *,
    api_base: str | None,
    judge_api_base: str | None,
    concurrency: int | None,
    timeout: float | None,
    retries: int | None,
    plugins: Sequence[str],
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Do what is left of the run directory RUN."""
    from kardiabench.session import check_same, make_manifest, open_session

    manifest, settings = _read_run(run, plugins)
    traffic: dict[str, Any] = {"concurrency": concurrency, "timeout": timeout, "retries": retries}
    settings = replace(settings, **{k: v for k, v in traffic.items() if v is not None})
    settings = settings.with_servers(api_base, judge_api_base)
    session = open_session(settings)
    _warn_of_plugins(session)
    check_same(manifest, make_manifest(session), run, _RESTORE)
    outcome = _execute(session, run, _manner(options), quiet=quiet)
    finish(outcome, run, quiet=quiet, as_json=as_json)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@opt.compose(
    opt.judge_options,
    opt.manner_options,
    click.option("--retry-errors", is_flag=True, help="Do failed verdicts again."),
    opt.plugin_option,
    opt.calibration_option,
    opt.output_options,
)
@output.results_only
def score(
    run: Path,
    *,
    judges: Sequence[str],
    judge_model: str | None,
    judge_api_base: str | None,
    plugins: Sequence[str],
    calibration: Path | None,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Add judges to the replies of the run directory RUN, without generating anything."""
    from kardiabench.session import check_same, make_manifest, open_session, without_judges

    manifest, settings = _read_run(run, plugins)
    session = open_session(settings.with_judges(judges, judge_model, judge_api_base))
    _warn_of_plugins(session)
    new = make_manifest(session, manifest["model"])
    check_same(without_judges(manifest), without_judges(new), run, _RESTORE)
    manner = replace(_manner(options), generate=False)
    new["created"] = manifest["created"]
    curves = _calibration(calibration, new)
    outcome = _execute(session, run, manner, quiet=quiet, manifest=new, calibration=curves)
    finish(outcome, run, quiet=quiet, as_json=as_json)


@click.command()
@opt.compose(
    click.option(
        "--out",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("runs/demo"),
        show_default=True,
        help="Directory for the two runs.",
    ),
    opt.output_options,
)
@output.results_only
def demo(out: Path, quiet: bool, as_json: bool) -> None:
    """Run both baselines over the embedded sample with offline judges: no network, no key."""
    from kardiabench.session import open_session
    from kardiabench.settings import RunSettings

    outcomes = []
    for name in ("majority", "tfidf"):
        settings = RunSettings(f"baseline/{name}", dataset="sample", judges=["smoke"], cache=False)
        session = open_session(settings)
        path, manifest = _prepare(session, out / name)
        outcomes.append(_execute(session, path, _manner({}), quiet=True, manifest=manifest))
    summaries = [outcome.summary for outcome in outcomes]
    if as_json:
        output.echo(json.dumps(summaries, indent=2, sort_keys=True))
    elif not quiet:
        _show(summaries)
        output.echo(_WHAT_NEXT.format(out=out))


_WHAT_NEXT = """
These are floors: a model worth its name does better. Both are near 0 for emotion here, by design:
the sample has one dialogue for each of the 32 emotions, and the persona that is answered is left
out of training, so the right label has hardly ever been seen. The runs are in {out}/. Next:
  a real model on the sample    kardiabench run --model openai/gpt-4o --dataset sample
    (OPENAI_API_KEY in the environment; --dry-run first says what it costs)
  a server of your own          kardiabench run --model openai/NAME --api-base http://127.0.0.1:8000/v1
                                  --dataset sample --no-rubric
  the benchmark itself          hf auth login, then leave --dataset out
  every option                  kardiabench run --help"""


_RESTORE = "restore what changed, "


def _settings(options: dict[str, Any]) -> RunSettings:
    from kardiabench.scoring import DEFAULT_WEIGHTS
    from kardiabench.settings import RunSettings

    options["emotions"] = opt.words(options["emotions"])
    options["model_args"] = opt.yaml_values("--model-arg", options["model_args"])
    options["replica_args"] = opt.yaml_values("--replica-arg", options["replica_args"])
    options["weights"] = _weights(options["weights"]) or dict(DEFAULT_WEIGHTS)
    options["on_missing"] = options["on_missing"].replace("-", "_")
    options["cache"] = not options.pop("no_cache")
    options["judges"] = list(options["judges"])
    options["plugins"] = [str(Path(file).absolute()) for file in options["plugins"]]
    return RunSettings(**options)


def _weights(pairs: Sequence[str]) -> dict[str, float]:
    try:
        return {name: float(text) for name, text in opt.key_values("--weight", pairs).items()}
    except ValueError as error:
        raise ConfigError(f"--weight: {error}; write for example --weight rubric=2") from error


def _manner(options: dict[str, Any]) -> Manner:
    """Take the options that do not change what is measured out of `options`."""
    from kardiabench.execution import Manner

    default = Manner()
    return Manner(
        max_cost=options.pop("max_cost", None),
        min_coverage=options.pop("min_coverage", default.min_coverage),
        preflight=not options.pop("skip_preflight", False),
        retry_errors=options.pop("retry_errors", False),
        anchors=not options.pop("no_anchors", False),
        judge_cards=options.pop("judge_cards", default.judge_cards),
    )


def _read_run(path: Path, plugins: Sequence[str]) -> tuple[dict[str, Any], RunSettings]:
    from kardiabench.manifests import read_manifest
    from kardiabench.settings import RunSettings

    manifest = read_manifest(path)
    settings = RunSettings.from_json(manifest["config"], str(path))
    pinned = manifest["dataset"].get("revision")  # what it was made on, whatever came since
    settings = replace(settings, revision=settings.revision or pinned)
    return manifest, settings.with_plugins([str(Path(file).absolute()) for file in plugins])


def _prepare(session: Session, out: Path | None) -> tuple[Path, dict[str, Any] | None]:
    """The run directory, new or to be resumed under the same configuration.

    With it comes the manifest that it is to get, or None where it keeps its own. A run that has
    received nothing yet (its preflight failed) may be started over with another configuration.
    """
    from kardiabench.manifests import MANIFEST, read_manifest
    from kardiabench.session import check_same, default_directory, make_manifest
    from kardiabench.store import create, iterate_replies

    manifest = make_manifest(session)
    path = out or default_directory(manifest)
    if not (path / MANIFEST).exists():
        if path.exists() and any(path.iterdir()):
            raise RunError(f"--out {path} is a directory with other files in it; give a new one")
        create(path, manifest)
        return path, None
    old = read_manifest(path)
    if next(iterate_replies(path), None) is None:
        return path, manifest
    check_same(old, manifest, path)
    return path, None


def _calibration(file: Path | None, manifest: dict[str, Any]) -> dict[str, Any] | None:
    """The calibration in `file`, which has to be for a judge of the manifest."""
    from kardiabench.calibration import check_calibration, read_calibration

    if file is None:
        return None
    calibration = read_calibration(file)
    check_calibration(calibration, manifest)
    return calibration


def _discard_if_unused(path: Path) -> None:
    """Leave no run directory behind for a run that never began."""
    from kardiabench.store import discard, iterate_replies

    if next(iterate_replies(path), None) is None:
        discard(path)


def _execute(
    session: Session,
    path: Path,
    manner: Manner,
    *,
    quiet: bool,
    manifest: dict[str, Any] | None = None,
    calibration: dict[str, Any] | None = None,
) -> Outcome:
    from kardiabench.execution import execute
    from kardiabench.progress import Progress
    from kardiabench.store import RunStore

    with RunStore(path) as store:
        progress = Progress(quiet=quiet)
        return execute(session, store, manner, progress, manifest, calibration=calibration)


def finish(outcome: Outcome, path: Path, *, quiet: bool, as_json: bool) -> None:
    """Print the results of the run at `path`, and end with the exit code."""
    if as_json:
        output.echo(json.dumps(outcome.summary, indent=2, sort_keys=True))
    elif not quiet:
        _show([outcome.summary])
        output.echo(f"run: {path}")
    if outcome.sentence:
        click.echo(f"kardiabench: {' '.join(plain(outcome.sentence).split())}", err=True)
    raise click.exceptions.Exit(outcome.exit_code)


def _show(summaries: Sequence[dict[str, Any]]) -> None:
    from kardiabench.report import show

    show(summaries, output.console())


def _warn_of_plugins(session: Session) -> None:
    for problem in session.registry.problems:
        click.echo(f"warning: {problem}", err=True)


def _print_estimate(session: Session, *, anchors: bool, as_json: bool) -> None:
    from dataclasses import asdict

    from kardiabench.estimate import estimate

    lines = estimate(session, anchors=anchors)
    _note_missing_key(session)
    if as_json:
        output.echo(json.dumps([asdict(line) for line in lines], indent=2))
        return
    from kardiabench.report import show_estimate

    show_estimate(lines, session.dialogues.n_turns, output.console())


def _note_missing_key(session: Session) -> None:
    from kardiabench.preflight import check_keys

    try:
        check_keys(session, generate=True)
    except PreflightError as error:
        click.echo(f"note: {error}", err=True)


COMMANDS = (run, resume, score, demo)
