"""Configuration files: what loads, how flags win, what is refused with which words, what run.json may show."""

from __future__ import annotations

import json
import math
import re
import sys
import typing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgen import config
from llmgen.config import Client, Load, RunConfig, Stage, Target, Timeouts, load_config, merge, plain, redact
from llmgen.errors import ConfigError

DOCS = Path(__file__).parents[2] / "docs"


def written(folder: Path, text: str, name: str = "load.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_example_of_the_contract_loads(tmp_path: Path) -> None:
    example = re.search(r"```yaml\n(.*?)```", (DOCS / "contract.md").read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    found = load_config(written(tmp_path, example[1]))
    assert found.name == "chat-h100"
    assert found.target == Target(
        urls=("https://gateway/v1",), model="m", headers={"api-key": "env:KEY"}, query={"api-version": "v"}
    )
    assert found.load == Load(stages=(Stage(rate=10.0, duration=120.0), Stage(to=40.0, duration=300.0)), warmup=30.0)
    assert found.workload.mix["long"].input == "lognormal:6000,2000"
    assert found.slo == ("ttft_p95<800ms", "goodput>=0.99")


YAML = "target: {urls: [http://h:1], http: 2}\nload: {rate: 10..40, duration: 1m, warmup: 10%}\nslo: [ttft<1s]\n"
TOML = '[target]\nurls = ["http://h:1"]\nhttp = 2\n[load]\nrate = "10..40"\nduration = 60\nwarmup = "10%"\n'
JSON = {
    "target": {"urls": ["http://h:1"], "http": "2"},
    "load": {"rate": "10..40", "duration": "60s", "warmup": "10%"},
    "slo": ["ttft<1s"],
}


def test_three_languages_say_the_same(tmp_path: Path) -> None:
    from_yaml = load_config(written(tmp_path, YAML))
    assert from_yaml.load == Load(rate=10.0, rate_to=40.0, duration=60.0, warmup="10%")
    assert from_yaml.target.http == "2"
    assert from_yaml == load_config(written(tmp_path, json.dumps(JSON), "load.json"))
    assert from_yaml == load_config(written(tmp_path, 'slo = ["ttft<1s"]\n' + TOML, "load.toml"))


@pytest.mark.parametrize(
    ("tree", "complaint"),
    [
        ({"lod": {}}, r"lod: unknown key; did you mean 'load'\?"),
        ({"load": {"arival": "poisson"}}, r"load\.arival: unknown key; did you mean 'arrival'\?"),
        ({"client": {"timeouts": {"idel": "1s"}}}, r"client\.timeouts\.idel: unknown key; did you mean 'idle'\?"),
        ({"workload": {"mix": {"a": {"wight": 1}}}}, r"workload\.mix\.a\.wight: unknown key; did you mean 'weight'\?"),
        ({"load": {"rate": "fast"}}, r"load\.rate='fast': write requests per second"),
        ({"load": {"rate": True}}, r"load\.rate=True: "),
        ({"load": {"rate": math.nan}}, r"load\.rate=nan: "),
        ({"load": {"rate": "5..x"}}, r"load\.rate='5\.\.x': "),
        ({"load": {"rate": "5..6", "rate_to": 7}}, r"load\.rate='5\.\.6': .* leave one out"),
        ({"load": {"trace": {"file": "f", "scale": math.nan}}}, r"load\.trace\.scale=nan: "),
        ({"load": {"requests": 1.5}}, r"load\.requests=1\.5: must be a whole number"),
        ({"load": {"requests": True}}, r"load\.requests=True: must be a whole number"),
        ({"load": {"duration": "4y"}}, r"load\.duration='4y': write a duration"),
        ({"load": {"duration": [1]}}, r"load\.duration=\[1\]: write a duration"),
        ({"load": {"warmup": "120%"}}, r"load\.warmup='120%': a percentage"),
        ({"load": {"warmup": "x%"}}, r"load\.warmup='x%': a percentage"),
        ({"load": {"stages": [{"rate": 1}]}}, r"load\.stages\[0\]\.for: missing"),
        ({"load": {"stages": {"rate": 1}}}, r"load\.stages=.*: must be a list"),
        ({"load": {"concurrency": 4, "arrival": "poisson"}}, r"load\.arrival='poisson': contradicts load\.concurrency"),
        ({"load": 5}, r"load=5: must be a mapping"),
        ({"load": {"trace": {"format": "azure"}}}, r"load\.trace\.file: missing"),
        ({"tags": {"build": 1.10}}, r"tags\.build=1\.1: must be text; write it in quotes"),
        ({"tags": {3: "x"}}, r"tags: the key 3 must be text"),
        ({"tags": "x"}, r"tags='x': must be a mapping"),
        ({"slo": "ttft<1s"}, r"slo='ttft<1s': must be a list"),
        ({"name": None, "seed": "one"}, r"seed='one': must be a whole number"),
        ({"seed": None}, r"seed=None: must be a whole number"),
        ({"keep_bodies": "yes"}, r"keep_bodies='yes': must be true or false"),
        ({"workload": {"input": 1.5}}, r"workload\.input=1\.5: must be text or a whole number"),
        ({"target": {"http": 3}}, r"target\.http=3: write auto, 1\.1 or 2"),
        ({"schema": "llmgen.config/9"}, r"schema='llmgen\.config/9': not known; this llmgen reads llmgen\.config/1"),
        ({"prices": {"gpus": "eight"}}, r"prices\.gpus='eight': must be a whole number"),
        ({"note": "x" * 500, "seed": "y" * 500}, r"seed='yyyy.{70,80}\.\.\.: must"),
        ([], r"a configuration is a mapping"),
    ],
)
def test_what_does_not_fit_is_named(tree: Any, complaint: str, tmp_path: Path) -> None:
    import yaml

    path = written(tmp_path, yaml.safe_dump(tree))
    with pytest.raises(ConfigError, match=complaint) as caught:
        load_config(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_credential_is_not_shown_by_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"target\.headers\.api-key: must be text") as caught:
        load_config(written(tmp_path, "target: {headers: {api-key: 12345678}}"))
    assert "12345678" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.yaml", "seed: [", "not valid YAML"),
        ("a.yaml", "seed: 1\nseed: 2", "seed.* is there twice"),
        ("a.json", '{"seed": 1, "seed": 2}', "seed is there twice"),
        ("a.json", "{", "not valid JSON"),
        ("a.toml", "seed = ", "not valid TOML"),
        ("a.toml", "seed = 1\nseed = 2", "not valid TOML"),
        ("a.ini", "", r"unknown kind of file '\.ini'; .*\.yaml, \.yml, \.toml or \.json"),
        ("a.yaml", "", "a configuration is a mapping"),
    ],
)
def test_unreadable_files(name: str, text: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_config(written(tmp_path, text, name))


def test_a_missing_file_and_one_that_is_not_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(tmp_path / "latin.yaml")


def test_yaml_without_its_extra_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ConfigError, match=r"pip install 'llmgen\[yaml\]'"):
        load_config(written(tmp_path, "seed: 1"))


def test_a_concurrency_is_a_closed_loop(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, "load: {concurrency: 4}")).load.arrival == "closed"


FILE = RunConfig(
    target=Target(urls=("http://a",), headers={"x": "1"}, query={"v": "1"}),
    load=Load(arrival="gamma:2", stages=(Stage(rate=1.0, duration=10.0),), warmup=1.0),
    client=Client(timeouts=Timeouts(idle=3.0)),
    tags={"a": "1"},
    slo=("ttft<1s",),
)


def test_no_flag_changes_nothing() -> None:
    assert merge(FILE, {}) is FILE


def test_a_flag_wins_and_leaves_the_rest() -> None:
    found = merge(FILE, {"client.timeouts.total": 5.0, "slo": ("tpot<1s",), "target.urls": ("http://b",), "seed": 9})
    assert found.client.timeouts == Timeouts(idle=3.0, total=5.0)
    assert (found.slo, found.target.urls, found.seed) == (("tpot<1s",), ("http://b",), 9)
    assert (found.load, found.tags) == (FILE.load, FILE.tags)


def test_mappings_are_merged_by_key() -> None:
    flags = {"target.headers": {"y": "2"}, "target.query": {"v": "2"}, "tags": {"b": "2"}}
    found = merge(FILE, flags)
    assert found.target.headers == {"x": "1", "y": "2"}
    assert found.target.query == {"v": "2"}
    assert found.tags == {"a": "1", "b": "2"}


def test_a_rate_replaces_stages_and_keeps_the_arrival() -> None:
    found = merge(FILE, {"load.rate": "5..9"}).load
    assert found == Load(arrival="gamma:2", rate=5.0, rate_to=9.0, warmup=1.0)


def test_a_concurrency_replaces_every_other_source_of_load() -> None:
    assert merge(FILE, {"load.concurrency": 3}).load == Load(arrival="closed", concurrency=3, warmup=1.0)


def test_a_rate_opens_a_closed_loop() -> None:
    closed = RunConfig(load=Load(concurrency=3))
    assert merge(closed, {"load.rate": 2.0}).load == Load(rate=2.0)
    assert merge(closed, {"seed": 2}).load == Load(arrival="closed", concurrency=3)


def test_a_trace_replaces_every_other_source_of_load() -> None:
    found = merge(FILE, {"load.trace.file": "t.csv", "load.trace.scale": 2.0}).load
    assert (found.stages, found.arrival) == ((), "poisson")
    assert found.trace is not None
    assert (found.trace.file, found.trace.scale) == ("t.csv", 2.0)


def test_flags_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"load\.arrival='poisson': contradicts load\.concurrency"):
        merge(RunConfig(), {"load.concurrency": 3, "load.arrival": "poisson"})


def test_a_flag_for_the_workload_holds_for_every_class() -> None:
    mixed = RunConfig(
        workload=config.Workload(
            mix={"a": config.Klass(input=5, stream=False, model="m", body={"t": 1, "k": {"x": 1}}), "b": config.Klass()}
        )
    )
    flags = {"workload.input": "7", "workload.stream": True, "target.model": "n", "workload.body": {"k": {"y": 2}}}
    found = merge(mixed, flags)
    assert found.workload.input == "7"
    first, second = found.workload.mix["a"], found.workload.mix["b"]
    assert (first.input, first.stream, first.model) == (None, None, None)
    assert first.body == {"t": 1, "k": {"x": 1, "y": 2}}
    assert second.body == {"k": {"y": 2}}


def test_every_flag_names_a_key_that_exists() -> None:
    for key in config.FLAGS:
        kind: Any = RunConfig
        for part in key.split("."):
            fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
            assert part in fields, key
            kind = fields[part]
            inner = [one for one in typing.get_args(kind) if isinstance(one, type) and issubclass(one, msgspec.Struct)]
            kind = inner[0] if inner else kind  # Trace | None and the like


def test_redaction_hides_what_is_secret_and_only_that() -> None:
    found = redact(
        RunConfig(
            target=Target(
                urls=("https://u:p4ss@h:1/v1?key=s3cret&api-version=2", "http://h/v1?token=s3cret"),
                headers={"Authorization": "Bearer s3cret", "api-key": "env:KEY", "Cookie": "@file", "x-tenant": "blue"},
                query={"api-version": "2", "api_key": "s3cret"},
                api_key_command="vault read s3cret",
            ),
            load=Load(rate=math.inf, requests=5),
            telemetry=(config.Telemetry(url="http://n:1/metrics?token=s3cret"),),
        )
    )
    text = json.dumps(found, allow_nan=False)
    assert "s3cret" not in text
    assert "p4ss" not in text
    target = found["target"]
    assert target["headers"] == {"Authorization": "***", "api-key": "env:KEY", "Cookie": "@file", "x-tenant": "blue"}
    assert target["query"] == {"api-version": "2", "api_key": "***"}
    assert target["urls"] == ["https://***@h:1/v1?key=***&api-version=2", "http://h/v1?token=***"]
    assert target["api_key_command"] == "vault ***"
    assert found["load"]["rate"] == "inf"


@given(
    st.builds(
        Load,
        arrival=st.sampled_from(["poisson", "constant", "gamma:2", "weibull:0.5"]),
        rate=st.none() | st.floats(0.001, 1e6) | st.just(math.inf),
        duration=st.none() | st.floats(0.001, 1e6),
        requests=st.none() | st.integers(1, 10**9),
        warmup=st.floats(0, 100) | st.just("10%"),
        stages=st.lists(st.builds(Stage, rate=st.floats(0, 10), duration=st.floats(1, 100)), max_size=3).map(tuple),
    )
)
def test_what_is_written_out_is_read_back(load: Load) -> None:
    from llmgen.decoding import decode

    assert decode(plain(RunConfig(load=load)), RunConfig) == RunConfig(load=load)
