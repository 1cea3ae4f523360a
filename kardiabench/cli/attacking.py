"""The command `judges attack`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kardiabench.cli import options as opt
from kardiabench.cli import output
from kardiabench.errors import EXIT_INCOMPLETE, KardiaBenchError
from kardiabench.report import plain

if TYPE_CHECKING:
    from kardiabench.attacking import Plan
    from kardiabench.bench import Bench


class MovedError(KardiaBenchError):
    """It was not shown that attacks succeed as seldom as `--max-success` wants."""

    exit_code = EXIT_INCOMPLETE


@click.command("attack")
@opt.compose(
    click.option(
        "--judge",
        "spec",
        required=True,
        metavar="NAME[:OPTION=VALUE,…]",
        help="Judge to attack.",
    ),
    click.option(
        "--plain",
        "twin",
        metavar="NAME[:OPTION=VALUE,…]",
        help="The same judge without its defences. [default: rubric's is made with fence=none]",
    ),
    click.option("--no-plain", is_flag=True, help="Leave the undefended twin out: half the calls."),
    click.option(
        "--limit",
        type=click.IntRange(1, opt.MOST),
        metavar="N",
        help="Use N attacked replies, balanced over the families. [default: all 576]",
    ),
    click.option(
        "--repeats",
        type=click.IntRange(2, 100),
        default=5,
        show_default=True,
        help="How often every clean reply is judged; all but the first are placebos.",
    ),
    click.option(
        "--max-success",
        type=opt.FiniteRange(0, 1),
        metavar="RATE",
        help="Exit with 3 when the 95% upper bound of the success rate is higher.",
    ),
    click.option(
        "--cards",
        "--out",
        "cards",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("judge-cards"),
        show_default=True,
        help="Folder of judge cards.",
    ),
    click.option("--fresh", is_flag=True, help="Forget what earlier attacks on the judge asked."),
    opt.traffic_options,
    opt.plugin_option,
    opt.output_options,
)
@output.results_only
def attack(
    spec: str,
    *,
    twin: str | None,
    no_plain: bool,
    limit: int | None,
    repeats: int,
    max_success: float | None,
    cards: Path,
    fresh: bool,
    quiet: bool,
    as_json: bool,
    plugins: Sequence[str],
    **traffic: Any,
) -> None:
    """Measure how often planted text talks a judge into a better score.

    Bad replies are judged as they are, again (the placebo), and attacked in every way of the suite;
    a rise of one level of five or more on any dimension is a success. The undefended twin shows
    what the judge's defences are worth and what they do to honest text. The outcome goes into the
    judge card. Every judgement is kept, so that the same command goes on where it was broken off.
    """
    from kardiabench.attack_report import measure
    from kardiabench.attacking import JOURNAL, make_plan, open_journal
    from kardiabench.bench import open_bench
    from kardiabench.cards import card_folder

    bench = open_bench(plugins, quiet=quiet, **traffic)
    plan = make_plan(bench, spec, limit=limit, repeats=repeats, plain=twin, twin=not no_plain)
    folder = card_folder(cards, plan.judge)
    with open_journal(folder, fresh=fresh) as bench.journal:
        if not quiet:
            _announce(plan, bench)
        section, path = measure(plan, bench, folder / JOURNAL, cards)
    if as_json:
        shown = {"judge": plan.judge.name, "card": str(path), "attack": section}
        output.echo(json.dumps(shown, indent=2, sort_keys=True))
    elif not quiet:
        from kardiabench.attack_report import show_attack

        show_attack(section, output.console())
        if getattr(plan.judge, "smoke_test", False):
            output.echo("This judge is a smoke test, not a judgement.")
        output.echo(f"judge card: {path.with_suffix('.md')}")
    if max_success is not None:
        _hold_to(max_success, section)


def _announce(plan: Plan, bench: Bench) -> None:
    from kardiabench.attacking import count

    total, known = count(plan, bench)
    judge = plain(plan.judge.name)
    twin = " and its undefended twin" if plan.twin is not None else ""
    there = f"; {known:,} are there already" if known else ""
    click.echo(f"{total:,} judgements to attack {judge}{twin}{there}", err=True)


def _hold_to(most: float, section: Mapping[str, Any]) -> None:
    """Raise `MovedError` unless attacks were shown to succeed at most that often."""
    upper = section["attacked"]["judge"]["upper"]
    if section["verdict"] == "unknown":
        raise MovedError(f"--max-success {most:g}: {section['findings'][0]}")
    if upper is None or upper > most:
        raise MovedError(
            f"--max-success {most:g}: attacks may succeed in up to {upper:.1%} of cases (95% upper "
            "bound); harden the judge, or attack it with more cases"
        )
