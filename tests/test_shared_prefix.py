"""The runners of local models: the same replies as one at a time, read once, whatever happens."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from kardiabench.dialogues import load
from kardiabench.models.local import loading
from kardiabench.models.local.batching import Batcher
from kardiabench.models.local.chances import chances_of
from kardiabench.models.local.chat import ChatFormat, Prompt
from kardiabench.models.local.decoding import ReplyDecoder
from kardiabench.models.local.engine import Capacity, Engine
from kardiabench.models.local.jobs import (
    CancelledRunError,
    Job,
    Sampling,
    Written,
)
from kardiabench.models.local.planning import (
    Group,
    batches,
    distinct_tokens,
    plan,
)
from kardiabench.models.local.prefix_check import (
    can_share_prefixes,
    use_shared_prefixes,
)
from kardiabench.models.local.shared_prefix import SharedPrefixRunner
from kardiabench.models.local.turn_by_turn import TurnByTurnRunner
from kardiabench.prompts import PromptPlan
from kardiabench.records import ChatRequest, Completion, Message, Turn
from kardiabench.sources import open_sample

TOKENS = 10
ROOM = 200_000
#: A template whose prompts have no beginning in common: how many messages there are comes first.
COUNTING = (
    "{{ '<|im_start|>' * (messages | length) }}"
    "{% for message in messages | reverse %}{{ loop.length * loop.length }}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)
#: Qwen's, switched off: every prompt ends with an empty block that the next one has not.
NO_THINKING = "qwen3, no thinking"


@dataclass(frozen=True)
class Tiny:
    """A tiny model twice: as transformers runs it, and with the attention of the runner."""

    plain: Any
    shared: Any
    tokenizer: Any
    form: ChatFormat
    decoder: ReplyDecoder

    def jobs(self, turns: Sequence[Turn], tokens: int = TOKENS, **changes: Any) -> list[Job]:
        made = [self.form.prompt(short(turn)) for turn in turns]
        return [Job(prompt, self.decoder, tokens, **changes) for prompt in made]

    def runner(self, rows: int = 64, tokens: int = ROOM) -> SharedPrefixRunner:
        return SharedPrefixRunner(self.shared, rows, tokens)

    def one_by_one(self, jobs: Sequence[Job], **options: Any) -> list[list[int]]:
        """What `generate` writes for each prompt alone, greedily."""
        return [self._generated(job, options) for job in jobs]

    def _generated(self, job: Job, options: dict[str, Any]) -> list[int]:
        ids = torch.tensor([job.ids])
        out = self.plain.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=job.max_tokens,
            do_sample=False,
            **options,
        )
        return [int(token) for token in out[0, len(job.ids) :]]


def short(turn: Turn) -> list[Message]:
    """The turn's prompt with a short system prompt, for speed."""
    system = f"Be kind to them, and brief. {turn.dialogue.situation}"
    return [Message("system", system), *turn.history]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def tiny(folder: Path) -> Callable[..., Tiny]:
    """Makes, or has made, a tiny model."""
    made: dict[str, Tiny] = {}

    def make(family: str, template: str | None = tiny_models.FAMILY) -> Tiny:
        thinking = False if family == NO_THINKING else None
        key = f"{family} {template}"
        if key not in made:
            family = family.split(",", maxsplit=1)[0]
            path = folder / str(len(made))
            tiny_models.build(path, family, template=template, context=8192, layers=2)
            made[key] = _opened(path, thinking)
        return made[key]

    return make


def _opened(path: Path, thinking: bool | None) -> Tiny:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    plain, shared = (AutoModelForCausalLM.from_pretrained(path).eval() for _ in range(2))
    use_shared_prefixes(shared)
    form = ChatFormat(tokenizer, thinking)
    ends = loading.end_ids(plain.generation_config, tokenizer)
    decoder = ReplyDecoder(tokenizer, (*ends, *form.turn_ends), form.stops)
    return Tiny(plain, shared, tokenizer, form, decoder)


@pytest.fixture(scope="module")
def turns() -> list[Turn]:
    """The first turns of the sample's first two dialogues: three and two."""
    found = list(load(open_sample("sample", None, None)).turns())
    one, other = list(dict.fromkeys(turn.dialogue.id for turn in found))[:2]
    parts = ((one, 3), (other, 2))
    return [turn for name, most in parts for turn in of_dialogue(found, name)[:most]]


def of_dialogue(turns: Sequence[Turn], name: str) -> list[Turn]:
    return [turn for turn in turns if turn.dialogue.id == name]


def ids_of(written: Sequence[Written]) -> list[list[int]]:
    return [one.ids for one in written]


# --- the same replies ---------------------------------------------------------------------------


@pytest.mark.parametrize("family", [*tiny_models.FAMILIES, NO_THINKING])
def test_replies_are_those_of_plain_greedy_generation(
    tiny: Callable[..., Tiny], turns: list[Turn], family: str
) -> None:
    model = tiny(family)
    jobs = model.jobs(turns)
    plain = model.one_by_one(jobs)
    runner = model.runner()
    assert ids_of(runner.run(jobs)) == plain
    assert len({tuple(ids) for ids in plain}) > len(plain) / 2, "they do not depend on the prompt"
    assert runner.counts.batches == 1, "two dialogues were in one batch"


@pytest.mark.parametrize("family", [*tiny_models.FAMILIES, NO_THINKING])
def test_every_token_of_a_dialogue_is_read_once(
    tiny: Callable[..., Tiny], turns: list[Turn], family: str
) -> None:
    model = tiny(family)
    full = [model.form.prompt(PromptPlan().messages(turn)) for turn in turns]
    jobs = [Job(prompt, model.decoder, 1) for prompt in full]
    runner = model.runner()
    runner.run(jobs)
    longest: dict[str, int] = {}
    for turn, job in zip(turns, jobs, strict=True):
        longest[turn.dialogue.id] = max(longest.get(turn.dialogue.id, 0), len(job.ids))
    counts = runner.counts
    assert counts.computed <= 1.1 * sum(longest.values())
    assert counts.prompt == sum(len(job.ids) for job in jobs) > 1.9 * counts.computed
    assert counts.written == len(jobs)


@pytest.mark.parametrize("family", ["qwen2", "mistral", "gemma3_text"])
def test_it_makes_no_difference_what_is_run_together(
    tiny: Callable[..., Tiny], turns: list[Turn], family: str
) -> None:
    model = tiny(family)
    jobs = model.jobs(turns)
    together = ids_of(model.runner().run(jobs))
    few = model.runner(rows=2)
    assert ids_of(few.run(jobs)) == together
    assert few.counts.batches > 2
    small = model.runner(tokens=1500)
    assert ids_of(small.run(jobs)) == together
    assert small.counts.batches > 1
    backwards = model.runner().run(jobs[::-1])
    assert ids_of(backwards)[::-1] == together
    assert [ids_of(model.runner().run([job]))[0] for job in jobs[::3]] == together[::3]


def test_a_template_whose_prompts_share_nothing_is_as_right(
    tiny: Callable[..., Tiny], turns: list[Turn]
) -> None:
    model = tiny("qwen2", COUNTING)
    jobs = model.jobs(turns[:5])
    runner = model.runner()
    assert ids_of(runner.run(jobs)) == model.one_by_one(jobs)
    assert runner.counts.computed > 0.95 * runner.counts.prompt
    assert len(plan(jobs)) == len(jobs)


def test_replies_of_different_lengths_are_the_same_as_alone(
    tiny: Callable[..., Tiny], turns: list[Turn]
) -> None:
    """Rows end one after the other: the batch is packed while it runs, and grows beyond 64."""
    model = tiny("mistral")
    lengths = [1, 80, 3, 70, 2]
    jobs = [
        replace(job, max_tokens=length)
        for job, length in zip(model.jobs(turns), lengths, strict=True)
    ]
    written = model.runner().run(jobs)
    assert ids_of(written) == model.one_by_one(jobs)
    assert max(len(one.ids) for one in written) > 64


def test_a_prompt_asked_for_twice_is_answered_twice(
    tiny: Callable[..., Tiny], turns: list[Turn]
) -> None:
    model = tiny("llama")
    jobs = model.jobs([turns[0], turns[0]])
    one, other = ids_of(model.runner().run(jobs))
    assert one == other == model.one_by_one(jobs[:1])[0]


def test_no_job_is_no_work(tiny: Callable[..., Tiny]) -> None:
    assert tiny("qwen2").runner().run([]) == []


def test_a_prompt_of_a_token_or_two(tiny: Callable[..., Tiny]) -> None:
    model = tiny("qwen2")
    jobs = [Job(Prompt(ids, ""), model.decoder, 5) for ids in ((9,), (9, 8), (7,))]
    assert ids_of(model.runner().run(jobs)) == model.one_by_one(jobs)


# --- why a reply ends ---------------------------------------------------------------------------


def test_every_end_token_ends_a_reply_and_the_rest_run_out(
    tiny: Callable[..., Tiny], turns: list[Turn]
) -> None:
    model = tiny("qwen2")
    jobs = model.jobs(turns)
    whole = model.one_by_one(jobs, eos_token_id=[])
    ends = {whole[0][3], whole[4][4]}
    decoder = ReplyDecoder(model.tokenizer, sorted(ends))
    for runner in (model.runner(), TurnByTurnRunner(model.plain, 0)):
        written = runner.run([replace(job, decoder=decoder) for job in jobs])
        for one, ids in zip(written, whole, strict=True):
            place = next((n for n, token in enumerate(ids) if token in ends), None)
            assert one.finish_reason == ("length" if place is None else "stop")
            assert one.ids == (ids if place is None else ids[: place + 1])
        assert {one.finish_reason for one in written} == {"stop", "length"}
        assert len(written[0].ids) <= 4


def test_an_end_token_at_the_limit_is_a_stop(tiny: Callable[..., Tiny], turns: list[Turn]) -> None:
    model = tiny("qwen2")
    job = model.jobs(turns[:1], tokens=4)[0]
    last = model.one_by_one([job], eos_token_id=[])[0][-1]
    ending = replace(job, decoder=ReplyDecoder(model.tokenizer, [last]))
    for runner in (model.runner(), TurnByTurnRunner(model.plain, 0)):
        assert runner.run([ending])[0].finish_reason == "stop"


def test_the_plain_format_stops_at_a_text(tiny: Callable[..., Tiny], turns: list[Turn]) -> None:
    model = tiny("qwen2", None)
    assert model.form.kind == "plain"
    assert model.form.stops == ("\n\nSystem:", "\n\nUser:", "\n\nAssistant:")
    job = model.jobs(turns[:1], tokens=8)[0]
    whole = model.one_by_one([job], eos_token_id=[])[0]
    stop = model.decoder.whole(whole)[4:7]
    decoder = ReplyDecoder(model.tokenizer, [], [stop])
    assert decoder.text(whole) == model.decoder.whole(whole).partition(stop)[0]
    for runner in (model.runner(), TurnByTurnRunner(model.plain, 0)):
        (written,) = runner.run([replace(job, decoder=decoder)])
        assert written.finish_reason == "stop"
        assert written.ids == whole[: len(written.ids)]
        assert stop in decoder.whole(written.ids)
        assert stop not in decoder.whole(written.ids[:-1])


# --- how tokens are chosen ----------------------------------------------------------------------


def sampled(model: Tiny, turns: Sequence[Turn], **changes: Any) -> list[Job]:
    chosen = Sampling(**{"temperature": 1.3, "seed": 5, **changes})
    return model.jobs(turns, sampling=chosen)


def test_a_draw_depends_on_the_seed_and_the_prompt_alone(
    tiny: Callable[..., Tiny], turns: list[Turn]
) -> None:
    model = tiny("gemma3_text")
    jobs = sampled(model, turns[:4])
    together = ids_of(model.runner().run(jobs))
    assert ids_of(model.runner(rows=1).run(jobs)) == together
    assert ids_of(model.runner().run([jobs[2], *model.jobs(turns[3:])]))[0] == together[2]
    other = ids_of(model.runner().run(sampled(model, turns[:4], seed=6)))
    assert all(one != two for one, two in zip(together, other, strict=True))
    assert len({tuple(ids) for ids in together}) == len(together)


def test_without_a_seed_draws_differ(tiny: Callable[..., Tiny], turns: list[Turn]) -> None:
    model = tiny("qwen2")
    (job,) = sampled(model, turns[:1], seed=None)
    assert len({tuple(ids) for ids in ids_of(model.runner().run([job] * 4))}) == 4


@pytest.mark.parametrize("few", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}])
def test_a_draw_of_one_is_greedy(
    tiny: Callable[..., Tiny], turns: list[Turn], few: dict[str, float]
) -> None:
    model = tiny("qwen2")
    greedy = ids_of(model.runner().run(model.jobs(turns[:2])))
    assert ids_of(model.runner().run(sampled(model, turns[:2], **few))) == greedy
    one_by_one = TurnByTurnRunner(model.plain, 0)
    assert ids_of(one_by_one.run(sampled(model, turns[:2], **few))) == greedy


def test_draws_follow_the_models_chances(tiny: Callable[..., Tiny], turns: list[Turn]) -> None:
    model = tiny("qwen2")
    (job,) = model.jobs(turns[:1], tokens=1)
    with torch.inference_mode():
        logits = model.plain(torch.tensor([job.ids]), logits_to_keep=1).logits[0, -1]
    chances = (logits / 1.3).softmax(-1)
    drawn = [
        replace(job, sampling=Sampling(temperature=1.3, seed=seed, top_k=5)) for seed in range(400)
    ]
    tokens = [ids[0] for ids in ids_of(model.runner(rows=400).run(drawn))]
    best = chances.topk(5)
    assert set(tokens) <= set(best.indices.tolist())
    expected = best.values[0] / best.values.sum()
    seen = tokens.count(int(best.indices[0])) / len(tokens)
    assert abs(seen - float(expected)) < 0.1


def test_the_repetition_penalty_is_that_of_generate(
    tiny: Callable[..., Tiny], turns: list[Turn]
) -> None:
    model = tiny("llama")
    jobs = model.jobs(turns[:3], sampling=Sampling(repetition_penalty=1.6))
    expected = model.one_by_one(jobs, repetition_penalty=1.6)
    assert ids_of(model.runner().run(jobs)) == expected
    assert ids_of(TurnByTurnRunner(model.plain, 0).run(jobs)) == expected
    assert expected != model.one_by_one(jobs)


# --- turn by turn -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gemma2", "qwen3"])
def test_both_runners_give_the_same_replies_and_chances(
    tiny: Callable[..., Tiny], turns: list[Turn], family: str
) -> None:
    model = tiny(family)
    jobs = model.jobs(turns[:3], top=5)
    shared = model.runner().run(jobs)
    alone = TurnByTurnRunner(model.plain, model.tokenizer.pad_token_id).run(jobs)
    assert ids_of(shared) == ids_of(alone)
    for one, other in zip(shared, alone, strict=True):
        assert one.finish_reason == other.finish_reason
        ended = one.finish_reason == "stop"
        assert len(one.chances) == len(other.chances) == len(one.ids) - ended
        for mine, theirs in zip(one.chances, other.chances, strict=True):
            assert mine == pytest.approx(theirs, abs=1e-3)


def test_chances_are_log_probabilities_and_their_tokens_the_text(
    tiny: Callable[..., Tiny], turns: list[Turn]
) -> None:
    model = tiny("qwen2")
    (job,) = model.jobs(turns[:1], top=3)
    (written,) = model.runner().run([job])
    with torch.inference_mode():
        logits = model.plain(torch.tensor([job.ids]), logits_to_keep=1).logits[0, -1]
    best = logits.log_softmax(-1).topk(3)
    seen = sorted(written.chances[0].values(), reverse=True)
    assert seen == pytest.approx(best.values.tolist(), abs=1e-3)
    text = model.decoder.text(written.ids).strip()
    joined = chances_of(model.decoder, written.ids, written.chances, text)
    assert "".join(chance.token for chance in joined) == text


def test_one_at_a_time_seeds_are_kept_too(tiny: Callable[..., Tiny], turns: list[Turn]) -> None:
    model = tiny("qwen2")
    jobs = sampled(model, turns[:2])
    runner = TurnByTurnRunner(model.plain, 0)
    assert ids_of(runner.run(jobs)) == ids_of(runner.run(jobs[::-1]))[::-1]
    assert ids_of(runner.run(jobs)) != ids_of(runner.run(sampled(model, turns[:2], seed=6)))


# --- out of memory ------------------------------------------------------------------------------


class Cramped(SharedPrefixRunner):
    """Has no memory for more than `most` rows at a time."""

    most = 2
    error: type[Exception] = torch.OutOfMemoryError

    def forward(self, step: Any, ids: Any, positions: Any, *, logits: bool = True) -> Any:
        if logits and len(ids) > self.most:
            raise self.error("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().forward(step, ids, positions, logits=logits)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, RuntimeError])
def test_out_of_memory_the_batch_is_halved_and_the_run_goes_on(
    tiny: Callable[..., Tiny], turns: list[Turn], error: type[Exception]
) -> None:
    model = tiny("mistral")
    jobs = model.jobs(turns)
    runner = Cramped(model.shared, 64, ROOM)
    runner.error = error
    assert ids_of(runner.run(jobs)) == ids_of(model.runner().run(jobs))
    assert runner.counts.halvings == 2, "from 5 rows to 3 and to 2"
    assert runner.max_rows == 2
    assert runner.run(jobs)[0].ids, "and it remembers"
    assert runner.counts.halvings == 2


def test_memory_can_run_out_in_the_middle(tiny: Callable[..., Tiny], turns: list[Turn]) -> None:
    model = tiny("qwen2")
    jobs = model.jobs(turns)
    expected = ids_of(model.runner().run(jobs))
    calls = 0

    class Later(SharedPrefixRunner):
        def forward(self, *arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 7:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(*arguments, **options)

    runner = Later(model.shared, 64, ROOM)
    assert ids_of(runner.run(jobs)) == expected
    assert runner.counts.halvings == 1


def test_a_row_that_never_fits_fails_alone(tiny: Callable[..., Tiny], turns: list[Turn]) -> None:
    model = tiny("qwen2")
    jobs = model.jobs(turns[:3])
    large = len(jobs[-1].ids)

    class NoRoom(SharedPrefixRunner):
        def forward(self, step: Any, *arguments: Any, **options: Any) -> Any:
            if step.memory.trunk_slots >= large - 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(step, *arguments, **options)

    runner = NoRoom(model.shared, 64, ROOM)
    written = runner.run(jobs)
    assert [one.out_of_memory for one in written] == [False, False, True]
    assert ids_of(written[:2]) == ids_of(model.runner().run(jobs[:2]))
    assert written[2].ids == []


def test_other_errors_are_not_taken_for_want_of_memory(
    tiny: Callable[..., Tiny], turns: list[Turn]
) -> None:
    model = tiny("qwen2")

    class Broken(SharedPrefixRunner):
        def forward(self, *arguments: Any, **options: Any) -> Any:
            raise RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(RuntimeError, match="device-side"):
        Broken(model.shared, 64, ROOM).run(model.jobs(turns[:1]))


def test_turn_by_turn_a_prompt_without_room_fails_alone(
    tiny: Callable[..., Tiny], turns: list[Turn], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("qwen2")
    jobs = model.jobs(turns[:3], tokens=2)
    generate = model.plain.generate

    def cramped(ids: Any, **options: Any) -> Any:
        if ids.shape[1] == len(jobs[1].ids):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(ids, **options)

    monkeypatch.setattr(model.plain, "generate", cramped)
    written = TurnByTurnRunner(model.plain, 0).run(jobs)
    assert [one.out_of_memory for one in written] == [False, True, False]


def test_want_of_memory_is_an_error_of_the_turn_alone(
    tmp_path: Path, turns: list[Turn], monkeypatch: pytest.MonkeyPatch
) -> None:
    from kardiabench.contracts import ModelOptions
    from kardiabench.models.hf import build

    path = tiny_models.build(tmp_path / "own", "qwen2", context=8192, layers=1)
    requests = [ChatRequest(tuple(short(turn))) for turn in turns[:3]]
    forward = SharedPrefixRunner.forward

    def cramped(runner: Any, step: Any, *arguments: Any, **options: Any) -> Any:
        if step.memory.trunk_slots > 600:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(runner, step, *arguments, **options)

    async def complete() -> list[Completion]:
        model = build(f"hf/{path}", ModelOptions(max_tokens=2))
        try:
            return await model.complete(requests)
        finally:
            await model.aclose()

    monkeypatch.setattr(SharedPrefixRunner, "forward", cramped)
    done = asyncio.run(complete())
    assert [one.status == "error" for one in done] == [False, False, True]
    assert done[2].detail.startswith("memory: this prompt alone does not fit")
    assert done[2].usage.completion_tokens == 0


# --- giving up ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["shared", "alone"])
def test_a_run_that_nobody_waits_for_ends_between_two_tokens(
    tiny: Callable[..., Tiny], turns: list[Turn], kind: str
) -> None:
    model = tiny("qwen2")
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 4

    runner: Any = SharedPrefixRunner(model.shared, 64, ROOM, cancelled)
    if kind == "alone":
        runner = TurnByTurnRunner(model.plain, 0, cancelled)
    decoder = ReplyDecoder(model.tokenizer, [])
    with pytest.raises(CancelledRunError):
        runner.run([replace(job, decoder=decoder) for job in model.jobs(turns[:2], tokens=5000)])
    assert asked < 12


# --- planning -----------------------------------------------------------------------------------

_BASES = st.lists(st.integers(0, 5), min_size=40, max_size=150).map(tuple)


@st.composite
def prompts(draw: st.DrawFn) -> list[Job]:
    """Prompts that share beginnings of all lengths, some the same, some beginnings of others."""
    bases = draw(st.lists(_BASES, min_size=1, max_size=3))
    made = []
    for _ in range(draw(st.integers(1, 12))):
        base = draw(st.sampled_from(bases))
        own = draw(st.lists(st.integers(0, 5), max_size=40))
        ids = (*base[: draw(st.integers(0, len(base)))], *own) or (1,)
        made.append(job_of(ids, draw(st.sampled_from([1, 30, 4096]))))
    return made


def job_of(ids: Sequence[int], tokens: int = 30) -> Job:
    nobody: Any = None
    return Job(Prompt(tuple(ids), ""), nobody, tokens)


def places(groups: Sequence[Group]) -> list[int]:
    return sorted(row.place for group in groups for row in group.rows)


@given(prompts())
def test_every_prompt_is_in_one_group_and_begins_with_its_trunk(jobs: list[Job]) -> None:
    groups = plan(jobs)
    assert places(groups) == list(range(len(jobs)))
    for group in groups:
        assert len(group.trunk) == max(row.shared for row in group.rows)
        for row in group.rows:
            check_row(row, group, jobs)
    assert distinct_tokens(groups) <= sum(len(job.ids) for job in jobs)
    assert plan(jobs) == groups


def check_row(row: Any, group: Group, jobs: Sequence[Job]) -> None:
    ids = jobs[row.place].ids
    assert row.job is jobs[row.place]
    assert 0 <= row.shared < len(ids), "the last token is always a row's own"
    assert group.trunk[: row.shared] == ids[: row.shared]
    assert group.trunk[: row.shared] + row.own == ids


@given(prompts(), st.integers(1, 9), st.integers(20, 2000))
@example([job_of((1,) * 50, 1)] * 3 + [job_of((1,) * 50 + (2,) * 45, 30)] * 3, 4, 300)
def test_batches_keep_to_their_limits(jobs: list[Job], rows: int, tokens: int) -> None:
    made = list(batches(plan(jobs), rows, tokens))
    assert places([group for batch in made for group in batch]) == list(range(len(jobs)))
    for batch in made:
        for group in batch:
            assert len(group.trunk) == max(row.shared for row in group.rows)
            for row in group.rows:
                check_row(row, group, jobs)
        most = max(len(group.rows) for group in batch)
        if len(batch) * most == 1:
            continue  # one row alone is run whatever it takes
        assert len(batch) * most <= rows
        assert memory_of(batch) <= tokens


def memory_of(batch: Sequence[Group]) -> int:
    """Tokens that a batch keeps: its trunks as long as the longest, its rows likewise."""
    most = max(len(group.rows) for group in batch)
    own = max(len(r.own) + min(r.job.max_tokens, 512) for group in batch for r in group.rows)
    trunk = max(len(group.trunk) for group in batch)
    return len(batch) * trunk + len(batch) * most * own


def test_dialogues_are_groups_of_their_own() -> None:
    one, other = tuple(range(400)), tuple(range(40)) + tuple(range(1000, 1400))
    jobs = [job_of(ids[:length]) for length in (150, 250, 390) for ids in (one, other)]
    groups = plan(jobs)
    assert [places([group]) for group in groups] == [[0, 2, 4], [1, 3, 5]]
    assert [len(group.trunk) for group in groups] == [389, 389]


# --- models that cannot -------------------------------------------------------------------------


def other_model(kind: str, **settings: Any) -> Any:
    """A tiny model of another architecture, its weights drawn wide."""
    from transformers import AutoConfig, AutoModelForCausalLM

    common: dict[str, Any] = {
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = AutoConfig.for_model(kind, **common | settings)
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for weights in model.parameters():
                if weights.dim() == 2:
                    weights.normal_(0.0, 0.3)
    return model


OTHERS: dict[str, dict[str, Any]] = {
    "mamba": {},
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 1},
    "bloom": {"n_layer": 2, "n_head": 4},
    "falcon": {"alibi": True},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "gpt_neox": {},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "phi": {},
    "phi3": {},
    "granite": {"attention_multiplier": 0.3},
    "olmo2": {},
    "cohere2": {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]},
    "gpt_oss": {"num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 8},
    "qwen2_moe": {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16},
    "mixtral": {"num_local_experts": 2, "sliding_window": 16},
    "qwen3_next": {
        "layer_types": ["linear_attention", "full_attention"],
        "head_dim": 8,
        "num_experts": 0,
    },
    "stablelm": {},
    "starcoder2": {"sliding_window": 16},
    "deepseek_v3": {
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 8,
        "num_key_value_heads": 4,
        "moe_intermediate_size": 16,
    },
    "smollm3": {},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_any_other_model_is_run_right_or_refused_with_a_reason(kind: str) -> None:
    model = other_model(kind, **OTHERS[kind])
    ids = tuple(int(n) for n in torch.randint(3, 300, (120,), generator=_seeded()))
    problem = can_share_prefixes(model, ids)
    if problem is not None:
        assert problem.startswith(("it ", "its ", "log "))
        assert "\n" not in problem
        return
    jobs = [job_of(ids[:length], 6) for length in (40, 80, 120)]
    decoder: Any = _NeverEnds()
    jobs = [replace(job, decoder=decoder) for job in jobs]
    alone = TurnByTurnRunner(model, 0).run(jobs)
    use_shared_prefixes(model)
    assert ids_of(SharedPrefixRunner(model, 8, ROOM).run(jobs)) == ids_of(alone)


class _NeverEnds:
    """Stands in for the decoder of a model without a tokenizer."""

    eos_ids: frozenset[int] = frozenset()

    def stopped(self, _ids: Sequence[int]) -> bool:
        return False


def _seeded() -> Any:
    return torch.Generator().manual_seed(1)


@pytest.mark.parametrize("kind", ["mamba", "bloom", "qwen3_next"])
def test_models_without_keys_and_values_by_position_are_refused(kind: str) -> None:
    assert can_share_prefixes(other_model(kind, **OTHERS[kind]), range(3, 123)) is not None


def test_wrong_attention_is_seen(
    tiny: Callable[..., Tiny], turns: list[Turn], monkeypatch: pytest.MonkeyPatch
) -> None:
    from kardiabench.models.local import prefix_attention

    model = tiny("qwen2")
    (job,) = model.jobs(turns[:1])
    assert can_share_prefixes(model.plain, job.ids) is None
    right = prefix_attention._of_rows

    def wrong(step: Any, shape: Any, query: Any, key: Any, value: Any) -> Any:
        return right(step, replace(shape, scale=shape.scale * 1.5), query, key, value)

    monkeypatch.setattr(prefix_attention, "_of_rows", wrong)
    problem = can_share_prefixes(model.plain, job.ids)
    assert problem is not None
    assert problem.startswith("log probabilities differ by")
    assert model.plain.config._attn_implementation == "sdpa", "it is as it was"


def engine_of(model: Tiny, **capacity: Any) -> Engine:
    loaded = loading.Loaded(model.plain, model.tokenizer, (), 0, 8192, "cpu", "float32")
    return Engine(loaded, Capacity(**capacity))


@pytest.fixture
def own_model(folder: Path, tmp_path: Path) -> Tiny:
    """A model that may be changed."""
    path = tiny_models.build(tmp_path / "own", "qwen2", context=8192, layers=2)
    return _opened(path, None)


def run_on(engine: Engine, jobs: Sequence[Job]) -> list[Written]:
    try:
        return asyncio.run(engine.run(jobs))
    finally:
        engine.batcher.close()


def test_the_engine_goes_turn_by_turn_and_says_so(
    own_model: Tiny,
    turns: list[Turn],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    jobs = own_model.jobs(turns[:2])
    expected = own_model.one_by_one(jobs)
    monkeypatch.setattr(type(own_model.plain), "_supports_attention_backend", False)
    engine = engine_of(own_model)
    assert ids_of(run_on(engine, jobs)) == expected
    assert isinstance(engine.runner, TurnByTurnRunner)
    assert capsys.readouterr().err == (
        "note: turns are generated one at a time, since prefixes cannot be shared: its attention "
        "is its own\n"
    )


def test_the_engine_shares_beginnings_without_a_word(
    own_model: Tiny, turns: list[Turn], capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = own_model.jobs(turns[:2])
    expected = own_model.one_by_one(jobs)
    engine = engine_of(own_model, rows=7)
    assert ids_of(run_on(engine, jobs)) == expected
    assert isinstance(engine.runner, SharedPrefixRunner)
    assert engine.runner.max_rows == 7
    assert engine.runner.max_tokens >= 4096
    assert capsys.readouterr().err == ""


def test_sharing_can_be_switched_off(
    own_model: Tiny, turns: list[Turn], capsys: pytest.CaptureFixture[str]
) -> None:
    engine = engine_of(own_model, prefix_sharing=False)
    run_on(engine, own_model.jobs(turns[:1], tokens=2))
    assert isinstance(engine.runner, TurnByTurnRunner)
    assert capsys.readouterr().err == ""


# --- callers ------------------------------------------------------------------------------------


class Machine:
    """Writes down what it is given; `hold` keeps it busy until it is set, or given up."""

    def __init__(self) -> None:
        self.ran: list[int] = []
        self.hold = threading.Event()
        self.hold.set()
        self.error: Exception | None = None
        self.batcher = Batcher(self.run)
        self.gave_up = 0

    def run(self, jobs: Sequence[Job]) -> list[Written]:
        self.ran.append(len(jobs))
        while not self.hold.is_set():
            if self.batcher.cancelled():
                self.gave_up += 1
                raise CancelledRunError
            time.sleep(0.002)
        if self.error is not None:
            raise self.error
        return [Written([job.ids[0]], "stop") for job in jobs]


@pytest.fixture
def machine() -> Iterator[Machine]:
    made = Machine()
    yield made
    made.hold.set()
    made.batcher.close()


async def ask(machine: Machine, *numbers: int) -> list[int]:
    written = await machine.batcher.submit([job_of([number]) for number in numbers])
    return [one.ids[0] for one in written]


async def soon(condition: Callable[[], object]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("it never happened")


def test_callers_are_run_together_and_get_their_own(machine: Machine) -> None:
    async def main() -> list[list[int]]:
        return await asyncio.gather(ask(machine, 1, 2), ask(machine, 3), ask(machine, 4, 5, 6))

    assert asyncio.run(main()) == [[1, 2], [3], [4, 5, 6]]
    assert machine.ran == [6]


def test_who_comes_while_it_runs_is_in_the_next_batch(machine: Machine) -> None:
    async def main() -> list[list[int]]:
        machine.hold.clear()
        first = asyncio.create_task(ask(machine, 1))
        await soon(lambda: machine.ran)
        others = [asyncio.create_task(ask(machine, number)) for number in (2, 3)]
        await asyncio.sleep(0.05)
        assert machine.ran == [1], "one batch at a time"
        machine.hold.set()
        return await asyncio.gather(first, *others)

    assert asyncio.run(main()) == [[1], [2], [3]]
    assert machine.ran == [1, 2]


def test_an_error_reaches_all_callers_and_the_next_is_served(machine: Machine) -> None:
    async def main() -> list[Any]:
        machine.error = ValueError("broken")
        asked = (ask(machine, 1), ask(machine, 2))
        failed = await asyncio.gather(*asked, return_exceptions=True)
        machine.error = None
        return [*failed, await ask(machine, 3)]

    one, other, after = asyncio.run(main())
    assert str(one) == str(other) == "broken"
    assert after == [3]


def test_a_batch_that_nobody_waits_for_is_given_up(machine: Machine) -> None:
    async def main() -> list[int]:
        machine.hold.clear()
        asked = [asyncio.create_task(ask(machine, number)) for number in (1, 2)]
        await soon(lambda: machine.ran)
        asked[0].cancel()
        await asyncio.sleep(0.05)
        assert not machine.batcher.cancelled(), "one still waits"
        asked[1].cancel()
        await soon(lambda: machine.gave_up)
        await asyncio.gather(*asked, return_exceptions=True)
        machine.hold.set()
        return await ask(machine, 3)

    assert asyncio.run(main()) == [3]
    assert machine.ran == [2, 1]


def test_one_who_left_early_does_not_hinder_the_other(machine: Machine) -> None:
    async def main() -> list[int]:
        gone = asyncio.create_task(ask(machine, 1))
        stays = asyncio.create_task(ask(machine, 2))
        await asyncio.sleep(0)
        gone.cancel()
        return await stays

    assert asyncio.run(main()) == [2]
    assert machine.ran == [1]


def test_a_loop_that_ends_frees_the_machine_for_the_next(machine: Machine) -> None:
    async def leaves() -> None:
        machine.hold.clear()
        task = asyncio.create_task(ask(machine, 1))
        await soon(lambda: machine.ran)
        assert not task.done()

    asyncio.run(leaves())  # the loop cancels what is left
    asyncio.run(soon(lambda: machine.gave_up))
    machine.hold.set()
    assert asyncio.run(ask(machine, 2)) == [2]
    assert asyncio.run(ask(machine, 3)) == [3]
    assert machine.gave_up == 1


def test_two_loops_at_once_do_not_give_each_others_batches_up(machine: Machine) -> None:
    """The batch of one loop is left while that of the other waits for the machine."""
    answers: list[list[int]] = []
    machine.hold.clear()

    async def leaves() -> None:
        task = asyncio.create_task(ask(machine, 1))
        await soon(lambda: machine.ran)
        other.start()
        await asyncio.sleep(0.2)
        task.cancel()
        await soon(lambda: machine.gave_up)

    other = threading.Thread(target=lambda: answers.append(asyncio.run(ask(machine, 2))))
    asyncio.run(leaves())
    machine.hold.set()
    other.join(10)
    assert answers == [[2]]


def test_closing_leaves_nobody_waiting(machine: Machine) -> None:
    async def main() -> object:
        machine.hold.clear()
        task = asyncio.create_task(ask(machine, 1))
        await soon(lambda: machine.ran)
        await asyncio.to_thread(machine.batcher.close)
        done = await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 5)
        return done[0]

    assert isinstance(asyncio.run(main()), BaseException)
