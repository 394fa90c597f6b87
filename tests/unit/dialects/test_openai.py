"""The bodies of OpenAI's text APIs."""

import json

import pytest

from llmgen import dialects
from llmgen.dialects import Ask, End
from llmgen.errors import ConfigError


def body(api, **ask):
    return json.loads(dialects.get(api).frame(Ask(**ask)).fill(b"one two", 64))


def test_chat_streaming():
    assert body("chat", model="m") == {
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 64,
        "messages": [{"role": "user", "content": "one two"}],
    }


def test_chat_whole_answer_without_a_model():
    assert body("chat", stream=False) == {
        "stream": False,
        "max_tokens": 64,
        "messages": [{"role": "user", "content": "one two"}],
    }


def test_completions():
    assert body("completions", model="m") == {
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 64,
        "prompt": "one two",
    }


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_exact_output_and_another_field(api):
    found = body(api, exact_output=True, max_tokens_field="max_completion_tokens")
    assert (found["max_completion_tokens"], found["min_tokens"], found["ignore_eos"]) == (64, 64, True)
    assert "max_tokens" not in found


def test_overrides_reach_inside():
    found = body("chat", overrides={"stream_options": {"continuous_usage_stats": True}, "temperature": 0})
    assert found["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert found["temperature"] == 0
    assert body("chat", overrides={"stream_options": None}).keys() == {"stream", "max_tokens", "messages"}


@pytest.mark.parametrize(("api", "prompt"), [("chat", "messages"), ("completions", "prompt")])
def test_the_prompt_is_ours(api, prompt):
    with pytest.raises(ConfigError, match=rf"workload\.body\.{prompt}"):
        body(api, overrides={prompt: []})


def test_names_with_quotes_are_escaped():
    assert body("chat", model='a"b\\ü')["model"] == 'a"b\\ü'


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_what_the_core_needs(api):
    dialect = dialects.get(api)
    assert (dialect.name, dialect.scanner) == (api, api)
    assert dialect.path.startswith("/v1/")
    assert End.done in dialect.end
    assert End.finish in dialect.end


def test_an_unknown_api_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"target\.api='chatt'.*chat, completions"):
        dialects.get("chatt")
