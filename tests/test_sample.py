"""The embedded sample: what it promises, and that its texts were written one by one."""

from __future__ import annotations

import re
from collections import Counter
from difflib import SequenceMatcher
from itertools import combinations

import pytest

from kardiabench.dialogues import load
from kardiabench.emotions import EMOTIONS
from kardiabench.prompts import PromptPlan
from kardiabench.records import Dialogue
from kardiabench.rows import turns_of
from kardiabench.sources import open_sample
from kardiabench.spans import SPAN_NAMES, parse_spans

#: Two texts that share a tenth of their word trigrams share a phrase of about ten words in fifty.
#: The most alike of the sample share 1 in 28; a template with one slot refilled shares over half.
MOST_SHARED_TRIGRAMS = 0.10
#: Word for word, in order. By function words alone the most alike of the sample reach 0.24; a
#: template with one slot refilled has 0.8 and more.
MOST_ALIKE = 0.45


def dialogues(split: str = "all") -> list[Dialogue]:
    return list(load(open_sample("sample", split, None)))


SAMPLE = dialogues()
GOLD = [parse_spans(turn.gold) for dialogue in SAMPLE for turn in turns_of(dialogue)]
RESPONSES = [spans.response for spans in GOLD]
USERS = [m.content for dialogue in SAMPLE for m in dialogue.messages if m.role == "user"]


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:['\u2019][^\W_]+)*", text.casefold())


# --- shape ----------------------------------------------------------------------------------------


def test_there_is_one_dialogue_for_each_emotion():
    assert sorted(dialogue.emotion for dialogue in SAMPLE) == list(EMOTIONS)


def test_eight_personas_have_four_dialogues_each():
    assert sorted(Counter(d.persona_id for d in SAMPLE).values()) == [4] * 8
    assert len({d.profile for d in SAMPLE}) == 8
    assert len({d.id for d in SAMPLE}) == 32


def test_personas_differ_in_type_and_have_profiles_in_the_benchmarks_shape():
    profiles = {d.profile: d.mbti for d in SAMPLE}
    assert len(set(profiles.values())) >= 6
    for profile, mbti in profiles.items():
        heads = r"MBTI: (\w{4})\nAbout: .+\nSignature: .+\nRecent Activities:\n(- .+\n?){3,5}"
        found = re.fullmatch(heads, profile)
        assert found, profile
        assert found[1] == mbti


@pytest.mark.parametrize("dialogue", SAMPLE, ids=lambda d: d.emotion)
def test_a_dialogue_is_whole(dialogue):
    assert dialogue.system == PromptPlan("kardia").render(dialogue.profile, dialogue.situation)
    roles = [message.role for message in dialogue.messages[1:]]
    exchanges = len(roles) // 2
    assert roles == ["user", "assistant"] * exchanges
    assert 3 <= exchanges <= 5
    for turn in turns_of(dialogue):
        spans = parse_spans(turn.gold)
        assert (spans.problems, spans.dialect) == ((), "pipe")
        assert spans.emotion in EMOTIONS
        assert turn.gold_source == "span"
        outside = turn.gold
        for name in SPAN_NAMES:
            outside = outside.replace(f"<|{name}_begin|>{getattr(spans, name)}<|{name}_end|>", "")
        assert outside.strip() == ""


def test_every_length_of_dialogue_occurs():
    assert {len(turns_of(dialogue)) for dialogue in SAMPLE} == {3, 4, 5}


def test_in_some_dialogues_the_emotion_shifts_and_in_some_it_stays():
    emotions = [{turn.gold_emotion for turn in turns_of(dialogue)} for dialogue in SAMPLE]
    shifting = sum(len(found) > 1 for found in emotions)
    assert 8 <= shifting <= 24
    assert all(d.emotion in found for d, found in zip(SAMPLE, emotions, strict=True))


def test_responses_are_about_as_long_as_the_prompt_asks():
    lengths = sorted(len(response.split()) for response in RESPONSES)
    assert lengths[0] >= 15
    assert lengths[-1] <= 55
    assert sum(length > 45 for length in lengths) <= 15  # those about risk may say more
    assert 25 <= sum(lengths) / len(lengths) <= 40


# --- written one by one ---------------------------------------------------------------------------


def trigrams(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[at : at + 3]) for at in range(max(1, len(found) - 2))}


def shared_trigrams(one: str, other: str) -> float:
    first, second = trigrams(one), trigrams(other)
    return len(first & second) / len(first | second)


def alike(one: str, other: str) -> float:
    """How much of both word sequences agrees, in order; 0 where that can be told in advance."""
    matcher = SequenceMatcher(None, words(one), words(other), autojunk=False)
    return matcher.ratio() if matcher.quick_ratio() >= MOST_ALIKE else 0.0


def near_duplicates(texts: list[str]) -> list[tuple[str, str]]:
    return [
        pair
        for pair in combinations(texts, 2)
        if shared_trigrams(*pair) > MOST_SHARED_TRIGRAMS or alike(*pair) > MOST_ALIKE
    ]


def test_the_measure_finds_a_template_with_a_slot_refilled():
    text = RESPONSES[0]
    word = max(words(text), key=len)
    assert near_duplicates([text, text.replace(word, "umbrella")])
    assert near_duplicates([text, "Well, " + text.lower()])
    assert near_duplicates([text, " ".join(text.split()[: len(text.split()) * 2 // 3])])


@pytest.mark.parametrize(
    "texts",
    [RESPONSES, USERS, [s.understanding for s in GOLD], [s.reasoning for s in GOLD]],
    ids=["responses", "user messages", "understandings", "reasonings"],
)
def test_no_two_texts_of_a_kind_are_near_duplicates(texts):
    assert near_duplicates(texts) == []


def test_no_two_situations_or_profiles_are_near_duplicates():
    assert near_duplicates([dialogue.situation for dialogue in SAMPLE]) == []
    assert near_duplicates(sorted({dialogue.profile for dialogue in SAMPLE})) == []


def test_no_two_responses_begin_alike():
    openings = Counter(tuple(words(response)[:3]) for response in RESPONSES)
    assert openings.most_common(1)[0][1] == 1
    first_words = Counter(words(response)[0] for response in RESPONSES)
    assert first_words.most_common(1)[0][1] <= len(RESPONSES) / 10


@pytest.mark.parametrize(
    "phrase",
    ["sorry to hear", "it sounds like", "that must be", "i understand how", "as an ai", "valid"],
)
def test_the_stock_phrases_of_comfort_are_not_there(phrase):
    assert [response for response in RESPONSES if phrase in response.casefold()] == []


# --- splits ---------------------------------------------------------------------------------------


def test_train_and_test_share_no_persona_and_make_up_the_whole():
    train, test = dialogues("train"), dialogues("test")
    assert (len(train), len(test)) == (24, 8)
    assert not {d.persona_id for d in train} & {d.persona_id for d in test}
    assert {d.id for d in train} | {d.id for d in test} == {d.id for d in SAMPLE}
