"""The offline floors: what they train on, what they never see, and what they answer."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from rowdata import Row, exchange, gold, in_memory, make_row, write_rows

from kardiabench.contracts import ChatModel, ModelOptions, RowSource
from kardiabench.emotions import EMOTIONS
from kardiabench.errors import ConfigError, PluginError, PreflightError
from kardiabench.models.baseline import BaselineModel
from kardiabench.models.classifiers import MAX_FOLDS
from kardiabench.plugins import load_registry
from kardiabench.records import ChatRequest, Message
from kardiabench.rows import persona_id, read_row, turns_of
from kardiabench.spans import parse_spans

TOPICS = {
    "proud": ["my daughter won the chess final", "finished the marathon I trained for"],
    "lonely": ["nobody called all weekend", "the flat is silent since everyone moved"],
    "anxious": ["the exam is tomorrow and I can't sleep", "waiting for the scan results"],
}


def build(name: str, options: ModelOptions) -> ChatModel:
    return load_registry().open_model(name, options)


def row(person: str, emotion: str, *said: str) -> Row:
    messages = [message for text in said for message in exchange(text, gold(emotion))]
    return make_row(person=person, emotion=emotion, messages=messages)


def source(*rows: Row) -> RowSource:
    return in_memory(list(rows), {"name": "memory", "split": "train"})


def write(path: Path, *rows: Row) -> str:
    return str(write_rows(path, rows))


def ask(text: str, persona: str = "somebody else", *before: str) -> ChatRequest:
    messages = [Message("system", "be kind")]
    for earlier in before:
        messages += [Message("user", earlier), Message("assistant", "I see.")]
    return ChatRequest((*messages, Message("user", text)), persona_id=persona)


def emotions(model, *requests: ChatRequest) -> list[str | None]:
    completions = asyncio.run(model.complete(requests))
    assert {c.status for c in completions} == {"ok"}
    return [parse_spans(c.text).emotion for c in completions]


@pytest.fixture
def topics() -> RowSource:
    return source(
        *(row(f"person {n}", label, *said) for label, said in TOPICS.items() for n in range(3))
    )


@pytest.mark.parametrize("method", ["majority", "tfidf"])
def test_replies_are_well_formed_in_four_spans_and_free(method, topics):
    model = BaselineModel(method, lambda: topics)
    [completion] = asyncio.run(model.complete([ask("hello")]))
    assert parse_spans(completion.text).complete
    assert len((parse_spans(completion.text).response or "").split()) <= 30
    assert (completion.usage.calls, completion.usage.cost) == (1, 0.0)


def test_majority_names_the_commonest_label_and_the_first_in_the_alphabet_among_equals():
    rows = [row("a", "sad", "x"), row("b", "angry", "x", "y"), row("c", "sad", "x")]
    assert emotions(BaselineModel("majority", lambda: source(*rows)), ask("x")) == ["angry"]


def test_tfidf_tells_topics_apart_by_the_users_words(topics):
    model = BaselineModel("tfidf", lambda: topics)
    asked = [ask("another marathon finished"), ask("silent flat, nobody"), ask("the scan results")]
    assert emotions(model, *asked) == ["proud", "lonely", "anxious"]


def test_the_last_message_weighs_most_and_the_assistants_words_nothing(topics):
    model = BaselineModel("tfidf", lambda: topics)
    assert emotions(model, ask("waiting for the scan results", "x", "nobody called")) == ["anxious"]
    swayed = ChatRequest(
        (
            Message("user", "nobody called"),
            Message("assistant", "exam exam exam scan results"),
            Message("user", "all weekend"),
        )
    )
    assert emotions(model, swayed) == ["lonely"]


@pytest.mark.parametrize("method", ["majority", "tfidf"])
def test_a_persona_is_never_answered_from_its_own_rows(method):
    mine = [row("me", "jealous", "zebra zebra") for _ in range(5)]
    others = [row("you", "content", "tea"), row("they", "content", "zebra")]
    model = BaselineModel(method, lambda: source(*mine, *others))
    own, stranger = emotions(model, ask("zebra", persona_id("me")), ask("zebra zebra"))
    assert own == "content"
    assert stranger == "jealous"


def test_leaving_a_persona_out_equals_a_train_split_that_never_had_it():
    people = [
        row(f"person {n}", EMOTIONS[(n + k) % 5], f"word{(n * k) % 7} topic{k} w{n}", f"more{k}")
        for n in range(8)
        for k in range(6)
    ]
    model = BaselineModel("tfidf", lambda: source(*people))
    for n in (0, 3):
        without = [r for r in people if r["person"] != f"person {n}"]
        never = BaselineModel("tfidf", lambda without=without: source(*without))
        asked = [ask(f"word{k} topic{k} w{n}", persona_id(f"person {n}")) for k in range(7)]
        assert emotions(model, *asked) == emotions(never, *asked)


def test_many_known_personas_are_left_out_in_a_bounded_number_of_fits():
    people = [row(f"person {n}", EMOTIONS[n % 4], f"word{n % 4} w{n}") for n in range(60)]
    model = BaselineModel("tfidf", lambda: source(*people))
    emotions(model, *(ask("word1", persona_id(f"person {n}")) for n in range(60)))
    assert len(model._trained._fits) == MAX_FOLDS


def test_the_train_split_is_read_once(topics):
    opened = []
    model = BaselineModel("tfidf", lambda: opened.append(1) or topics)
    for _ in range(3):
        emotions(model, ask("hello"))
    assert model.identity["train"] == {"name": "memory", "split": "train"}
    assert opened == [1]


def test_the_same_requests_get_the_same_answers_from_a_new_model(topics):
    asked = [ask(f"{a} {b}") for said in TOPICS.values() for a in said for b in ("exam", "flat")]
    one, two = (BaselineModel("tfidf", lambda: topics) for _ in range(2))
    assert emotions(one, *asked) == emotions(two, *reversed(asked))[::-1]


@pytest.mark.parametrize(
    "rows",
    [
        [row("a", "sad", "x y"), row("b", "sad", "z z")],
        [row("a", "sad", "long words"), row("b", "sad", "!?"), row("c", "angry", "!?")],
    ],
    ids=["one label", "words of one persona only"],
)
def test_a_train_split_with_nothing_to_tell_apart_still_answers(rows):
    model = BaselineModel("tfidf", lambda: source(*rows))
    assert emotions(model, ask("hello", persona_id("a")), ask("", "b"))[1] == "sad"


@pytest.mark.parametrize("method", ["majority", "tfidf"])
def test_nobody_else_to_learn_from_is_an_error_of_the_turn(method):
    model = BaselineModel(method, lambda: source(row("me", "sad", "hello there")))
    [completion] = asyncio.run(model.complete([ask("hello", persona_id("me"))]))
    assert completion.status == "error"
    assert "--model-arg train=" in completion.detail


def test_bad_rows_are_done_without_unless_all_are_bad():
    good = row("a", "sad", "hello there")
    bad = {**good, "emotion": "sadd"}
    assert emotions(BaselineModel("majority", lambda: source(bad, good)), ask("x")) == ["sad"]
    for rows, reason in ([bad], r"mem\.jsonl line 1, field emotion"), ([], "has no rows"):
        model = BaselineModel("majority", lambda rows=rows: source(*rows))
        with pytest.raises(PreflightError, match=f"{reason}.*--model-arg train="):
            asyncio.run(model.preflight())
        assert asyncio.run(model.complete([ask("x")]))[0].status == "error"


def test_a_directory_is_trained_on_its_train_split(tmp_path):
    write(tmp_path / "train.jsonl", row("a", "proud", "we won"))
    write(tmp_path / "test.jsonl", row("b", "sad", "we lost"))
    model = build("baseline/majority", ModelOptions(dataset=str(tmp_path), split="test"))
    asyncio.run(model.preflight())
    assert emotions(model, ask("x")) == ["proud"]


def test_a_directory_without_a_train_split_names_the_argument(tmp_path):
    write(tmp_path / "test.jsonl", row("b", "sad", "we lost"))
    model = build("baseline/majority", ModelOptions(dataset=str(tmp_path)))
    with pytest.raises(PreflightError, match=r"baseline/majority cannot train.*--model-arg train="):
        asyncio.run(model.preflight())


def test_one_file_needs_the_argument_and_takes_it(tmp_path):
    test = write(tmp_path / "mine.jsonl", row("b", "sad", "we lost"))
    train = write(tmp_path / "other.jsonl", row("a", "proud", "we won"))
    with pytest.raises(ConfigError, match=r"mine\.jsonl is one file.*--model-arg train="):
        build("baseline/majority", ModelOptions(dataset=test))
    model = build("baseline/majority", ModelOptions(dataset=test, extra={"train": train}))
    assert emotions(model, ask("x")) == ["proud"]


def test_identity_follows_the_train_splits_content(tmp_path):
    options = ModelOptions(
        extra={"train": write(tmp_path / "t.jsonl", row("a", "proud", "we won"))}
    )
    before = build("baseline/tfidf", options).identity
    assert before == build("baseline/tfidf", options).identity
    write(tmp_path / "t.jsonl", row("a", "sad", "we lost"))
    assert build("baseline/tfidf", options).identity != before


def test_wrong_names_and_arguments_get_the_nearest():
    with pytest.raises(PluginError, match="'majority'"):
        build("baseline/majorty", ModelOptions())
    with pytest.raises(ConfigError, match="'train'"):
        build("baseline/majority", ModelOptions(extra={"trian": "x"}))


def test_the_sample_is_its_own_train_split_and_beats_nothing_by_cheating():
    from kardiabench.sources import open_sample

    turns = [
        turn for raw in open_sample("sample", None, None).rows() for turn in turns_of(read_row(raw))
    ]
    model = build("baseline/tfidf", ModelOptions(dataset="sample"))
    asked = [ChatRequest(turn.history, turn.id, turn.dialogue.persona_id) for turn in turns]
    found = emotions(model, *asked)
    right = sum(label == turn.gold_emotion for label, turn in zip(found, turns, strict=True))
    assert set(found) <= set(EMOTIONS)
    assert right < len(turns) / 2  # a classifier that saw the persona's rows gets nearly all


def test_sklearn_is_imported_only_when_it_is_needed():
    code = (
        "import sys; from kardiabench.plugins import load_registry;"
        "load_registry().open_model('baseline/tfidf');"
        "print([m for m in ('sklearn', 'numpy', 'datasets', 'litellm') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
