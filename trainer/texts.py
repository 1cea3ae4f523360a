"""What a policy is shown and what its tokens say: the same two steps as the `hf/` backend's.

TRL decodes completions with special tokens stripped, which deletes the spans of a model whose
tokenizer has the tags as special tokens: every reward would be 0 without an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kardiabench.errors import PreflightError
from kardiabench.models.local.chat import ChatFormat, Prompt, TemplateError
from kardiabench.models.local.decoding import ReplyDecoder, completion_of
from kardiabench.prompts import PromptPlan
from kardiabench.records import ChatRequest, Reply, Turn
from kardiabench.shortening import noting_shortened, without_oldest

#: Prompts that are kept, which are shared by candidates and asked for twice a step.
_REMEMBERED = 256


class Texts:
    """Prompts of turns and replies from token ids, for one tokenizer.

    `eos_ids` are all ids that end a reply by the model's generation config and tokenizer; the
    template's own end of a turn is added. `max_prompt_tokens`: of longer prompts the oldest
    exchanges are left out.
    """

    def __init__(
        self,
        tokenizer: Any,
        plan: PromptPlan,
        eos_ids: Sequence[int],
        *,
        thinking: bool | None = None,
        max_prompt_tokens: int | None = None,
    ) -> None:
        self.format = ChatFormat(tokenizer, thinking)
        self.plan = plan
        self.max_prompt_tokens = max_prompt_tokens
        ends = (*eos_ids, *self.format.turn_ends)
        self.decoder = ReplyDecoder(tokenizer, ends, self.format.stops)
        self._made: dict[str, tuple[Prompt, int]] = {}

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """All ids that end a reply, in ascending order."""
        return tuple(sorted(self.decoder.eos_ids))

    @property
    def end_id(self) -> int:
        """The id that a trained reply ends with: the template's end of a turn, else EOS."""
        ends = self.format.turn_ends
        return ends[0] if ends else int(self.format.tokenizer.eos_token_id)

    def prompt(self, turn: Turn) -> Prompt:
        """The prompt of `turn`; raises `PreflightError` for what the template refuses."""
        return self._shortened(turn)[0]

    def reply(self, turn: Turn, ids: Sequence[int]) -> Reply:
        """What the completion `ids` say: special tokens kept, EOS and padding dropped.

        A template's prefill is put back, and thinking is kept apart. A reply that no end token and
        no stop ended is `truncated`.
        """
        prompt, left_out = self._shortened(turn)
        ended = any(number in self.decoder.eos_ids for number in ids[-1:])
        stopped = ended or self._is_stopped(ids)
        completion = completion_of(self.decoder, prompt, ids, "stop" if stopped else "length")
        if left_out:
            completion = noting_shortened(completion, left_out)
        return Reply.of(turn.id, completion)

    def _is_stopped(self, ids: Sequence[int]) -> bool:
        whole = self.decoder.whole(ids)
        return self.decoder.until_stop(whole) != whole

    def _shortened(self, turn: Turn) -> tuple[Prompt, int]:
        """The prompt, and how many exchanges were left out of it. A step's are remembered."""
        if turn.id not in self._made:
            if len(self._made) >= _REMEMBERED:
                self._made.clear()
            self._made[turn.id] = self._make(turn)
        return self._made[turn.id]

    def _make(self, turn: Turn) -> tuple[Prompt, int]:
        request = ChatRequest(self.plan.messages(turn), turn.id)
        shorter: ChatRequest | None = request
        left_out = 0
        while shorter is not None:
            prompt = self._render(shorter)
            if self.max_prompt_tokens is None or len(prompt.ids) <= self.max_prompt_tokens:
                return prompt, left_out
            left_out += 1
            shorter = without_oldest(request, left_out)
        raise PreflightError(
            f"turn {turn.id}: its system prompt and last message alone are longer than "
            f"{self.max_prompt_tokens} tokens; raise max_prompt_tokens"
        )

    def _render(self, request: ChatRequest) -> Prompt:
        try:
            return self.format.prompt(request.messages)
        except TemplateError as error:
            raise PreflightError(
                f"turn {request.turn_id}: {error}; give the model another chat template"
            ) from error
