"""The judge cards that runs point to."""

from __future__ import annotations

import json
from collections.abc import Sequence

from kardiabench.card_text import card_text
from leaderboard.extract import Extract
from leaderboard.run_views import card_page
from leaderboard.views import CardView


def cards_of(extracts: Sequence[Extract]) -> list[CardView]:
    """Each card once: runs that keep different ones of a judge have a page each."""
    found: dict[str, CardView] = {}
    for extract in extracts:
        for judge, card in extract.cards.items():
            mark = str(card["fingerprint"])
            page = card_page(judge, card)
            source = page.removesuffix(".html") + ".json"
            if page not in found:
                content = json.dumps(card, indent=2, sort_keys=True, ensure_ascii=False)
                found[page] = CardView(judge, mark, page, card_text(card), source, content)
    return [found[page] for page in sorted(found)]
