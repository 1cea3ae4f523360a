"""Keys are cut out of what leaves the process, and refused where they would be written down."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kardiabench.errors import ConfigError
from kardiabench.redaction import redact, refuse_secrets, refuse_url_secrets

SECRET_NAMES = (
    "api_key", "apiKey", "api-key", "x-api-key", "OPENAI_API_KEY", "Authorization", "token",
    "Proxy-Authorization", "hf_token", "aws_session_token", "azure_ad_token", "accessToken",
    "aws_secret_access_key", "aws_access_key_id", "client_secret", "vertex_credentials",
    "password", "Cookie", "key", "Ocp-Apim-Subscription-Key",
)  # fmt: skip
PLAIN_NAMES = (
    "max_tokens", "max_completion_tokens", "budget_tokens", "min_tokens", "skip_special_tokens",
    "eos_token", "input_cost_per_token", "prompt_cache_key", "top_k", "stop_token_ids",
    "tokenizer", "keep_alive", "author", "reasoning_effort",
)  # fmt: skip


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_an_option_named_like_a_secret_is_refused_however_deep_it_lies(name):
    for options in ({name: "x"}, {"extra_headers": {name: "x"}}, {"a": [{"b": {name: ["x"]}}]}):
        with pytest.raises(ConfigError, match="environment variable") as caught:
            refuse_secrets(options, "--model-arg")
        assert repr(name) in str(caught.value)


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_an_option_that_only_sounds_like_a_secret_is_let_through(name):
    refuse_secrets({name: 5, "extra_body": {name: "x"}}, "--model-arg")


def test_a_secret_that_is_a_mapping_is_refused():
    with pytest.raises(ConfigError):
        refuse_secrets({"credentials": {"kind": "service"}}, "--model-arg")


def test_a_key_is_refused_whatever_its_option_is_called(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "very-secret-value")
    for value in ("very-secret-value", "Bearer abcdefghijk", "sk-proj-0123456789abcdefghij"):
        with pytest.raises(ConfigError) as caught:
            refuse_secrets({"extra_headers": {"x-mine": value}}, "--model-arg")
        assert value not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:word@host/v1",
        "http://user@host/v1",
        "https://host/v1?key=1",
        "https://host/v1#a",
        "host:8000/v1",
        "ftp://host/v1",
        "http://",
        "http://[::1",
    ],
)
def test_a_url_with_credentials_or_of_no_server_is_refused(url):
    with pytest.raises(ConfigError, match="--api-base"):
        refuse_url_secrets(url, "--api-base")


def test_the_error_about_credentials_does_not_repeat_them():
    with pytest.raises(ConfigError) as caught:
        refuse_url_secrets("http://user:hunter22@host/v1", "--api-base")
    assert "hunter22" not in str(caught.value)


def test_a_plain_url_or_none_is_let_through():
    refuse_url_secrets("http://127.0.0.1:8000/v1", "--api-base")
    refuse_url_secrets("https://[::1]:8000/v1", "--api-base")
    refuse_url_secrets(None, "--api-base")


def test_values_of_secret_variables_are_cut_out_longest_first(monkeypatch):
    monkeypatch.setenv("MY_KEY", "abcdefgh")
    monkeypatch.setenv("OTHER_TOKEN", "abcdefgh-and-more")
    monkeypatch.setenv("PLAIN", "not a secret")
    text = redact("abcdefgh-and-more abcdefgh not a secret")
    assert text == "[redacted] [redacted] not a secret"


def test_a_percent_encoded_key_is_cut_out(monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", "a/b+c=d&e")
    assert redact("GET /?key=a%2Fb%2Bc%3Dd%26e") == "GET /?key=[redacted]"


def test_what_is_shaped_like_a_key_is_cut_out():
    assert redact("key sk-proj-0123456789abcdefghij.") == "key [redacted]."
    assert redact("Authorization: Bearer abcdefghijk") == "Authorization: Bearer [redacted]"


def test_short_values_and_ordinary_words_stay(monkeypatch):
    monkeypatch.setenv("SHORT_KEY", "none")
    text = "none: skip_special_tokens_of_the_tokenizer is risk-free"
    assert redact(text) == text


def test_a_long_text_becomes_one_short_line():
    assert redact("a\n b\t c") == "a b c"
    assert len(redact("word " * 1000)) == 500
    assert redact("") == ""


@given(st.text(), st.text(alphabet="abcXYZ019_-+/=", min_size=8), st.text())
def test_no_key_survives_wherever_it_stands(before, key, after):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOME_API_KEY", key)
        assert key not in redact(f"{before}{key}{after}").replace("[redacted]", "|")
