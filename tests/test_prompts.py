"""What a model is sent: templates, history modes, and that data never become template source."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rundata import make_turn, say

from kardiabench import prompts as prompts_module
from kardiabench.emotions import EMOTIONS
from kardiabench.errors import ConfigError
from kardiabench.prompts import PromptPlan, in_own_words
from kardiabench.records import Message, Turn

HOSTILE = [
    "{{ 7*7 }}", "{% for x in y %}", "{# gone #}", "{% raw %}", "{{ profile }}", "}}", "{{",
    "<b>&amp;</b>", "</script>", "%s %(a)s {0} {profile}", "\\n $x `ls`", "line\nbreak",
]  # fmt: skip


def with_history(history: tuple[Message, ...]) -> Turn:
    turn = make_turn()
    return replace(turn, dialogue=replace(turn.dialogue, messages=history), end=len(history))


@pytest.fixture
def template(tmp_path):
    def write(source: str) -> PromptPlan:
        path = tmp_path / "prompt.j2"
        path.write_text(source, "utf-8")
        return PromptPlan(str(path))

    return write


# --- data are values ------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE)
def test_a_profile_is_never_template_source(text):
    prompt = PromptPlan("kardia").render(f"start {text} end", f"begin {text} stop")
    assert f"start {text} end" in prompt
    assert f"begin {text} stop" in prompt
    assert "49" not in prompt


@given(st.text(), st.text())
def test_any_profile_and_situation_stand_in_the_prompt_as_they_are(profile, situation):
    plan = PromptPlan("kardia")
    plain = plan.render("PROFILE", "SITUATION")
    expected = plain.replace("PROFILE", profile, 1)
    assert plan.render(profile, "SITUATION") == expected
    assert situation in plan.render("PROFILE", situation)


def test_our_template_names_all_spans_and_emotions_and_leaves_nothing_unfilled():
    prompt = PromptPlan("kardia").render("the profile", "the situation")
    for name in ("understanding", "reasoning", "emotion", "response"):
        assert f"<|{name}_begin|>" in prompt
        assert f"<|{name}_end|>" in prompt
    assert ", ".join(EMOTIONS) in prompt
    assert "{{" not in prompt
    assert f"about {prompts_module.RESPONSE_WORDS} words" in prompt


# --- templates of the user ------------------------------------------------------------------------


def test_a_file_may_use_all_four_variables(template):
    plan = template("{{profile}}|{{situation}}|{{emotions|length}}|{{response_words}}\n\n")
    assert plan.render("p", "s") == f"p|s|32|{prompts_module.RESPONSE_WORDS}"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ profil }}", "'profil' is undefined"),
        ("{% if mood %}x{% endif %}", "'mood' is undefined"),
        ("{{ profile.name }}", "has no attribute 'name'"),
        ("one\ntwo {{ profile", "line 2"),
        ("{% endfor %}", "endfor"),
        ("{{ profile | shout }}", "shout"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ profile + 1 }}", "concatenate"),
        ("{% include 'other' %}", "loader"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% for x in range(10**9) %}{% endfor %}", "range"),
        ("{{ " + "(" * 5000 + " }}", ""),
    ],
)
def test_a_template_that_cannot_be_used_is_told_before_anything_is_spent(template, source, words):
    plan = template(source)
    with pytest.raises(ConfigError) as caught:
        plan.check()
    sentence = str(caught.value)
    assert sentence.startswith(f"--system-prompt {plan.system}")
    assert words in sentence
    assert "profile, situation, emotions and response_words" in sentence


def test_a_template_that_is_not_there_or_not_text_is_told(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\0")
    for path in (tmp_path / "nowhere.j2", tmp_path, tmp_path / "binary"):
        with pytest.raises(ConfigError, match="not a readable text file"):
            PromptPlan(str(path)).check()


# --- which system prompt --------------------------------------------------------------------------


def test_the_rows_own_system_prompt_is_the_default():
    assert PromptPlan().system_prompt(make_turn().dialogue) == "You are kind."


def test_a_row_without_one_gets_ours():
    turn = make_turn()
    bare = replace(turn.dialogue, messages=turn.dialogue.messages[1:])
    ours = PromptPlan("kardia").render(bare.profile, bare.situation)
    assert PromptPlan().system_prompt(bare) == ours
    messages = PromptPlan().messages(replace(turn, dialogue=bare, end=1))
    assert [message.role for message in messages] == ["system", "user"]


def test_kardia_takes_the_place_of_the_rows_own(template):
    dialogue = make_turn().dialogue
    assert dialogue.profile in PromptPlan("kardia").system_prompt(dialogue)
    assert template("hi {{ profile }}").system_prompt(dialogue) == f"hi {dialogue.profile}"


# --- history --------------------------------------------------------------------------------------


def test_gold_history_ends_with_the_users_message():
    turn = make_turn("d0", 2)
    messages = PromptPlan().messages(turn)
    assert [m.role for m in messages] == ["system", *["user", "assistant"] * 2, "user"]
    assert messages[2].content == say()
    assert messages[-1].content == "d0 speaks, 2."


def test_the_reply_that_is_asked_for_is_never_in_the_prompt():
    turn = make_turn("d0", 1, gold="proud")
    own = list(turn.dialogue.messages)
    own[turn.end] = Message("assistant", "the gold reply")
    turn = replace(turn, dialogue=replace(turn.dialogue, messages=tuple(own)))
    messages = PromptPlan().messages(turn)
    assert "the gold reply" not in [message.content for message in messages]


def test_with_content_response_history_carries_only_what_was_said():
    turn = make_turn("d0", 1)
    messages = PromptPlan(content="response").messages(turn)
    assert [m.content for m in messages] == [
        "You are kind.", "d0 speaks, 0.", "I am here.", "d0 speaks, 1."
    ]  # fmt: skip


def test_a_reply_without_a_response_span_is_kept_whole():
    history = (Message("user", "hi"), Message("assistant", "plain words"), Message("user", "yes"))
    messages = PromptPlan(content="response").messages(with_history(history))
    assert [m.content for m in messages[1:]] == ["hi", "plain words", "yes"]


def test_a_users_tags_are_left_alone():
    history = (Message("user", "what is <response>this</response>?"),)
    messages = PromptPlan(content="response").messages(with_history(history))
    assert messages[-1] == history[0]


def test_own_words_are_the_datasets_questions_and_the_models_answers():
    turn = in_own_words(make_turn("d0", 2), ["my reply 0", "my reply 1"])
    assert [(m.role, m.content) for m in turn.history] == [
        ("user", "d0 speaks, 0."),
        ("assistant", "my reply 0"),
        ("user", "d0 speaks, 1."),
        ("assistant", "my reply 1"),
        ("user", "d0 speaks, 2."),
    ]


def test_a_turn_in_own_words_keeps_its_id_its_gold_and_its_system_prompt():
    gold = make_turn("d0", 2)
    turn = in_own_words(gold, ["mine", "mine too"])
    assert (turn.id, turn.gold, turn.gold_emotion) == (gold.id, gold.gold, gold.gold_emotion)
    assert turn.dialogue.system == gold.dialogue.system


def test_a_first_turn_in_own_words_is_the_users_message():
    assert in_own_words(make_turn(), []).history == (Message("user", "d0 speaks, 0."),)


def test_no_gold_reply_is_in_a_history_in_own_words():
    turn = in_own_words(make_turn("d0", 2), ["mine", "mine too"])
    assert say() not in [m.content for m in turn.history]


# --- the protocol ---------------------------------------------------------------------------------


def test_the_protocol_names_modes_and_hash_and_no_path(template):
    identity = template("hi").identity
    assert identity["system_prompt"] == "file"
    assert (identity["history"], identity["history_content"]) == ("gold", "spans")
    assert len(str(identity["system_prompt_hash"])) == 16
    assert not any("/" in str(value) for value in identity.values())


def test_the_hash_changes_with_the_template_and_not_with_its_place(template, tmp_path):
    one = template("hi {{ profile }}").identity
    copy = tmp_path / "copy.j2"
    copy.write_text("hi {{ profile }}")
    assert PromptPlan(str(copy)).identity == one
    assert template("hi {{ profile }}!").identity != one


def test_the_hash_changes_with_what_the_template_is_filled_with(monkeypatch):
    before = PromptPlan("kardia").identity
    monkeypatch.setattr(prompts_module, "RESPONSE_WORDS", 26)
    assert PromptPlan("kardia").identity != before


@pytest.mark.parametrize(
    "plan", [PromptPlan("kardia"), PromptPlan(history="free"), PromptPlan(content="response")]
)
def test_every_mode_is_in_the_protocol(plan):
    assert plan.identity != PromptPlan().identity


def test_a_file_called_like_a_mode_is_not_read_by_accident(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("kardia").write_text("not this")
    assert "not this" not in PromptPlan("kardia").render("p", "s")
    assert PromptPlan("./kardia").render("p", "s") == "not this"
