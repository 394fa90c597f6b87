"""What is refused before anything is sent: each refusal names the key and what would be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmgen.config import RunConfig, merge
from llmgen.errors import ConfigError
from llmgen.validation import complete, validate

GOOD: dict[str, Any] = {"target.urls": ("http://127.0.0.1:8000/v1",), "load.rate": 5.0}


def configured(**flags: Any) -> RunConfig:
    return merge(RunConfig(), {**GOOD, **{key.replace("__", "."): value for key, value in flags.items()}})


@pytest.mark.parametrize(
    "url",
    [
        "http://h", "http://h:1/v1", "https://h/openai/deployments/d/chat/completions?api-version=1", "http://[::1]:80",
        "unix:/run/server.sock", "https://münchen.example/v1",
    ],
)  # fmt: skip
def test_urls_that_work(url: str) -> None:
    validate(configured(target__urls=(url,)), {})


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("localhost:8000", r"target\.urls\[0\]='localhost:8000': unknown scheme; .*did you mean http://localhost:8000"),
        ("ftp://h", "unknown scheme"),
        ("http://", "names no host"),
        ("http://h:0", "names no port"),
        ("http://h:99999", "not a URL"),
        ("http://h:port", "not a URL"),
        ("http://[::1", r"target\.urls\[0\]=.*not a URL"),
        ("http://u:p4ss@h/v1", "holds a user or a password"),
        ("http://t0ken@h/v1", "holds a user or a password"),
        ("http://h/a b", "holds a space"),
        ("http://h/v1#x", "fragment"),
        ("unix:relative.sock", "absolute"),
        ("unix://h/x", "absolute"),
        ("unix:/" + "x" * 107, "at most 107 bytes"),
    ],
)
def test_urls_that_do_not(url: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        validate(configured(target__urls=(url,)), {})
    assert "p4ss" not in str(caught.value)
    assert "t0ken" not in str(caught.value)


def test_a_url_is_required() -> None:
    with pytest.raises(ConfigError, match=r"target\.urls: missing: .*--url"):
        validate(RunConfig(), {})


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ({"target__api": "caht"}, r"target\.api='caht': unknown API; use one of .*chat"),
        ({"target__balance": "robin"}, r"target\.balance='robin': unknown; did you mean 'round-robin'\?"),
        ({"target__weights": (1, 2)}, r"target\.weights=\(1, 2\): there are 1 urls: one weight for each"),
        ({"target__weights": (0,)}, r"target\.weights\[0\]=0: must be a whole number from 1"),
        ({"target__api": "messages", "workload__exact_output": True}, r"workload\.exact_output: .*='messages'"),
        ({"target__connect_to": "host"}, r"target\.connect_to='host': write HOST:PORT"),
        ({"target__connect_to": "host:70000"}, r"target\.connect_to=.*HOST:PORT"),
        ({"target__ca": "/none"}, r"target\.ca='/none': has no effect without an https"),
        ({"target__insecure": True}, r"target\.insecure=True: has no effect without an https"),
        ({"target__headers": {"a b": "1"}}, "'a b' is no header name"),
        ({"target__headers": {"Host": "x"}}, r"target\.headers\.Host: cannot be set; .*--connect-to"),
        ({"target__headers": {"Content-Length": "1"}}, r"target\.headers\.Content-Length: cannot be set"),
        ({"target__headers": {"x": "a\r\nb: c"}}, r"target\.headers\.x: the value holds a line break"),
        ({"target__headers": {"x": "env:NONE"}}, r"target\.headers\.x='env:NONE': .*no variable NONE"),
        ({"target__headers": {"x": "@/none"}}, r"target\.headers\.x='@/none': cannot be read: No such file"),
        ({"target__headers": {"x": "€"}}, r"target\.headers\.x: the value holds"),
        ({"target__api_key_env": "NONE"}, r"target\.api_key_env='NONE': no such variable"),
        ({"target__api_key_env": "KEY", "target__api_key_command": "x"}, r"contradicts api_key_command"),
        ({"target__api_key_command": " "}, r"target\.api_key_command: empty"),
        ({"load__rate": -1.0}, r"load\.rate=-1"),
        ({"load__rate": 0.0}, r"load\.rate=0"),
        ({"load__rate": float("inf")}, r"load\.rate=inf: .*requests"),
        ({"load__arrival": "possion"}, r"load\.arrival='possion'"),
        ({"load__arrival": "gamma:0"}, r"load\.arrival='gamma:0'"),
        ({"load__duration": 0.0}, r"load\.duration=0"),
        ({"load__requests": 0}, r"load\.requests=0"),
        ({"load__concurrency": 4}, r"load\.rate: a closed loop has no rate"),
        ({"load__duration": 10.0, "load__warmup": 6.0, "load__cooldown": "40%"}, r"cooldown='40%': .*nothing to"),
        ({"load__warmup": 30.0}, r"load\.warmup=30\.0: .*nothing to measure"),
        ({"load__trace__file": "/none", "load__rate": None}, r"load\.trace\.file='/none': no such file"),
        ({"load__trace__file": "/", "load__trace__format": "azur", "load__rate": None}, r"format='azur': .*'azure'"),
        ({"load__trace__file": __file__, "load__trace__jitter": "x", "load__rate": None}, r"jitter='x': unknown; "),
        ({"client__workers": 0}, r"client\.workers=0: must be at least 1"),
        ({"client__workers": 70000}, r"client\.workers=70000: must be at most"),
        ({"client__connections": 0}, r"client\.connections=0: must be at least 1"),
        ({"client__preconnect": 5, "client__connections": 4}, r"client\.preconnect=5: is more than .*, 4"),
        ({"client__timeouts__idle": 0.0}, r"client\.timeouts\.idle=0\.0: must be above 0"),
        ({"client__spin": 1.0}, r"client\.spin=1\.0: must be at most"),
        ({"client__stamps": "kernl"}, r"client\.stamps='kernl': unknown; did you mean 'kernel'\?"),
        ({"client__http2_engine": "h2"}, r"client\.http2_engine='h2': this run speaks HTTP/1\.1"),
        ({"client__http2_engine": "h3", "target__http": "2"}, r"client\.http2_engine='h3': unknown"),
        ({"client__streams_per_connection": 5}, r"client\.streams_per_connection=5: this run speaks HTTP/1\.1"),
        ({"client__source_addresses": ("::1",), "target__urls": ("unix:/s",)}, r"source_addresses=.*unix socket"),
        ({"verdict": {"suspect_lag": 5.0}}, r"verdict\.suspect_lag: unknown key; did you mean.*known: .*suspect_steal"),
        ({"verdict": {"suspect_steal_pct": -1.0}}, r"verdict\.suspect_steal_pct=-1\.0: must be a number, 0"),
        ({"verdict": {"suspect_ks": float("inf")}}, r"verdict\.suspect_ks=inf: must be a number"),
        ({"verdict": {"invalid_delivered": 95.0}}, r"verdict\.invalid_delivered=95\.0: is a share"),
        ({"verdict": {"suspect_clock_steps": 0.5}}, r"verdict\.suspect_clock_steps=0\.5: must be a whole"),
        ({"verdict": {"suspect_lag_ms": 50.0}}, r"suspect_lag_ms=50 is above invalid_lag_ms=20; set both"),
        ({"record": "event"}, r"record='event': unknown; did you mean 'events'\?"),
        ({"name": "a/b"}, r"name='a/b': becomes part of a folder"),
        ({"seed": -1}, r"seed=-1"),
        ({"out": ""}, r"out='': must name a folder"),
        ({"workload__input": "unifrm:1,2"}, r"workload\.input='unifrm:1,2'"),
        ({"workload__body": {"stream": False}}, r"workload\.body\.stream"),
        ({"regression": ("ttft_p95",)}, "write METRIC:MARGIN"),
        ({"slo": ("ttft_p95",)}, "quote it"),
        ({"slo": ("goodput>=0.9", "ttft_p95<1s")}, r"goodput needs a limit on each request; add one: ttft<1s"),
        ({"slo": ("ttft_p95<1s",), "workload__stream": False}, "does not exist without streaming"),
    ],
)
def test_refusals(flags: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        validate(configured(**flags), {"KEY": "k"})


def test_goodput_with_a_limit_on_each_request() -> None:
    validate(configured(slo=("goodput>=0.9", "ttft<1s")), {})
    mix = {"a": {"slo": ["e2e<9s"]}, "b": {}}
    validate(configured(workload__mix=mix, slo=("goodput>=0.9", "class:a goodput>=0.9")), {})
    with pytest.raises(ConfigError, match="class:b goodput"):
        validate(configured(workload__mix=mix, slo=("class:b goodput>=0.9",)), {})


def test_tls_files(tmp_path: Path) -> None:
    https = {"target__urls": ("https://h",)}
    file = tmp_path / "cert.pem"
    file.write_text("x")
    validate(configured(**https, target__cert=str(file), target__key=str(file), target__ca=str(file)), {})
    validate(configured(**https, target__insecure=True), {})
    with pytest.raises(ConfigError, match="a key needs its certificate"):
        validate(configured(**https, target__key=str(file)), {})
    with pytest.raises(ConfigError, match=r"target\.ca=.*: no such file"):
        validate(configured(**https, target__ca=str(tmp_path / "none")), {})
    with pytest.raises(ConfigError, match="contradicts insecure"):
        validate(configured(**https, target__ca=str(file), target__insecure=True), {})


def test_streams_need_http2() -> None:
    validate(configured(target__http="2", client__streams_per_connection=100, client__http2_engine="h2"), {})
    validate(configured(target__urls=("https://h",), client__streams_per_connection=100), {})


def test_structs_made_in_python_are_checked_too() -> None:
    from llmgen.config import Load, Target

    good = Target(urls=("http://h",))
    with pytest.raises(ConfigError, match=r"load\.duration='fast': write a duration"):
        validate(RunConfig(target=good, load=Load(duration="fast")), {})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"seed=1\.5: must be a whole number"):
        validate(RunConfig(target=good, seed=1.5), {})  # type: ignore[arg-type]


def test_what_is_missing_is_filled_in_and_said() -> None:
    bare = merge(RunConfig(), {"target.urls": ("http://h",)})
    found, notes = complete(bare)
    assert (found.load.rate, found.load.duration) == (1.0, 30.0)
    assert len(notes) == 2
    assert "--rate" in notes[0]
    assert "--duration" in notes[1]


def test_what_is_there_is_kept_without_a_word() -> None:
    config = configured(load__duration=5.0)
    assert complete(config) == (config, ())
    stages = merge(RunConfig(), {"load.stages": [{"rate": 1, "for": "5s"}]})
    assert complete(stages) == (stages, ())


def test_a_closed_loop_gets_an_end_but_no_rate() -> None:
    found, notes = complete(merge(RunConfig(), {"load.concurrency": 2}))
    assert (found.load.arrival, found.load.rate, found.load.duration) == ("closed", None, 30.0)
    assert len(notes) == 1
