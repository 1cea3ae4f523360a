"""The parser of spans: what it finds, what it reports, and that no text can hurt it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kardiabench.spans import SPAN_NAMES, parse_any, parse_spans, render_spans, strip_thinking

PIECES = [
    *(f"<|{name}_{side}|>" for name in SPAN_NAMES for side in ("begin", "end")),
    *(f"<{slash}{name}>" for name in SPAN_NAMES for slash in ("", "/")),
    "<think>", "</think>", "<thinking>", "</thinking>",
    "<", ">", "|", "<|", "|>", "a", " ", "\n", "sad", "\0", "\ud800", "\u200b",
]  # fmt: skip
soup = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=40).map("".join)
#: Text that means nothing to the parser and is not changed by removing outer white space.
plain = st.text(min_size=1).filter(lambda t: t.strip() == t and not set("<>|") & set(t))
PROBLEM_KINDS = {"missing", "unclosed", "nested", "stray", "repeated", "empty"}


def render_xml(*values: str) -> str:
    return "".join(f"<{n}>{v}</{n}>" for n, v in zip(SPAN_NAMES, values, strict=True))


def values_of(spans) -> tuple[str | None, ...]:
    return tuple(getattr(spans, name) for name in SPAN_NAMES)


GOOD = ("They hurt.", "It says so.", "sad", "I am here.")


@given(soup)
@settings(max_examples=500)
def test_any_text_is_read_without_an_error(text):
    spans = parse_spans(text)
    assert list(spans.problems) == sorted(set(spans.problems))
    for problem in spans.problems:
        kind, _, name = problem.partition(":")
        assert problem == "order" or (kind in PROBLEM_KINDS and name in SPAN_NAMES)
    for value in values_of(spans):
        assert value is None or (value == value.strip() and value in strip_thinking(text))
    assert spans.complete == (not spans.problems)
    if spans.complete:
        assert all(values_of(spans))


@given(soup)
def test_the_short_way_reads_what_the_long_way_reads(text):
    assert parse_spans(text) == parse_any(text)


@given(st.lists(st.text(alphabet="ab \n\x1c\u2003>|", max_size=4), min_size=9, max_size=9))
def test_the_short_way_reads_the_same_between_and_within_spans(texts):
    tags = [f"<|{name}_{side}|>" for name in SPAN_NAMES for side in ("begin", "end")]
    text = "".join(a + b for a, b in zip(texts, [*tags, ""], strict=True))
    assert parse_spans(text) == parse_any(text)


@given(soup)
def test_thinking_is_removed_for_good(text):
    stripped = strip_thinking(text)
    assert parse_spans(stripped) == parse_spans(text) or "think" in stripped
    assert len(stripped) <= len(text)


@given(st.tuples(plain, plain, plain, plain))
def test_rendered_spans_are_read_back(values):
    spans = parse_spans(render_spans(*values))
    assert (values_of(spans), spans.problems, spans.dialect) == (values, (), "pipe")


@given(st.tuples(plain, plain, plain, plain))
def test_the_dialect_of_the_dataset_card_is_read_back(values):
    spans = parse_spans(render_xml(*values))
    assert (values_of(spans), spans.problems, spans.dialect) == (values, (), "xml")


def test_white_space_and_words_around_the_spans_do_not_count():
    text = (
        "Sure!\n" + "\n\n".join(f"<|{n}_begin|>\n {n} \n<|{n}_end|>" for n in SPAN_NAMES) + "\nok"
    )
    spans = parse_spans(text)
    assert values_of(spans) == SPAN_NAMES
    assert spans.complete


# --- problems -------------------------------------------------------------------------------------


def test_a_reply_without_tags_lacks_all_four_spans():
    spans = parse_spans("I am sorry.")
    assert spans.problems == tuple(sorted(f"missing:{name}" for name in SPAN_NAMES))
    assert spans.dialect is None


@pytest.mark.parametrize("name", SPAN_NAMES)
@pytest.mark.parametrize("render", [render_spans, render_xml])
def test_each_kind_of_problem_is_told_of_each_span(name, render):
    text = render(*GOOD)
    begin, end = (
        (f"<|{name}_begin|>", f"<|{name}_end|>")
        if render is render_spans
        else (f"<{name}>", f"</{name}>")
    )
    value = GOOD[SPAN_NAMES.index(name)]
    whole = begin + value + end
    cases = {
        text.replace(whole, ""): f"missing:{name}",
        text.replace(whole, begin + value): f"unclosed:{name}",
        text.replace(whole, value + end): f"stray:{name}",
        text.replace(whole, f"{begin} \n {end}"): f"empty:{name}",
        text + whole: f"repeated:{name}",
    }
    for broken, problem in cases.items():
        spans = parse_spans(broken)
        assert problem in spans.problems
        assert len([p for p in spans.problems if p.startswith(problem.split(":")[0])]) == 1
        kept = problem.split(":")[0] == "repeated"
        assert getattr(spans, name) == (value if kept else "" if "empty" in problem else None)


def test_an_unclosed_span_alone_is_the_only_problem():
    cut_off = render_spans(*GOOD).removesuffix("<|response_end|>")
    spans = parse_spans(cut_off)
    assert spans.problems == ("unclosed:response",)
    assert spans.response is None
    assert spans.emotion == "sad"


def test_a_span_inside_another_breaks_the_outer_one_only():
    text = render_spans("a <|emotion_begin|>sad<|emotion_end|> b", "r", "angry", "ok")
    spans = parse_spans(text)
    assert spans.problems == ("nested:understanding", "order", "repeated:emotion")
    assert spans.understanding is None
    assert spans.emotion == "sad"
    assert spans.response == "ok"


def test_the_first_of_repeated_spans_counts():
    assert (
        parse_spans(render_spans(*GOOD) + "<|emotion_begin|>proud<|emotion_end|>").emotion == "sad"
    )


@pytest.mark.parametrize("order", [(1, 0, 2, 3), (3, 0, 1, 2), (0, 1, 3, 2)])
def test_spans_out_of_order_are_told_and_still_read(order):
    text = "".join(f"<|{SPAN_NAMES[i]}_begin|>{GOOD[i]}<|{SPAN_NAMES[i]}_end|>" for i in order)
    spans = parse_spans(text)
    assert spans.problems == ("order",)
    assert values_of(spans) == GOOD


def test_a_missing_span_does_not_put_the_others_out_of_order():
    text = render_spans(*GOOD).replace("<|reasoning_begin|>It says so.<|reasoning_end|>", "")
    assert parse_spans(text).problems == ("missing:reasoning",)


# --- dialects -------------------------------------------------------------------------------------


def test_tags_of_the_card_inside_a_span_stay_text():
    response = "Write <response>, then </emotion>, if you like."
    spans = parse_spans(render_spans("u", "r", "sad", response))
    assert spans.complete
    assert spans.response == response


def test_tags_of_the_dataset_inside_a_span_of_the_card_stay_text():
    response = "Write <|emotion_begin|>sad<|emotion_end|> or <|response_end|>."
    spans = parse_spans(render_xml("u", "r", "sad", response))
    assert spans.complete
    assert (spans.response, spans.dialect) == (response, "xml")


def test_a_planted_whole_reply_of_the_other_dialect_does_not_take_over():
    spans = parse_spans(render_spans("u", "r", "sad", render_xml("U", "R", "joyful", "score 5")))
    assert (spans.emotion, spans.dialect, spans.complete) == ("sad", "pipe", True)


def test_loud_reasoning_in_tags_of_the_card_does_not_spoil_the_reply_after_it():
    spans = parse_spans("<reasoning>Let me see.</reasoning>\n" + render_spans(*GOOD))
    assert (spans.dialect, spans.complete) == ("pipe", True)


def test_a_reply_that_mixes_dialects_is_read_in_that_of_the_dataset():
    spans = parse_spans("<understanding>u</understanding><|emotion_begin|>sad<|emotion_end|>")
    assert (spans.dialect, spans.emotion, spans.understanding) == ("pipe", "sad", None)


# --- thinking -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("<think>hm</think>answer", "answer"),
        ("<thinking>hm</thinking>answer", "answer"),
        ("hm, the template opened it</think>answer", "answer"),
        ("a<think>x</think>b<think>y</think>c", "abc"),
        ("answer<think>cut off", "answer"),
        ("<think>cut off", ""),
        ("<think>a<think>b</think>answer", "answer"),
        ("<think></think>answer", "answer"),
        ("I think so", "I think so"),
    ],
)
def test_thinking_goes(text, kept):
    assert strip_thinking(text) == kept


def test_spans_that_a_model_drafts_while_thinking_do_not_count():
    draft = render_spans("draft", "draft", "joyful", "draft")
    assert values_of(parse_spans(f"<think>{draft}</think>{render_spans(*GOOD)}")) == GOOD
    assert values_of(parse_spans(f"{draft}</think>{render_spans(*GOOD)}")) == GOOD
    assert parse_spans(f"<think>{draft}").problems == parse_spans("").problems


def test_a_reply_that_thinks_inside_a_span_loses_only_the_thought():
    spans = parse_spans(render_spans("u", "r", "<think>which?</think>sad", "ok"))
    assert spans.complete
    assert spans.emotion == "sad"


# --- time -----------------------------------------------------------------------------------------

HOSTILE = {
    "think": "<think>",
    "unthink": "</think>",
    "think both": "<think></think>",
    "begin": "<|response_begin|>",
    "end": "<|response_end|>",
    "begin end": "<|response_begin|>a<|response_end|>",
    "all begin": "".join(f"<|{name}_begin|>" for name in SPAN_NAMES),
    "all crossed": "".join(
        f"<|{name}_begin|></{name}><{name}><|{name}_end|>" for name in SPAN_NAMES
    ),
    "almost a tag": "<|response_begin",
    "angles": "<",
    "pipes": "<|",
    "xml": "<response>",
    "spaces": " ",
}


def seconds(text: str) -> float:
    start = time.process_time()
    parse_spans(text)
    return time.process_time() - start


def takes_linear_time(unit: str, small: int = 50_000, factor: int = 8) -> bool:
    """Whether a text `factor` times as long takes much less than its square times as long.

    Three tries, since a busy machine can make any one measurement slow but none fast.
    """
    short, long = (unit * (size // len(unit)) for size in (small, small * factor))
    limit = factor**2 / 2
    return any(
        seconds(long) < limit * max(min(seconds(short) for _ in range(3)), 1e-4) for _ in range(3)
    )


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_takes_linear_time(kind):
    assert takes_linear_time(HOSTILE[kind])


def test_many_of_one_span_before_another_take_linear_time():
    def soup(size: int) -> str:
        return "<|understanding_begin|>" * (size // 40) + "<|response_begin|>" * (size // 40)

    ratios = [seconds(soup(1_600_000)) / seconds(soup(200_000)) for _ in range(3)]
    assert min(ratios) < 32


@given(st.lists(st.sampled_from(PIECES), min_size=2, max_size=5).map("".join))
@settings(max_examples=20, deadline=None)
def test_soups_take_linear_time(unit):
    assert takes_linear_time(unit)
