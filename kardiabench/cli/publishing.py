"""The commands `leaderboard build` and `leaderboard serve`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kardiabench.cli import options as opt
from kardiabench.cli import output
from kardiabench.errors import ConfigError

if TYPE_CHECKING:
    from leaderboard.views import SiteView

_DEFAULT_OUT = Path("site")
_LONGEST_TITLE = 200


@click.group()
def leaderboard() -> None:
    """Build a static site of runs and bundles, and look at it."""


@leaderboard.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@opt.compose(
    click.option(
        "--out",
        "-o",
        type=click.Path(path_type=Path, file_okay=False),
        default=_DEFAULT_OUT,
        show_default=True,
        help="Folder of the site; a site that was built there before is replaced.",
    ),
    click.option(
        "--title", default="KardiaBench leaderboard", show_default=True, help="Name of the site."
    ),
    click.option(
        "--url", metavar="URL", help="Where it will stand, for the feed and the citation."
    ),
    click.option(
        "--include-text",
        is_flag=True,
        help="Publish the text of dialogues, replies and judges' evidence too. The sample's is "
        "always shown (CC0); KardiaBench's may not be published (gated, CC BY-NC-ND).",
    ),
    click.option(
        "--text-from",
        multiple=True,
        metavar="DATASET",
        help="Dataset to take that text from: a name or a path. Repeatable.",
    ),
    click.option(
        "--min-coverage",
        type=click.FloatRange(0, 1),
        default=0.9,
        show_default=True,
        help="Runs with a metric that covers a smaller share of the turns are shown without ranks.",
    ),
    click.option("--strict", is_flag=True, help="Stop when a run or bundle cannot be shown."),
    click.option(
        "--cache",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIRECTORY",
        help="What was read of runs is kept here, and read again only when they change. "
        "[default: in the user's cache folder]",
    ),
    click.option("--workers", type=click.IntRange(1, 256), help="Processes. [default: one a core]"),
    opt.debug_option,
)
@output.results_only
def build(runs: Sequence[Path], out: Path, cache: Path | None, **options: Any) -> None:
    """Build the site of RUNS: run directories, bundles, or folders of them.

    What cannot be shown is named and left out.
    """
    from kardiabench.progress import steps
    from leaderboard.site import Plan, build_site

    if options["text_from"] and not options["include_text"]:
        raise ConfigError("--text-from names text to publish; give --include-text with it")
    options["title"] = _title(options["title"])
    _check_url(options["url"])
    if cache is not None:
        options["cache"] = cache
    site = build_site(runs, out, Plan(**options), steps)
    _tell(site, out)


def _title(given: str) -> str:
    from kardiabench.records import clean_text
    from kardiabench.report import plain

    title = " ".join(plain(clean_text(given)).split())
    if not title or len(title) > _LONGEST_TITLE:
        raise ConfigError(f"--title must have 1 to {_LONGEST_TITLE} characters")
    return title


def _check_url(url: str | None) -> None:
    from urllib.parse import urlsplit

    if url is None:
        return
    parts = urlsplit(url)
    plain = url.isascii() and url.isprintable() and not set(url) & set(" <>\"'\\{}")
    if parts.scheme not in ("http", "https") or not parts.hostname or not plain:
        raise ConfigError(f"--url {url!r} is no address; give one as https://example.org/board/")


def _tell(site: SiteView, out: Path) -> None:
    from kardiabench.report import plain

    for problem in site.problems:
        click.echo(f"warning: left out {plain(problem.name)}: {plain(problem.why)}", err=True)
    runs = sum(len(board.runs) + len(board.unranked) for board in site.boards)
    ranked = sum(len(board.runs) for board in site.boards)
    protocols = f"{len(site.boards)} protocol" + ("s" if len(site.boards) > 1 else "")
    number = f"{runs} run" + ("s" if runs != 1 else "")
    output.echo(f"{out}/index.html: {number} ({ranked} ranked) of {protocols}")
    lines = [
        f"{'with' if board.text else 'without'} the text of {plain(board.dataset)}; "
        f"licence: {board.licence}"
        for board in site.boards
    ]
    for line in dict.fromkeys(lines):
        output.echo(line)
    output.echo(f"look at it: kardiabench leaderboard serve {out}, or open the file")


@leaderboard.command()
@click.argument("site", type=click.Path(path_type=Path, file_okay=False), default=_DEFAULT_OUT)
@opt.compose(
    click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True),
    click.option("--open", "browser", is_flag=True, help="Open it in a browser."),
    opt.debug_option,
)
@output.results_only
def serve(site: Path, port: int, browser: bool) -> None:
    """Serve the folder SITE on this machine until Ctrl-C."""
    from leaderboard.serving import HOST, server

    with server(site, port) as running:
        address = f"http://{HOST}:{running.server_address[1]}/"
        output.echo(f"{address} (Ctrl-C ends)")
        if browser:
            click.launch(address)
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            return


COMMANDS = (leaderboard,)
