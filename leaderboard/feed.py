"""An Atom feed (RFC 4287) of the runs, the newest first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from kardiabench.fingerprints import digest
from leaderboard.views import BoardView, RunView, SiteView

_ATOM = "http://www.w3.org/2005/Atom"
_MOST = 50
#: What XML 1.0 cannot hold.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def feed(site: SiteView) -> bytes:
    """The feed. Addresses are absolute where the site's own is known, else relative."""
    entries = [(run, board) for board in site.boards for run in (*board.runs, *board.unranked)]
    entries.sort(key=lambda entry: (entry[0].created, entry[0].id), reverse=True)
    root = ET.Element("feed", xmlns=_ATOM)
    _text(root, "title", site.title)
    _text(root, "id", site.url or _urn(site))
    _text(root, "updated", site.updated or "1970-01-01T00:00:00+00:00")
    _text(ET.SubElement(root, "author"), "name", site.title)
    base = site.url.rstrip("/") + "/" if site.url else ""
    ET.SubElement(root, "link", rel="self", href=f"{base}feed.xml")
    ET.SubElement(root, "link", href=f"{base}index.html")
    for run, board in entries[:_MOST]:
        _entry(root, run, board, base)
    ET.indent(root)
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _urn(site: SiteView) -> str:
    """A name for a site without an address: its title and protocols make it."""
    return "urn:kardiabench:leaderboard:" + digest([site.title, [b.protocol for b in site.boards]])


def _entry(root: ET.Element, run: RunView, board: BoardView, base: str) -> None:
    entry = ET.SubElement(root, "entry")
    _text(entry, "title", run.name)
    _text(entry, "id", f"urn:kardiabench:run:{run.id}")
    _text(entry, "updated", run.created)
    ET.SubElement(entry, "link", href=f"{base}{run.page}")
    _text(entry, "summary", f"{board.title}: {_figures(run, board)}")


def _figures(run: RunView, board: BoardView) -> str:
    parts = [_figure(run, metric.key, metric.label, metric.digits) for metric in board.metrics]
    return "; ".join(filter(None, parts)) or "no scores"


def _figure(run: RunView, key: str, label: str, digits: int) -> str:
    figure = run.figures.get(key)
    if figure is None or figure.mean is None:
        return ""
    around = "" if figure.low is None else f" [{figure.low:.{digits}f}, {figure.high:.{digits}f}]"
    return f"{label} {figure.mean:.{digits}f}{around}"


def _text(parent: ET.Element, tag: str, text: str) -> None:
    ET.SubElement(parent, tag).text = _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def newest(boards: Sequence[BoardView]) -> str:
    """When the newest run was made; empty for none."""
    return max(
        (run.created for board in boards for run in (*board.runs, *board.unranked)), default=""
    )
