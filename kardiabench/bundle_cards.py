"""What of a judge card is published: figures under known names, and sentences where ours stand.

The head (judge, fingerprint, identity, scales) is the manifest's, whatever the card says of it. In
the sections numbers and switches stay under names that are words; texts only under the names that
`judges check`, `attack` and `calibrate` put sentences or marks under. What else somebody wrote into
a card, a reply of a gated dataset say, stays behind.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from kardiabench.bundle_redaction import public_text, public_value
from kardiabench.cards import CARD_VERSION

#: The parts of each section, as those who measure write them.
_PARTS: Mapping[str, frozenset[str]] = {
    "check": frozenset(
        ("anchors", "bases", "items", "personas", "repeats", "judgements", "coverage", "usage",
         "checks", "findings", "unknown", "last_asked")
    ),
    "attack": frozenset(
        ("suite", "cases", "bases", "golds", "repeats", "least_rise", "usage", "verdict",
         "findings", "notes", "attacked", "families", "undefended_fingerprint",
         "undefended_verdict", "clean_shift", "clean_shift_reason", "last_asked")
    ),
    "calibration": frozenset(
        ("judge", "ratings", "scale", "items", "raters", "resamples", "dimensions", "halo",
         "calibration")
    ),
    "anchors": frozenset(("fingerprint", "repeats", "scores")),
}  # fmt: skip
#: Of every section.
_COMMON = frozenset(("measured", "kardiabench"))
#: Names under which a sentence of ours may stand, or a list or a group of them; and shorter marks.
_SENTENCES = frozenset(
    ("clean_shift_reason", "findings", "notes", "reason", "refused", "sentences", "unknown")
)
_MARKS = frozenset(
    ("anchors", "families", "fingerprint", "kardiabench", "last_asked", "measured", "name",
     "own_family", "result", "sha256", "suite", "target", "undefended_fingerprint",
     "undefended_verdict", "verdict")
)  # fmt: skip
#: Who rated, one by one, is nobody's business.
_PRIVATE = frozenset(("by_persona",))
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.#/+:-]{0,79}")
_SENTENCE, _MARK, _MOST, _DEEPEST = 500, 80, 2000, 8


def public_card(
    card: Mapping[str, Any], name: str, judge: Mapping[str, Any], secrets: Sequence[str] = ()
) -> dict[str, Any]:
    """What is published of the `card` of the judge `name`, whom the manifest describes as `judge`.

    `secrets` are cut out (`redaction.known_secrets`).
    """
    names = frozenset(str(dimension["name"]) for dimension in judge["dimensions"])
    sections = {
        section: _section(card[section], known | _COMMON, names, secrets)
        for section, known in _PARTS.items()
        if isinstance(card.get(section), Mapping)
    }
    head = {
        "card_version": CARD_VERSION,
        "judge": name,
        "fingerprint": judge["fingerprint"],
        "identity": judge["identity"],
        "smoke_test": bool(judge.get("smoke_test")),
        "dimensions": public_value(judge["dimensions"], secrets),
    }
    return head | sections


def _section(
    section: Mapping[str, Any],
    known: Collection[str],
    names: Collection[str],
    secrets: Sequence[str],
) -> dict[str, Any]:
    parts = {part: value for part, value in section.items() if part in known}
    return _Bare(names, secrets).group(parts, 0, 0)


@dataclass(frozen=True)
class _Bare:
    """Takes out of values what has no business in them. `names` are the judge's dimensions."""

    names: Collection[str]
    secrets: Sequence[str]

    def value(self, value: Any, longest: int, depth: int) -> Any:
        """A value with texts of up to `longest` characters; None for what is nothing then."""
        if isinstance(value, str):
            return public_text(value, self.secrets)[:longest] if longest else None
        if isinstance(value, bool | int):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        if depth < _DEEPEST and isinstance(value, list):
            parts = (self.value(part, longest, depth + 1) for part in value[:_MOST])
            return [part for part in parts if part is not None]
        if depth < _DEEPEST and isinstance(value, Mapping):
            return self.group(value, longest, depth + 1)
        return None

    def group(self, value: Mapping[Any, Any], longest: int, depth: int) -> dict[str, Any]:
        """Its parts under names that are words; texts where `longest` or their names allow them."""
        shown = {}
        for key, part in islice(value.items(), _MOST):
            if not isinstance(key, str) or key in _PRIVATE or not self._is_name(key):
                continue
            bare = self.value(part, _longest(key) or (longest if key in self.names else 0), depth)
            if bare is not None or part is None:
                shown[public_text(key, self.secrets)] = bare
        return shown

    def _is_name(self, key: str) -> bool:
        return key in self.names or _NAME.fullmatch(key) is not None


def _longest(key: str) -> int:
    return _SENTENCE if key in _SENTENCES else _MARK if key in _MARKS else 0
