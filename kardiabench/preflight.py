"""Checks made before anything is spent: keys, a tiny request, a judge that answers and parses."""

from __future__ import annotations

from collections.abc import Callable

from kardiabench.contracts import ChatModel, Judge
from kardiabench.dialogues import load
from kardiabench.errors import PreflightError
from kardiabench.records import Item, Reply
from kardiabench.scoring import JUDGED
from kardiabench.session import Session
from kardiabench.sources import open_sample


def check_keys(session: Session, *, generate: bool) -> None:
    """Raise `PreflightError` for the first key that is not set, before anything is sent."""
    if generate:
        _check_key(session.model)
    for model in session.judge_models.values():
        try:
            _check_key(model)
        except PreflightError as error:
            raise _judge_cannot_run(error) from error


async def check_format(session: Session) -> None:
    """Look at three turns as a local model gets them; raise `PreflightError` for a broken template.

    Models that are not local have no format that could be seen from here.
    """
    read = getattr(session.model, "chat_format", None)
    if read is None:
        return
    from kardiabench.inspection import broken, inspect_turn, probed_turns
    from kardiabench.models.local.chat import TemplateError

    form, decoder, context = await read()
    try:
        seen = [
            inspect_turn(
                form,
                decoder,
                turn,
                session.prompts.messages(turn),
                context=context,
                max_tokens=session.settings.max_tokens,
            )
            for turn in probed_turns(session.dialogues)
        ]
    except TemplateError as error:
        raise _broken_format(session, str(error)) from error
    problem = broken(seen)
    if problem is not None:
        raise _broken_format(session, problem)


def _broken_format(session: Session, problem: str) -> PreflightError:
    return PreflightError(
        f"the prompts of {session.model.name} are broken: {problem}; see them with `kardiabench "
        f"inspect-prompt --model {session.model.name}`, mend the model's chat template or "
        "tokenizer, or go on as it is with --skip-preflight"
    )


async def check_judges(session: Session) -> None:
    """Have every judge's model answer and every judge judge one reply of the sample.

    Raises `PreflightError` with the next step for the first that does not.
    """
    try:
        for model in session.judge_models.values():
            await model.preflight()
    except PreflightError as error:
        raise _judge_cannot_run(error) from error
    item = sample_item()
    for judge in session.scorer.judges:
        await _check_judge(judge, item, session)


def sample_item() -> Item:
    """The sample's first turn with its gold reply: our own text, so nothing gated is sent."""
    turn = next(load(open_sample("sample", None, None)).turns())
    return Item(turn, Reply(turn.id, turn.gold))


def _check_key(model: ChatModel) -> None:
    check: Callable[[], None] | None = getattr(model, "check_key", None)
    if check is not None:
        check()


def _judge_cannot_run(error: PreflightError) -> PreflightError:
    why = str(error).replace("--api-base", "--judge-api-base")  # the judge's own option
    return PreflightError(
        f"a judge cannot run: {why}; or use --judge-model for another rubric model, "
        "--no-rubric to leave the rubric out"
    )


async def _check_judge(judge: Judge, item: Item, session: Session) -> None:
    (verdict,) = await session.scorer.verdicts(judge, [item])
    if verdict.status not in JUDGED or (
        verdict.status == "partial" and None in verdict.scores.values()
    ):
        why = " ".join(verdict.evidence.values()) or "no reason given"
        raise PreflightError(
            f"judge {judge.name} did not judge a sample reply ({verdict.status}: {why}); "
            "mend it, choose another --judge or --judge-model, or leave it out"
        )
