"""The command `judges check`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kardiabench.cli import options as opt
from kardiabench.cli import output
from kardiabench.errors import ConfigError
from kardiabench.report import plain

if TYPE_CHECKING:
    from kardiabench.bench import Bench
    from kardiabench.checking import Plan


@click.command("check")
@opt.compose(
    click.option(
        "--judge",
        "spec",
        required=True,
        metavar="NAME[:OPTION=VALUE,…]",
        help="Judge to check.",
    ),
    click.option(
        "--repeats",
        type=click.IntRange(1, 100),
        default=3,
        show_default=True,
        help="How often every anchor is judged.",
    ),
    click.option(
        "--items",
        type=click.IntRange(1, opt.MOST),
        metavar="N",
        help="Use N turns of the anchors, and of --replies. Fewer than all of the anchors are no "
        "baseline for drift. [default: 24 and 160]",
    ),
    click.option(
        "--cards",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("judge-cards"),
        show_default=True,
        help="Folder of judge cards.",
    ),
    click.option(
        "--replies",
        multiple=True,
        metavar="FAMILY=RUN",
        help="Run directory of a model of that family, for self-preference. Two or more.",
    ),
    click.option(
        "--reference",
        metavar="NAME[:OPTION=VALUE,…]",
        help="Judge of another family, to tell preference from quality.",
    ),
    click.option("--fresh", is_flag=True, help="Forget what earlier checks of the judge asked."),
    opt.traffic_options,
    opt.plugin_option,
    opt.output_options,
)
@output.results_only
def check(
    spec: str,
    *,
    repeats: int,
    items: int | None,
    cards: Path,
    replies: Sequence[str],
    reference: str | None,
    fresh: bool,
    quiet: bool,
    as_json: bool,
    plugins: Sequence[str],
    **traffic: Any,
) -> None:
    """Measure a judge on replies of known quality, and write its judge card.

    Does it say the same again; does it see what is wrong with a degraded reply, and only that; do
    filler, the order of its questions or its own family's style move it? Every judgement is kept,
    so that the same command goes on where it was broken off.
    """
    from kardiabench.bench import open_bench
    from kardiabench.cards import card_folder
    from kardiabench.check_report import measure
    from kardiabench.checking import JOURNAL, make_plan, open_journal
    from kardiabench.own_family import MOST_TURNS, open_candidates

    bench = open_bench(plugins, quiet=quiet, **traffic)
    runs = _runs(replies)
    candidates = open_candidates(runs, bench.registry, items or MOST_TURNS) if runs else None
    plan = make_plan(bench, spec, repeats, bases=items, candidates=candidates, reference=reference)
    folder = card_folder(cards, plan.judge)
    with open_journal(folder, fresh=fresh) as bench.journal:
        if not quiet:
            _announce(plan, bench)
        section, path = measure(plan, bench, folder / JOURNAL, cards)
    if as_json:
        shown = {"judge": plan.judge.name, "card": str(path), "check": section}
        output.echo(json.dumps(shown, indent=2, sort_keys=True))
    elif not quiet:
        from kardiabench.check_report import show_check

        show_check(section, output.console())
        if getattr(plan.judge, "smoke_test", False):
            output.echo("This judge is a smoke test, not a judgement.")
        output.echo(f"judge card: {path.with_suffix('.md')}")


def _runs(pairs: Sequence[str]) -> dict[str, Path]:
    runs = {name: Path(run) for name, run in opt.key_values("--replies", pairs).items()}
    if len(runs) < len(pairs):
        raise ConfigError("--replies names two runs alike; name the models, as gpt-4o=RUN_A")
    return runs


def _announce(plan: Plan, bench: Bench) -> None:
    from kardiabench.checking import count

    total, known = count(plan, bench)
    click.echo(_extent(plan, total, known), err=True)


def _extent(plan: Plan, total: int, known: int) -> str:
    judge = plain(plan.judge.name)
    what = f"{total:,} judgements to check {judge}, {len(plan.anchors)} anchors in {plan.repeats}"
    if known == total:
        return f"{what} repeats: all are there already (--fresh asks again)"
    return f"{what} repeats" + (f"; {known:,} are there already" if known else "")
