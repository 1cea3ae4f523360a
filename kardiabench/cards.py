"""Judge cards: what is known of a judge as an instrument, in a folder named by its fingerprint.

`FOLDER/<judge>-<fingerprint>/card.json` has a section for each measurement (`check`, `attack`,
`calibration`, `anchors`); `card.md` is the same to read. Runs point to a card by fingerprint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import kardiabench
from kardiabench.card_text import card_text
from kardiabench.contracts import Judge
from kardiabench.errors import ConfigError
from kardiabench.files import write_json
from kardiabench.fingerprints import fingerprint
from kardiabench.scoring import describe
from kardiabench.store import CARDS

CARD, TEXT = "card.json", "card.md"
SECTIONS = ("check", "attack", "calibration", "anchors")
JOURNAL = "journal.jsonl"
CARD_VERSION = 1
DEFAULT_FOLDER = Path("judge-cards")


def card_folder(folder: Path, judge: Judge) -> Path:
    """Where the card of `judge` is kept. Judges' names are letters, digits, `_`, `.` and `-`."""
    return folder / f"{judge.name}-{fingerprint(judge.identity)}"


def read_card(folder: Path) -> dict[str, Any] | None:
    """The card in `folder`, None where there is none; raises `ConfigError` for a broken one."""
    return _read(folder / CARD)


def find_card(folder: Path, mark: str) -> dict[str, Any] | None:
    """The card of the judge with the fingerprint `mark` among those in `folder`."""
    places = sorted(folder.glob(f"*-{mark}")) if folder.is_dir() else []
    cards = (card for place in places if (card := read_card(place)) is not None)
    return next((card for card in cards if card.get("fingerprint") == mark), None)


def find_cards(folder: Path, marks: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The cards that are in `folder` for judges by name, given their fingerprints."""
    found = {judge: find_card(folder, mark) for judge, mark in marks.items()}
    return {judge: card for judge, card in found.items() if card is not None}


def keep_cards(run: Path, cards: Mapping[str, Mapping[str, Any]]) -> None:
    """Copy cards into the run directory: what is known of its judges stays with its numbers."""
    if cards:
        (run / CARDS).mkdir(exist_ok=True)
    for judge, card in cards.items():
        write_json(run / CARDS / f"{judge}.json", card)


def kept_card(run: Path, judge: str, mark: str) -> dict[str, Any] | None:
    """The card in the run directory, None where there is none of the judge as it is now."""
    card = _read(run / CARDS / f"{judge}.json")
    return card if card is not None and card.get("fingerprint") == mark else None


def card_note(run: Path, judge: str, card: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's summary says of the card in its directory."""
    sections = {name: part for name, part in card.items() if name in SECTIONS}
    parts = {name: part for name, part in sections.items() if isinstance(part, dict)}
    findings = parts.get("check", {}).get("findings")
    return {
        "fingerprint": card["fingerprint"],
        "sha256": sha256((run / CARDS / f"{judge}.json").read_bytes()).hexdigest(),
        "measured": {name: str(part.get("measured")) for name, part in sorted(parts.items())},
        "findings": [str(one) for one in findings] if isinstance(findings, list) else None,
    }


def _read(file: Path) -> dict[str, Any] | None:
    try:
        card = json.loads(file.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file} cannot be read ({error}); restore it or delete it") from error
    if not isinstance(card, dict) or card.get("card_version") != CARD_VERSION:
        raise ConfigError(
            f"{file} is no judge card of version {CARD_VERSION}; delete it and measure it again"
        )
    return card


def update_card(folder: Path, judge: Judge, section: str, content: Mapping[str, Any]) -> Path:
    """Put `content` under `section` of the judge's card, made where there is none; its path."""
    place = card_folder(folder, judge)
    place.mkdir(parents=True, exist_ok=True)
    described = describe(judge)
    card = read_card(place) or {"card_version": CARD_VERSION}
    card |= {"judge": judge.name, **described}
    card[section] = {
        **content,
        "kardiabench": kardiabench.__version__,
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(place / CARD, card)
    (place / TEXT).write_text(card_text(card), "utf-8")
    return place / CARD
