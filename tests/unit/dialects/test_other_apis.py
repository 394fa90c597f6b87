"""The bodies of the APIs that are not OpenAI's text APIs, and what each can be asked."""

import json

import pytest

from llmgen import dialects
from llmgen.config import CustomApi, Klass, RunConfig, Target, Workload
from llmgen.dialects import Ask, End
from llmgen.dialects.dialect import WISHES
from llmgen.errors import ConfigError
from llmgen.wire.rules import DIALECTS as RULES
from llmgen.workload.mix import request_classes

MESSAGES = [{"role": "user", "content": "one two"}]


def body(api, **ask):
    return json.loads(dialects.get(api).frame(Ask(**ask)).fill(b"one two", 64))


@pytest.mark.parametrize(
    ("api", "wanted"),
    [
        ("responses", {"model": "m", "stream": True, "store": False, "max_output_tokens": 64, "input": "one two"}),
        ("messages", {"model": "m", "stream": True, "max_tokens": 64, "messages": MESSAGES}),
        ("ollama", {"model": "m", "stream": True, "options": {"num_predict": 64}, "messages": MESSAGES}),
        ("embeddings", {"model": "m", "input": "one two"}),
    ],
)
def test_bodies(api, wanted):
    assert body(api, model="m") == wanted
    whole = body(api, model="m", stream=False)
    assert whole.get("stream", False) is False
    assert "model" not in body(api)


def test_overrides_reach_the_options_of_ollama():
    found = body("ollama", overrides={"options": {"temperature": 0, "num_ctx": 4096}, "keep_alive": "5m"})
    assert found["options"] == {"num_predict": 64, "temperature": 0, "num_ctx": 4096}
    frame = dialects.get("ollama").frame(Ask(overrides={"options": {"num_predict": 5}}))
    assert (frame.output, frame.asks_output) == (5, False)
    assert body("ollama", overrides={"options": {"num_predict": None}})["options"] == {}
    with pytest.raises(ConfigError, match=r"workload\.body\.options\.num_predict=0: must be a whole number"):
        body("ollama", overrides={"options": {"num_predict": 0}})


def test_an_embedding_asks_for_no_output():
    frame = dialects.get("embeddings").frame(Ask(model="m"))
    assert (frame.output, frame.asks_output) == (-1, False)


@pytest.mark.parametrize(
    ("api", "field", "place"),
    [("responses", "max_completion_tokens", ()), ("messages", "max_new", ()), ("ollama", "num_keep", ("options",))],
)
def test_another_name_for_the_limit(api, field, place):
    found = body(api, max_tokens_field=field)
    for key in place:
        found = found[key]
    assert found[field] == 64


@pytest.mark.parametrize("api", [*dialects.DIALECTS, "custom"])
def test_a_wish_is_granted_or_refused_never_forgotten(api):
    if api == "custom":
        dialect = dialects.of(Target(custom=CustomApi(body={"p": "{prompt}"}, text=("t",))))
    else:
        dialect = dialects.get(api)
    plain = dialect.frame(Ask())
    for wish in WISHES:
        ask = Ask(**{wish: "n" if wish == "max_tokens_field" else True})
        if wish in dialect.knows:
            assert dialect.frame(ask) != plain
        else:
            with pytest.raises(ConfigError, match=rf"workload\.{wish}: target\.api='{api}' has no field for it"):
                dialect.frame(ask)


@pytest.mark.parametrize("api", dialects.DIALECTS)
def test_what_the_core_needs(api):
    dialect = dialects.get(api)
    assert dialect.name == api
    assert dialect.scanner in RULES
    assert dialect.rules is None
    assert dialect.path.startswith("/")
    # an end is promised by all that stream
    assert bool(dialect.end) or not dialect.streams
    assert (dialect.framing, dialect.accept) in {("sse", "text/event-stream"), ("ndjson", "application/x-ndjson")}


def test_ends():
    assert {name: dialects.get(name).end for name in ("chat", "responses", "messages", "ollama")} == {
        "chat": End.done | End.finish,
        "responses": End.done,
        "messages": End.done,
        "ollama": End.done,
    }


def test_embeddings_do_not_stream_whatever_the_default_says():
    config = RunConfig(target=Target(api="embeddings"), workload=Workload(input=3))
    (klass,) = request_classes(config, dialects.get("embeddings"), "m")
    assert klass.stream is False
    config = RunConfig(target=Target(api="embeddings"), workload=Workload(mix={"a": Klass(stream=True)}))
    with pytest.raises(ConfigError, match=r"workload\.mix\.a\.stream=True: target\.api='embeddings' has whole answers"):
        request_classes(config, dialects.get("embeddings"), "m")
