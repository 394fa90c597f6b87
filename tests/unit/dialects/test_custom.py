"""An API of one's own: templates, places, and what is refused."""

import json
from pathlib import Path

import pytest

from llmgen import dialects
from llmgen.config import CustomApi, CustomUsage, RunConfig, Target, load_config
from llmgen.dialects import Ask, End
from llmgen.errors import ConfigError
from llmgen.wire.scanner import Kind, Scanner


def dialect(**api):
    return dialects.of(Target(custom=CustomApi(**{"body": {"p": "{prompt}"}, "text": ("t",), **api})))


def body(template, **ask):
    return json.loads(dialect(body=template).frame(Ask(**ask)).fill(b"one two", 64))


def test_holes_are_filled_wherever_they_stand():
    template = {
        "in": [{"text": '<s>[INST] "{prompt}" [/INST]'}],
        "params": {"n": "{output}", "min_tokens": "{output}", "t": 0.5, "list": [1, "{output}"]},
        "stream": "{stream}",
        "m": "{model}",
        "as it is": "a {output} in a text, {model}",
    }
    assert body(template, model="x", stream=False) == {
        "in": [{"text": '<s>[INST] "one two" [/INST]'}],
        "params": {"n": 64, "min_tokens": 64, "t": 0.5, "list": [1, 64]},
        "stream": False,
        "m": "x",
        "as it is": "a {output} in a text, {model}",
    }
    assert "m" not in body(template)


def test_the_prompt_may_follow_the_output():
    frame = dialect(body={"a": "{prompt}", "n": "{output}"}).frame(Ask())
    assert frame.fill(b"x", 7) == b'{"a":"x","n":7}'


def test_own_data_fills_the_whole_value():
    frame = dialect(body={"n": "{output}", "p": "{prompt}"}).frame(Ask(whole_prompt=True))
    assert json.loads(frame.fill(b'{"mine":[1]}', 3)) == {"n": 3, "p": {"mine": [1]}}
    with pytest.raises(ConfigError, match=r"own data fills a whole value; write just \{prompt\}"):
        dialect(body={"p": "Q: {prompt}"}).frame(Ask(whole_prompt=True))


def test_overrides_are_merged_into_the_template():
    template = {"p": "{prompt}", "params": {"n": "{output}", "t": 1}}
    assert body(template, overrides={"params": {"t": 0, "k": 3}})["params"] == {"n": 64, "t": 0, "k": 3}
    frame = dialect(body=template).frame(Ask(overrides={"params": {"n": 5}}))
    assert (frame.output, frame.asks_output) == (5, False)


@pytest.mark.parametrize(
    ("template", "overrides", "complaint"),
    [
        ({"x": 1}, {}, "holds the prompt 0 times"),
        ({"p": "{prompt}", "q": ["{prompt}"]}, {}, "holds the prompt 2 times"),
        ({"p": "{prompt}"}, {"p": "mine"}, "holds the prompt 0 times"),
        ({"p": "{prompt}", "n": "{max_tokens}"}, {}, r"target\.custom\.body\.n='\{max_tokens\}': nothing of that name"),
        ({"p": "{prompt}", "stream": "{stream}"}, {"stream": False}, "no-stream"),
        ({"p": "{prompt}", "n": "{output}"}, {"n": "many"}, r"workload\.body\.n='many': must be a whole number"),
    ],
)
def test_bodies_that_cannot_be(template, overrides, complaint):
    with pytest.raises(ConfigError, match=complaint):
        body(template, overrides=overrides)


@pytest.mark.parametrize(
    ("api", "complaint"),
    [
        ({"text": ()}, "names no text, reasoning or tool"),
        ({"text": ("a[0].b",)}, r"target\.custom\.text='a\[0\]\.b': no place"),
        ({"text": ("a..b",)}, "no place"),
        ({"text": ("$",)}, "no place"),
        ({"usage": CustomUsage(output=("x.",))}, r"target\.custom\.usage\.output='x\.': no place"),
        ({"text": ("t",), "finish": ("t",)}, r"target\.custom: rule 't': has the roles"),
        ({"framing": "lines"}, r"target\.custom\.framing='lines': write sse or ndjson"),
    ],
)
def test_places_that_cannot_be(api, complaint):
    with pytest.raises(ConfigError, match=complaint):
        dialect(**api)


def test_places_in_both_ways_of_writing():
    for place in ("choices.*.text", "$.choices[*].text", "choices[*].text"):
        found = Scanner(rules=dialect(text=(place,)).rules).scan(b'{"choices":[{"text":"Hi"}]}')
        assert (found.kind, found.text) == (Kind.text, "Hi")
    found = Scanner(rules=dialect(text=("*.t",)).rules).scan(b'[{"t":"Hi"}]')
    assert found.text == "Hi"


def test_all_roles_reach_the_scanner():
    usage = CustomUsage(input=("u.i",), output=("u.o",), reasoning=("u.r",), cached=("u.c",))
    rules = dialect(reasoning=("r",), tool=("f",), finish=("e",), done=("d",), usage=usage, token_ids=("ids",)).rules
    event = {"t": "a", "r": "b", "f": "c", "e": "stop", "d": True, "u": {"i": 1, "o": 2, "r": 3, "c": 4}, "ids": [5, 6]}
    found = Scanner(rules=rules).scan(json.dumps(event))
    assert found.kind == Kind.text | Kind.reasoning | Kind.tool | Kind.finish | Kind.usage
    assert found.usage == {"input_tokens": 1, "output_tokens": 2, "reasoning_tokens": 3, "cached_tokens": 4}
    assert (found.finish, found.done, found.token_ids) == ("stop", True, 2)
    assert Scanner(rules=rules).scan(b'{"error":"x"}').error == "x"


def test_which_end_is_promised():
    assert dialect().end is End.none
    assert dialect(finish=("f",)).end == dialect(done=("d",)).end == End.done | End.finish
    marker = dialect(done=("[DONE]",))
    assert marker.end == End.done | End.finish
    assert "[DONE]" not in str(marker.rules)


def test_custom_and_api_must_agree():
    with pytest.raises(ConfigError, match=r"target\.api='custom': needs target\.custom"):
        dialects.of(Target(api="custom"))
    with pytest.raises(ConfigError, match=r"target\.api='ollama': contradicts target\.custom"):
        dialects.of(Target(api="ollama", custom=CustomApi(body={"p": "{prompt}"}, text=("t",))))


def test_a_place_or_a_list_of_them(tmp_path: Path):
    path = tmp_path / "c.json"
    custom = {"path": "x", "body": {"p": "{prompt}"}, "text": "a", "reasoning": ["b", "c"]}
    path.write_text(json.dumps({"target": {"custom": custom}}))
    api = load_config(path).target.custom
    assert api is not None
    assert (api.text, api.reasoning, api.error) == (("a",), ("b", "c"), ("error",))
    assert dialects.of(RunConfig(target=Target(custom=api)).target).path == "/x"
    for wrong in (5, ["a", 5], [""], ""):
        path.write_text(json.dumps({"target": {"custom": {**custom, "text": wrong}}}))
        with pytest.raises(ConfigError, match=r"target\.custom\.text=.*: write a place like"):
            load_config(path)
