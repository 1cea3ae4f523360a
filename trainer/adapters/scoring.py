"""What the engines' reward functions have in common: a turn's id and a reply in, a composite out.

The recipe of `python -m trainer grpo` says what is judged, by whom and how; the environment says
which: `KARDIABENCH_RECIPE` (a file, or the name of a built-in one) and, if needed,
`KARDIABENCH_OVERRIDES` (`key=value …`, as on the command line).
"""

from __future__ import annotations

import os
import shlex
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from kardiabench.contracts import LocalOptions
from kardiabench.errors import ConfigError, PreflightError, ScoringError
from kardiabench.models.local.loading import end_ids, read_files
from kardiabench.plugins import load_registry
from kardiabench.prompts import PromptPlan
from kardiabench.records import Item, Scorecard, Turn
from kardiabench.spans import SPAN_NAMES
from trainer.data import TrainingData, open_data
from trainer.rewards import component_scores
from trainer.scorers import Scorers, open_scorers
from trainer.scoring_thread import GRACE, ScoringThread
from trainer.texts import Texts

if TYPE_CHECKING:
    from trainer.config import Grpo

RECIPE, OVERRIDES = "KARDIABENCH_RECIPE", "KARDIABENCH_OVERRIDES"
_TAGS = tuple(f"<|{name}_{end}|>" for name in SPAN_NAMES for end in ("begin", "end"))


@dataclass(frozen=True, slots=True)
class Scored:
    """A candidate's composite, and every judge's mean scaled score, all in [0, 1].

    A part is None only where the recipe says that a missing judgement counts as zero.
    """

    composite: float
    parts: Mapping[str, float | None]


class Adapter:
    """The Scorer of a recipe, for replies as an engine hands them over. Threads may share it.

    An engine has no way to leave a candidate out, so a missing judgement raises `ScoringError`
    unless the recipe has `judging.on_missing: zero`. Each way of scoring takes one turn id a reply.
    """

    def __init__(self, data: TrainingData, texts: Texts, scorers: Scorers) -> None:
        self.data = data
        self.texts = texts
        self._scorers = scorers
        self._thread = ScoringThread(
            partial(scorers.fresh, breaker=False), scorers.limit + GRACE, _warn
        )
        self._reading = threading.Lock()  # a tokenizer may be used by one thread at a time

    @classmethod
    def of(cls, stage: Grpo) -> Adapter:
        """The adapter of a recipe; raises a `KardiaBenchError` for what cannot be opened."""
        registry = load_registry([str(path) for path in stage.plugins])
        data = open_data(stage.data, stage.held_out, registry, compare_texts=False)
        scorers = open_scorers(stage, stage.judging, warn=_warn, registry=registry)
        return cls(data, read_texts(stage), scorers)

    def of_ids(
        self,
        turn_ids: Sequence[str],
        ids: Sequence[Sequence[int]],
        finished: Sequence[bool | None] | None = None,
    ) -> list[Scored]:
        """Score replies by their token ids, without padding.

        `finished` says that a reply came to its end, where its end token is not among the ids.
        """
        ends = [None] * len(ids) if finished is None else finished
        with self._reading:
            items = [self._item(*row) for row in zip(turn_ids, ids, ends, strict=True)]
        return self._scored(items)

    def of_texts(self, turn_ids: Sequence[str], texts: Sequence[str]) -> list[Scored]:
        """Score replies by texts that have their special tokens, an end token too."""
        return self.of_ids(turn_ids, self._all_encoded(texts))

    def of_stripped(
        self, turn_ids: Sequence[str], texts: Sequence[str], instead: str
    ) -> list[Scored]:
        """Score replies by texts without special tokens, all of which count as finished.

        Raises `PreflightError` where the span tags are special tokens, since they would be gone;
        `instead` says what to do about it.
        """
        if self.tags_are_special:
            raise PreflightError(
                "the span tags are special tokens of this tokenizer, and the engine deletes those "
                f"from the texts that it hands over: every reward would be 0; {instead}"
            )
        return self.of_ids(turn_ids, self._all_encoded(texts), [True] * len(texts))

    @cached_property
    def tags_are_special(self) -> bool:
        """Whether decoding without special tokens loses the span tags."""
        tokenizer = self.texts.format.tokenizer
        return any(
            tag not in tokenizer.decode(self._encoded(tag), skip_special_tokens=True)
            for tag in _TAGS
        )

    def turn(self, turn_id: str) -> Turn:
        """The turn of an id; raises `ConfigError` for one that the recipe's data lack."""
        turn = self.data.turns.get(turn_id)
        if turn is None:
            raise ConfigError(
                f"there is no turn {turn_id!r} in the data of {RECIPE}; export the engine's rows "
                "anew with this recipe"
            )
        return turn

    def decoded_again(self, text: str) -> str:
        """What `text` is once it was token ids, special tokens kept."""
        with self._reading:
            ids = self._encoded(text)
            again: str = self.texts.format.tokenizer.decode(ids, skip_special_tokens=False)
        return again

    def close(self) -> None:
        """End the judges' thread and close the cache."""
        self._thread.close()
        self._scorers.close()

    def _item(self, turn_id: str, ids: Sequence[int], finished: bool | None) -> Item:
        turn, whole = self.turn(turn_id), list(ids)
        if finished and not set(whole[-1:]) & set(self.texts.eos_ids):
            whole.append(self.texts.end_id)
        return Item(turn, self.texts.reply(turn, whole))

    def _scored(self, items: Sequence[Item]) -> list[Scored]:
        future = self._thread.start("train", items)
        cards = self._thread.finish("train", future, items)
        return [self._whole(card) for card in cards]

    def _whole(self, card: Scorecard) -> Scored:
        if card.composite is None:
            failed = [v for v in card.verdicts if None in v.scores.values()]
            why = "; ".join(
                f"{v.judge} {v.status}: {' '.join(v.evidence.values())}" for v in failed
            )
            raise ScoringError(
                f"a candidate for turn {card.turn_id} has no reward ({why}), and this engine "
                "cannot leave it out; raise judging.judge_retries, or set judging.on_missing=zero"
            )
        return Scored(card.composite, component_scores(card, self._scorers.rewarded))

    def _all_encoded(self, texts: Sequence[str]) -> list[list[int]]:
        with self._reading:
            self._check_round_trip()
            return [self._encoded(text) for text in texts]

    def _encoded(self, text: str) -> list[int]:
        tokenizer = self.texts.format.tokenizer
        ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return ids

    def _check_round_trip(self) -> None:
        if self._unlike is not None:
            raise PreflightError(
                "this tokenizer does not give texts back as they were, so that they cannot be "
                f"judged as the policy wrote them ({self._unlike!r}); use an engine that hands "
                "over token ids"
            )

    @cached_property
    def _unlike(self) -> str | None:
        """What a gold reply becomes, where that is another text."""
        gold = next(iter(self.data.turns.values())).gold
        again = self.texts.format.tokenizer.decode(self._encoded(gold), skip_special_tokens=False)
        return None if again == gold else str(again)[:40]


def read_texts(stage: Grpo) -> Texts:
    """Prompts and replies of the recipe's model, by its tokenizer alone."""
    local = LocalOptions(revision=stage.model_revision, trust_remote_code=stage.trust_remote_code)
    tokenizer, _, generation = read_files(stage.model, local)
    return Texts(
        tokenizer,
        PromptPlan(stage.data.system_prompt, content=stage.data.history_content),
        end_ids(generation, tokenizer),
        thinking=stage.thinking,
        max_prompt_tokens=stage.max_prompt_tokens,
    )


def read_stage(recipe: str | None = None, overrides: Sequence[str] = ()) -> Grpo:
    """The recipe, else that of the environment; raises `ConfigError`."""
    from trainer.config import Grpo
    from trainer.recipe_files import load_stage

    name = recipe or os.environ.get(RECIPE)
    if not name:
        raise ConfigError(
            f"the reward function does not know its recipe; set {RECIPE} to the YAML file of a "
            "GRPO stage, for every worker of the engine"
        )
    given = (*shlex.split(os.environ.get(OVERRIDES, "")), *overrides)
    stage = load_stage("grpo", name, given)
    if not isinstance(stage, Grpo):
        raise ConfigError(f"{name} is no recipe of a GRPO stage; give one")
    return stage


_opening = threading.Lock()
_opened: dict[tuple[str | None, str | None], Adapter] = {}


def shared() -> Adapter:
    """The adapter of the environment's recipe, opened once a process."""
    key = os.environ.get(RECIPE), os.environ.get(OVERRIDES)
    with _opening:
        if key not in _opened:
            _opened[key] = Adapter.of(read_stage())
        return _opened[key]


def _warn(sentence: str) -> None:
    sys.stderr.write(f"kardiabench: {sentence}\n")


def part_columns(scored: Sequence[Scored]) -> dict[str, list[float]]:
    """Every judge's parts by name, NaN where a judgement is missing."""
    names: dict[str, Any] = {name: None for one in scored for name in one.parts}
    return {
        name: [nan if (part := one.parts.get(name)) is None else part for one in scored]
        for name in names
    }


nan = float("nan")
