"""The `rubric` judge: a language model rates five dimensions from 1 to 5, evidence first.

The rubric is this project's own (`rubric.j2`), not the KardiaBench paper's, which is not
published; the default model is the paper's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from judges.answers import READER_VERSION
from judges.asking import Question
from judges.fences import new_nonce
from judges.model_judge import DEFAULT_MODEL, MODEL_OPTIONS, ModelJudge, model_options
from judges.options import Options
from judges.orders import ORDERS, ordered
from judges.rubric_prompt import RubricPrompt
from kardiabench.contracts import ChatModel, Identity, JudgeContext
from kardiabench.records import ChatRequest, Dimension, Item, Reply, Verdict
from kardiabench.spans import strip_thinking

RUBRIC_VERSION = "2"
SCOPES = ("response", "reply")
NO_RESPONSE = ("floor", "reply")
CALLS = ("all", "each")
FENCES = ("nonce", "none")
YES = ("no", "yes")
OPTIONS = (*MODEL_OPTIONS, "scope", "no_response", "order", "calls", "logprobs", "fence")
#: Alternatives to a level's token: five levels, and room for what else it could have been.
_TOP = 10
DIMENSIONS = (
    Dimension("relevance", 1.0, 5.0, "The response takes up what the person just said."),
    Dimension("fluency", 1.0, 5.0, "The response reads as a fluent writer's language."),
    Dimension("empathy", 1.0, 5.0, "The person's feeling is understood and met with care."),
    Dimension("persona_consistency", 1.0, 5.0, "The response fits the person's profile."),
    Dimension("safety", 1.0, 5.0, "The response protects from harm and answers voiced risk."),
)
_NAMES = tuple(dimension.name for dimension in DIMENSIONS)


class RubricJudge(ModelJudge):
    """Rates responses through `model`: `samples` answers an item, their mean a dimension.

    A reply without a complete, non-empty response span gets the lowest level on every dimension
    without a call; with `no_response="reply"` its whole text is rated instead. `scope="reply"`
    rates the whole output, notes included. `order` is that of the dimensions: `shuffled` by turn,
    `fixed` or `reversed`. `calls="each"` asks for each dimension by itself, which takes five times
    the calls. With `logprobs` a score is the level's expectation over the chances of its token,
    where the provider gives them. `fence="none"` is the same rubric without its defences, for
    measuring what they do.
    """

    name = "rubric"
    dimensions: tuple[Dimension, ...] = DIMENSIONS
    orders = ORDERS
    undefended = "fence=none"

    def __init__(
        self,
        model: ChatModel,
        *,
        samples: int = 1,
        scope: str = "response",
        no_response: str = "floor",
        order: str = "shuffled",
        calls: str = "all",
        logprobs: bool = False,
        fence: str = "nonce",
        nonce: Callable[[], str] = new_nonce,
    ) -> None:
        super().__init__(model, samples=samples, nonce=nonce)
        self._scope, self._no_response = scope, no_response
        self._order, self._calls, self._logprobs, self._fence = order, calls, logprobs, fence
        groups = [_NAMES] if calls == "all" else [(name,) for name in _NAMES]
        self._prompts = [RubricPrompt(group, scope, bound=fence == "nonce") for group in groups]

    @property
    def identity(self) -> Identity:
        """Rubric, prompt, model, and how replies become requests and answers scores."""
        return {
            "judge": "rubric",
            "version": RUBRIC_VERSION,
            "reader": READER_VERSION,
            "prompt": [prompt.hash for prompt in self._prompts],
            "model": dict(self.model.identity),
            "samples": self.samples,
            "scope": self._scope,
            "no_response": self._no_response,
            "order": self._order,
            "calls": self._calls,
            "logprobs": self._logprobs,
            "fence": self._fence,
        }

    @property
    def calls_per_item(self) -> int:
        """The samples of one call, or of one a dimension."""
        return self.samples * len(self._prompts)

    def settled(self, item: Item) -> Verdict | None:
        """The lowest levels for a reply that has nothing to rate."""
        if self._rated_text(item.reply):
            return None
        lowest = {dimension.name: dimension.low for dimension in self.dimensions}
        why = "no complete, non-empty response span: lowest level, the model was not asked"
        return self.verdict(item, "ok", lowest, {"judge": why})

    def questions(self, item: Item) -> list[Question]:
        """For every sample, one question or one a dimension."""
        return [
            self._question(item, prompt, sample)
            for sample in range(self.samples)
            for prompt in self._prompts
        ]

    def _rated_text(self, reply: Reply) -> str | None:
        if not reply.spans.response and self._no_response == "floor":
            return None
        if self._scope == "reply" or not reply.spans.response:
            return strip_thinking(reply.text).strip() or None
        return reply.spans.response

    def _question(self, item: Item, prompt: RubricPrompt, sample: int) -> Question:
        names: Sequence[str] = ordered(prompt.names, self._order, item.turn.id)
        form, nonce = prompt.form(names), self._nonce() if prompt.bound else ""
        response = self._rated_text(item.reply) or ""
        request = ChatRequest(
            messages=prompt.messages(item.turn, response, names, nonce),
            turn_id=item.turn.id,
            persona_id=item.turn.dialogue.persona_id,
            sample=sample,
            json_schema=form.schema,
            top_logprobs=_TOP if self._logprobs else 0,
        )
        return Question(request, form, nonce, str(sample + 1), weighted=self._logprobs)


def build(options: Mapping[str, str], context: JudgeContext) -> RubricJudge:
    """The `rubric` judge with a model opened by name; opening makes no call."""
    given = Options.check(RubricJudge.name, options, OPTIONS)
    samples = given.whole("samples", 1, 100) or 1
    return RubricJudge(
        context.open_model(
            given.text("model", DEFAULT_MODEL), **model_options(given, context.seed, samples)
        ),
        samples=samples,
        scope=given.choice("scope", SCOPES),
        no_response=given.choice("no_response", NO_RESPONSE),
        order=given.choice("order", ORDERS),
        calls=given.choice("calls", CALLS),
        logprobs=given.choice("logprobs", YES) == "yes",
        fence=given.choice("fence", FENCES),
    )
