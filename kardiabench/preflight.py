"""Checks made before anything is spent: keys, a tiny request, a judge that answers and parses."""

from __future__ import annotations

from kardiabench.contracts import Judge
from kardiabench.dialogues import load
from kardiabench.errors import PreflightError
from kardiabench.records import Item, Reply
from kardiabench.session import Session
from kardiabench.sources import open_sample


async def check_judges(session: Session) -> None:
    """Have every judge's model answer and every judge judge one reply of the sample.

    Raises `PreflightError` with the next step for the first that does not.
    """
    try:
        for model in session.judge_models.values():
            await model.preflight()
    except PreflightError as error:
        raise PreflightError(
            f"a judge cannot run: {error}; or use --judge-model for another rubric model, "
            "--no-rubric to leave the rubric out"
        ) from error
    item = sample_item()
    for judge in session.scorer.judges:
        await _check_judge(judge, item, session)


def sample_item() -> Item:
    """The sample's first turn with its gold reply: our own text, so nothing gated is sent."""
    turn = next(load(open_sample("sample", None, None)).turns())
    return Item(turn, Reply(turn.id, turn.gold))


async def _check_judge(judge: Judge, item: Item, session: Session) -> None:
    (verdict,) = await session.scorer.verdicts(judge, [item])
    if verdict.status != "ok":
        why = " ".join(verdict.evidence.values()) or "no reason given"
        raise PreflightError(
            f"judge {judge.name} did not judge a sample reply ({verdict.status}: {why}); "
            "mend it, choose another --judge or --judge-model, or leave it out"
        )
