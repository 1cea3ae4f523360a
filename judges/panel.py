"""The `panel` judge: several models rate by the rubric, and the median of their scores counts.

Choose models of different families: judges like what their own family writes, and a panel of one
family likes it too (Verga et al. 2024, "Replacing Judges with Juries").
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import cached_property
from statistics import fmean, median, pstdev

from judges import rubric
from judges.options import Options
from judges.rubric import RubricJudge
from judges.verdicts import clip, skipped
from kardiabench.contracts import Identity, JudgeContext
from kardiabench.errors import ConfigError
from kardiabench.fingerprints import fingerprint
from kardiabench.records import Dimension, Item, Message, Usage, Verdict, VerdictStatus

PANEL_VERSION = "1"
#: Between the name of a member's model and its own server: `MODEL@http://…`.
_SERVER = "@http"
OPTIONS = ("models", *(name for name in rubric.OPTIONS if name != "model"))
#: What a panel without one judgement is called: what may pass by itself comes first.
_FAILURES: tuple[VerdictStatus, ...] = ("error", "refused", "unparsed")
_MOST_NOTE = 500


class PanelJudge:
    """Puts each item to all of `members`, a rubric judge by name, at the same time.

    A dimension's score is the median over the members that have one, in its own unit. A member that
    fails is left out and named in the evidence: the verdict is `partial` then, and fails only where
    every member did. `parts` keeps what each member said.
    """

    name = "panel"
    dimensions: tuple[Dimension, ...] = rubric.DIMENSIONS
    orders = RubricJudge.orders
    undefended = RubricJudge.undefended
    #: The members' models bound each call.
    time_limit = None

    def __init__(self, members: Mapping[str, RubricJudge]) -> None:
        self.labels = tuple(members)
        self.members = tuple(members.values())

    @property
    def identity(self) -> Identity:
        """Version, and the identity of every member."""
        members = [dict(member.identity) for member in self.members]
        return {"judge": "panel", "version": PANEL_VERSION, "members": members}

    @property
    def batch_size(self) -> int:
        """As many items at a time as the member that wants fewest: 1 where an API is asked."""
        return min(member.batch_size for member in self.members)

    def messages(self, item: Item) -> tuple[Message, ...]:
        """What the first member's model is sent for `item`; the others are sent the same."""
        return self.members[0].messages(item)

    async def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict an item, in order; all members judge at once."""
        columns = await asyncio.gather(*(member.judge(items) for member in self.members))
        return [
            self._verdict(item, dict(zip(self.labels, verdicts, strict=True)))
            for item, *verdicts in zip(items, *columns, strict=True)
        ]

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint(self.identity)

    def _verdict(self, item: Item, verdicts: Mapping[str, Verdict]) -> Verdict:
        if item.reply.status == "error":
            return skipped(self, item)
        note = _note(verdicts)
        return Verdict(
            turn_id=item.turn.id,
            judge=self.name,
            fingerprint=self._fingerprint,
            scores={d.name: _middle(_scores(verdicts, d.name)) for d in self.dimensions},
            status=_status([verdict.status for verdict in verdicts.values()]),
            evidence=_quotes(verdicts) | ({"judge": note} if note else {}),
            usage=Usage.total(verdict.usage for verdict in verdicts.values()),
            parts={label: dict(verdict.scores) for label, verdict in verdicts.items()},
        )


def build(options: Mapping[str, str], context: JudgeContext) -> PanelJudge:
    """The `panel` judge of `models=A+B+…`; opening its models makes no call.

    A member with a server of its own is written `MODEL@http://…`; `api_base` is that of the others.
    """
    given = Options.check(PanelJudge.name, options, OPTIONS)
    members = [_member(text) for text in given.values.get("models", "").split("+")]
    if len(members) < 2 or not all(model for model, _ in members):
        raise ConfigError(
            "judge 'panel' needs the option models with two or more models, joined by +; "
            "write for example panel:models=openai/gpt-5-mini+anthropic/claude-sonnet-4-5"
        )
    shared = {name: value for name, value in options.items() if name != "models"}
    asked = [(model, server or shared.get("api_base", "")) for model, server in members]
    twice = next((model for at, (model, _) in enumerate(asked) if asked[at] in asked[:at]), None)
    if twice is not None:
        raise ConfigError(
            f"judge 'panel' has {twice!r} twice on one server, which is no second opinion; "
            "use another model, or samples for more answers of the same"
        )
    judges = [
        rubric.build(shared | {"model": model} | ({"api_base": at} if at else {}), context)
        for model, at in asked
    ]
    return PanelJudge(dict(zip(_labels([model for model, _ in asked]), judges, strict=True)))


def _member(text: str) -> tuple[str, str]:
    """The model and its own server, which may be empty."""
    model, mark, rest = text.strip().partition(_SERVER)
    return model.strip(), mark[1:] + rest


def _labels(models: Sequence[str]) -> list[str]:
    """The models' names; one that stands on several servers is numbered. Addresses stay out."""
    return [
        model if models.count(model) == 1 else f"{model} {models[: at + 1].count(model)}"
        for at, model in enumerate(models)
    ]


def _scores(verdicts: Mapping[str, Verdict], dimension: str) -> list[float]:
    found = (verdict.scores[dimension] for verdict in verdicts.values())
    return [score for score in found if score is not None]


def _middle(scores: Sequence[float]) -> float | None:
    return median(scores) if scores else None


def _status(statuses: Sequence[VerdictStatus]) -> VerdictStatus:
    if all(status == "ok" for status in statuses):
        return "ok"
    if any(status in ("ok", "partial") for status in statuses):
        return "partial"
    return next(status for status in _FAILURES if status in statuses)


def _quotes(verdicts: Mapping[str, Verdict]) -> dict[str, str]:
    """For each dimension what the first member that gave evidence quotes."""
    quotes: dict[str, str] = {}
    for verdict in verdicts.values():
        for name, text in verdict.evidence.items():
            if name != "judge":
                quotes.setdefault(name, text)
    return quotes


def _note(verdicts: Mapping[str, Verdict]) -> str:
    """`A 4, B 4.4; sd empathy 1.00; C error: timeout`: where members differ, and what failed.

    Each member's mean score, and the standard deviation of the population of members.
    """
    if all(v.status == "ok" and not v.usage.calls for v in verdicts.values()):
        # Nothing was asked: where there is no response, every member says the same.
        return next(iter(verdicts.values())).evidence.get("judge", "")
    spread = _spread(verdicts)
    notes = [", ".join(_means(verdicts)), ", ".join(spread)] if spread else []
    notes += [
        f"{label} {verdict.status}: {clip(verdict.evidence.get('judge', ''), 150)}"
        for label, verdict in verdicts.items()
        if verdict.status != "ok"
    ]
    return clip("; ".join(notes), _MOST_NOTE)


def _means(verdicts: Mapping[str, Verdict]) -> list[str]:
    scores = {
        label: [score for score in verdict.scores.values() if score is not None]
        for label, verdict in verdicts.items()
    }
    return [f"{label} {round(fmean(found), 2):g}" for label, found in scores.items() if found]


def _spread(verdicts: Mapping[str, Verdict]) -> list[str]:
    columns = {d.name: _scores(verdicts, d.name) for d in PanelJudge.dimensions}
    deviations = {name: pstdev(scores) for name, scores in columns.items() if len(scores) > 1}
    return [f"sd {name} {deviation:.2f}" for name, deviation in deviations.items() if deviation]
