"""`curves.html`: how a training went, as one static page beside its ledger.

It needs no network and no script, and holds numbers and names only: no reply, no dialogue.
"""

from __future__ import annotations

import os
import re
from base64 import b64encode
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import kardiabench
from kardiabench.errors import RunError, StorageError
from trainer.curve_chart import short
from trainer.curve_data import CurveData, Source, is_training, read_folder
from trainer.curve_pictures import Picture, evaluation_table, pictures, score_picture
from trainer.facts import facts_of

if TYPE_CHECKING:
    from jinja2 import Environment

CURVES = "curves.html"
_TEMPLATES = Path(__file__).parent / "templates"
#: The colours of page and charts, on light paper and on dark.
COLOURS = {
    "paper": ("#fbfaf7", "#161513"),
    "raised": ("#ffffff", "#1f1d1b"),
    "ink": ("#1d1b19", "#ebe7e0"),
    "muted": ("#5d5851", "#aca59b"),
    "grid": ("#ddd8cf", "#3a3733"),
    "accent": ("#8c1d40", "#f39ab1"),
    "warn": ("#8a4300", "#f0b35e"),
    "series-1": ("#1b5fa8", "#74b4f0"),
    "series-2": ("#b34a00", "#f2985f"),
    "series-3": ("#00755a", "#55c9a5"),
    "series-4": ("#86389b", "#d597e0"),
    "series-5": ("#7d6200", "#d8b652"),
    "series-6": ("#46525f", "#a9b6c4"),
}
_COLOUR = re.compile(r"var\(--([\w-]+)\)")
_VIEW_BOX = re.compile(r'<svg[^>]* viewBox="0 0 (\d+(?:\.\d+)?) (\d+(?:\.\d+)?)"[^>]*>')


def write_page(folder: Path, source: Source = "log") -> Path:
    """Write `curves.html` into a training's folder and return its path.

    `source`: rewards as TRL's log has them, or as the ledger does, which is read through. What is
    missing in the folder is said on the page. Raises `RunError` for a folder without any file of a
    training, and `StorageError` where the page cannot be written.
    """
    if not is_training(folder):
        raise RunError(f"{folder} holds no training; give the output folder of one")
    data = read_folder(folder, source)
    facts = facts_of(data.manifest)
    page = (
        _environment()
        .get_template("curves.html.j2")
        .render(
            data=data,
            facts=facts,
            pictures=list(pictures(data)),
            table=list(evaluation_table(data)),
            colours=COLOURS,
            version=kardiabench.__version__,
        )
    )
    path = folder / CURVES
    write_text(path, page)
    return path


def write_text(path: Path, text: str) -> None:
    """Write a file so that readers see the old one or the new one; raises `StorageError`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8", errors="replace")
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StorageError(
            f"{path} cannot be written ({error.strerror}); make room or give another folder"
        ) from error


def standalone_svg(data: CurveData) -> str | None:
    """The chart of rewarded and held-out score as a file of its own; None without an evaluation.

    It brings light paper and its colours along, since it may stand on a page of any colour.
    """
    picture = score_picture(data)
    return None if picture is None else as_file(picture)


def as_file(picture: Picture) -> str:
    """A chart of the page as an SVG file of its own."""
    svg = _COLOUR.sub(lambda found: COLOURS[found[1]][0], str(picture.svg))
    root = _VIEW_BOX.match(svg)
    if root is None:
        raise ValueError("a chart has no size")
    size = f'width="{root[1]}" height="{root[2]}"'
    paper = f'<rect {size} fill="{COLOURS["paper"][0]}"/>'
    return f"{root[0][:-1]} {size}>{paper}{svg[root.end() :]}\n"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"csp_hash": _csp_hash, "short": short}
    return made


def _csp_hash(style: str) -> str:
    """What a content security policy names this style by."""
    return "sha256-" + b64encode(sha256(str(style).encode()).digest()).decode()
