"""Pictures of a built site for documents: its kinds of pages in light, in dark, and on a phone.

    python examples/sample-site/screenshots.py site docs/screenshots

Fifteen PNG files, INDEX to METHOD by LIGHT, DARK and PHONE. Needs Playwright (the `dev` extra) and
an installed Chromium; where Pillow is installed too, the files are made smaller with a palette.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from playwright.sync_api import Browser, Page, sync_playwright

#: Pixels; of a longer page the beginning is shown.
HIGHEST = 2_400
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 900}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 900}},
    "phone": {
        "color_scheme": "light",
        "viewport": {"width": 390, "height": 844},
        "has_touch": True,
        "is_mobile": True,
    },
}
#: What is there once a page's scripts have filled it.
READY = {"compare": "#result:visible", "browse": "#dialogue:visible"}


def main() -> None:
    """Make all pictures of a site."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=Path, help="the folder of a built site")
    parser.add_argument("out", type=Path, help="the folder for the pictures")
    options = parser.parse_args()
    pages = dict(shown(options.site))
    options.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        files = list(pictures(browser, options.site, pages, options.out))
        browser.close()
    size = sum(file.stat().st_size for file in files)
    sys.stdout.write(f"{len(files)} pictures in {options.out}, {size / 1e6:.1f} MB\n")


def chromium() -> str:
    """The path of an installed Chromium or Chrome."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next(filter(None, map(shutil.which, names)), None)
    return found or sys.exit("install Chromium: sudo apt-get install chromium")


def shown(site: Path) -> Iterator[tuple[str, str]]:
    """A page of each kind with its address: those of the two best models of the first board."""
    try:
        board = json.loads((site / "leaderboard.json").read_text("utf-8"))["protocols"][0]
    except (FileNotFoundError, IndexError):
        sys.exit(f"{site} holds no site with runs; build one with: kardiabench leaderboard build")
    models = sorted(board["runs"], key=lambda run: run["kind"] == "floor")[:2]
    slugs = [Path(run["page"]).stem for run in models]
    pair = {"p": board["protocol"], **dict(zip("ab", slugs, strict=False))}
    yield "index", "index.html"
    yield "model", models[0]["page"]
    yield "compare", f"compare.html#{urlencode(pair)}"
    yield "browse", f"browse.html#{urlencode({'p': board['protocol'], 'm': ','.join(slugs)})}"
    yield "method", "method.html"


def pictures(browser: Browser, site: Path, pages: dict[str, str], out: Path) -> Iterator[Path]:
    """Write the picture of every page in every look."""
    for look, options in LOOKS.items():
        context = browser.new_context(reduced_motion="reduce", **options)
        page = context.new_page()
        for kind, address in pages.items():
            page.goto(f"{site.resolve().as_uri()}/{address}")
            page.wait_for_selector(READY.get(kind, "h1"))
            yield picture(page, out / f"{kind}-{look}.png")
        context.close()


def picture(page: Page, path: Path) -> Path:
    """Write the page's beginning."""
    width, height = page.evaluate(
        "() => [document.documentElement.clientWidth, document.documentElement.scrollHeight]"
    )
    page.screenshot(
        path=path,
        full_page=True,
        clip={"x": 0, "y": 0, "width": width, "height": min(height, HIGHEST)},
        animations="disabled",
    )
    if find_spec("PIL"):
        reduce(path)
    return path


def reduce(path: Path) -> None:
    """Write the picture again with 128 colours: pages of text have few."""
    from PIL import Image

    with Image.open(path) as image:
        small = image.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


if __name__ == "__main__":
    main()
