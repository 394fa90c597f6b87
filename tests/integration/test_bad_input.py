"""What cannot work is said before load is sent: the key or target, what is wrong with it, and the cure."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from llmgen import cli, machine
from llmgen.columns import Status
from odd_servers import GOOD, OddServer, Peer, Request, always, answering, whole
from running import check_run, environment, flags_of_short_run, llmgen_command, run_command, statuses

QUICK_S = 20.0  # not a measure of speed: a connect timeout or a hang would take longer


@pytest.fixture
def refused(capsys, tmp_path, monkeypatch):
    """``refused(code, *arguments)``: the command's text on stderr; nothing may be left of the run."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def call(code: int, *arguments: object) -> str:
        out = tmp_path / "runs"
        started = time.monotonic()
        got = cli.call(["run", "--out", str(out), *map(str, arguments)])
        told = capsys.readouterr().err
        assert got == code, told
        assert time.monotonic() - started < QUICK_S
        assert "Traceback" not in told
        left = list(out.iterdir()) if out.exists() else []
        assert not left, "a run that did not start leaves nothing"
        return told

    return call


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


# -- the target --------------------------------------------------------------------------------------------------------


def test_connection_refused(refused):
    port = closed_port()
    told = refused(5, "--url", f"http://127.0.0.1:{port}")
    assert f"http://127.0.0.1:{port}" in told
    assert "connection refused" in told
    assert "is the server up" in told


def test_no_such_socket(refused, tmp_path):
    assert "no such socket" in refused(5, "--url", f"unix:{tmp_path}/nothing.sock")


def test_a_name_that_cannot_be_resolved(refused):
    told = refused(5, "--url", "http://no-such-host.invalid:8000/v1")
    assert "no-such-host.invalid" in told
    assert "cannot be resolved" in told
    assert "--connect-to" in told


@pytest.mark.parametrize(
    "banner",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"220 mail ESMTP\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"HTTP/9.9 000 \x1b[31m\r\n\r\n",
    ],
)
def test_a_target_that_speaks_something_else(refused, banner):
    def greet(peer: Peer) -> None:
        peer.send(banner)
        peer.until_closed()

    with OddServer(greet) as server:
        told = refused(5, "--url", server.url)
    assert "does not speak HTTP/1.1" in told
    assert "check the port" in told
    assert "\x1b" not in told


def test_plain_http_where_tls_is_expected(refused):
    def complain(peer: Peer) -> None:
        peer.socket.recv(4096)
        peer.send(whole(b"", b"400 Bad Request"))

    with OddServer(complain) as server:
        told = refused(5, "--url", server.url.replace("http:", "https:"))
    assert "TLS failed" in told


def test_a_model_that_does_not_exist(refused):
    models = json.dumps({"data": [{"id": "llama-7b"}, {"id": "llama-70b"}]}).encode()
    with OddServer(always(GOOD)) as server:
        server._handler = lambda peer: peer.send(whole(models)) if peer.request() else None
        told = refused(2, "--url", server.url, "--model", "llama-70")
        assert not server.posts
    assert "target.model='llama-70'" in told
    assert "llama-7b" in told
    assert "did you mean" in told


def test_wrong_credentials(refused, monkeypatch):
    key = "sk-this-is-the-secret-0123456789"
    monkeypatch.setenv("MY_KEY", key)

    def deny(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            shown = json.dumps({"error": {"message": f"Incorrect API key provided: {request.header('authorization')}"}})
            peer.send(whole(shown.encode(), b"401 Unauthorized"))

    with OddServer(deny) as server:
        told = refused(2, "--url", server.url, "--api-key-env", "MY_KEY")
        assert server.requests[0].header("authorization") == f"Bearer {key}"
        assert not server.posts
    assert "refuses the credentials (401)" in told
    assert "--api-key-env" in told
    assert key not in told


@pytest.mark.parametrize("command", ["/no/such/program", "false", "true"])
def test_a_key_command_that_gives_no_key(refused, command):
    told = refused(2, "--url", f"http://127.0.0.1:{closed_port()}", "--api-key-command", f"{command} --secret=x1y2z3")
    assert "target.api_key_command" in told
    assert "x1y2z3" not in told


def test_the_key_of_a_command_is_sent(tmp_path):
    with OddServer(always(GOOD)) as server:
        done = run_command(*flags_of_short_run(server.url, tmp_path), "--api-key-command", "echo key-of-the-command")
        assert {post.header("authorization") for post in server.posts} == {"Bearer key-of-the-command"}
    assert done.returncode == 0, done.stderr


# -- the configuration -------------------------------------------------------------------------------------------------


def test_keys_that_are_unknown_or_ill_typed(refused, tmp_path):
    file = tmp_path / "load.json"
    cases = {
        '{"target": {"urls": ["http://h"], "modle": "m"}}': ("target", "modle", "model"),
        '{"load": {"rate": "fast"}}': ("load.rate", "fast"),
        '{"client": {"timeouts": {"idle": "5 parsecs"}}}': ("client.timeouts.idle", "5 parsecs"),
        '{"client": {"workers": "many"}}': ("client.workers",),
        '{"workload": {"mix": {"a": {"weight": -1}}}}': ("workload.mix.a",),
        '{"load": {"rate": 1, "rate": 2}}': ("rate", "twice"),
        '{"schema": "llmgen.config/9"}': ("schema", "llmgen.config/9"),
        "[1, 2]": ("mapping",),
        "{": ("JSON",),
    }
    for text, words in cases.items():
        file.write_text(text)
        told = refused(2, file, "--url", f"http://127.0.0.1:{closed_port()}")
        for word in words:
            assert word in told, (text, told)
        assert str(file) in told or "workload.mix.a" in told


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--rate", "-1"), ("rate",)),
        (("--abort-on", "errors>5"), ("client.abort_on", "error_rate")),
        (("--header", "Authorization: Bearer abc"), ("env:",)),
        (("--slo", "ttft_p95"), ("ttft_p95",)),
        (("--trace", "/no/such/file.csv"), ("/no/such/file.csv",)),
        (("--concurrency", "0"), ("concurrency",)),
        (("--api", "telepathy"), ("telepathy", "chat")),
    ],
)
def test_flags_that_cannot_work(refused, flags, words):
    told = refused(2, "--url", f"http://127.0.0.1:{closed_port()}", *flags)
    for word in words:
        assert word in told


def test_a_password_in_a_url_is_refused_and_not_shown(refused):
    told = refused(2, "--url", "http://me:hunter2@127.0.0.1:1")
    assert "hunter2" not in told


def test_no_url(refused):
    assert "--url" in refused(2)


def test_a_broken_row_of_a_trace_stops_before_anything_is_sent(refused, tmp_path):
    trace = tmp_path / "t.csv"
    trace.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:15:46.0000000,10,20\r\nyesterday,1,2\r\n"
    )
    with OddServer(always(GOOD)) as server:
        told = refused(2, "--url", server.url, "--trace", trace, "--trace-format", "azure")
        assert not server.posts
    assert "t.csv" in told
    assert "3" in told  # the line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(capsys, endpoint, tmp_path):
    tmp_path.chmod(0o500)
    assert cli.call(["run", "--url", endpoint.url, "--out", str(tmp_path / "runs")]) == 2
    assert "out=" in capsys.readouterr().err


def test_a_folder_that_is_a_file(capsys, endpoint, tmp_path):
    (tmp_path / "runs").write_text("")
    assert cli.call(["run", "--url", endpoint.url, "--out", str(tmp_path / "runs")]) == 2
    assert "out=" in capsys.readouterr().err


# -- limits of this machine --------------------------------------------------------------------------------------------


def limited(descriptors: int):
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))


@pytest.mark.parametrize(
    "flags", [("--concurrency", 600), ("--rate", "inf", "--requests", 600), ("--connections", 600)]
)
def test_too_few_descriptors_for_the_plan(tmp_path, flags):
    with OddServer(always(GOOD)) as server:
        done = run_command(
            *("run", "--url", server.url, "--out", tmp_path, "--workers", 1, *flags), preexec_fn=limited(512)
        )
        assert not server.posts
    assert done.returncode == 2, done.stderr
    assert "ulimit -n" in done.stderr
    assert "728" in done.stderr  # 600 and what a worker needs besides
    assert "512" in done.stderr
    assert not list(tmp_path.iterdir())


def test_too_few_ports_for_the_plan(refused, endpoint, monkeypatch):
    monkeypatch.setattr(machine, "ephemeral_ports", lambda: 50)
    told = refused(2, "--url", endpoint.url, "--concurrency", 60, "--requests", 100)
    assert "ip_local_port_range" in told


def test_descriptors_that_run_out_during_the_run(tmp_path):
    """Where it could not be known: the requests say so, the run is invalid, nothing hangs."""

    def slowly(peer: Peer, _: Request) -> None:
        peer.server.gate.wait(3.0)
        peer.send(GOOD)

    with OddServer(answering(slowly)) as server:
        server.gate = threading.Event()  # never set: answers take 3 s
        done = run_command(
            *("run", "--url", server.url, "--out", tmp_path, "--workers", 1, "--arrival", "constant"),
            *("--rate", 200, "--requests", 300, "--input-tokens", 8, "--output-tokens", 8),
            preexec_fn=limited(200),
        )
    assert done.returncode == 4, done.stderr
    directory = (tmp_path / "latest").resolve()
    summary = check_run(directory)
    told = statuses(np.load(directory / "requests.npy"))
    assert told.keys() == {"ok", "client_limit"}
    assert told["client_limit"] > 100
    assert summary["verdict"]["status"] == "invalid"
    assert any("limits" in reason for reason in summary["verdict"]["reasons"])
    assert "ulimit -n" in (directory / "errors.jsonl").read_text()


# -- secrets -----------------------------------------------------------------------------------------------------------


def test_secrets_stay_out_of_files_arguments_and_output(tmp_path):
    """Although the server echoes them in every error."""
    key, other = "sk-0123456789abcdefghijk", "second+secret/with=signs"
    header_file = tmp_path / "header"
    header_file.write_text(other + "\n")
    seen: list[str] = []

    def echo(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if request.method == "GET":
                peer.send(whole(b"{}", b"404 Not Found"))
                continue
            if not seen:
                seen.extend(command_lines())
            text = f"bad key {request.header('authorization')} and {request.header('x-auth-token')}"
            peer.send(whole(json.dumps({"error": {"message": text}}).encode(), b"400 Bad Request"))

    out = tmp_path / "runs"
    with OddServer(echo) as server:
        done = run_command(
            *flags_of_short_run(server.url, out),
            *(
                "--api-key-env",
                "KEY_HERE",
                "--header",
                f"X-Auth-Token: @{header_file}",
                "--header",
                "authorization: env:AUTH",
            ),
            *("--keep-bodies", "--log-json"),
            env=environment(AUTH=f"Bearer {key}", KEY_HERE=key),
        )
        assert server.posts[0].header("authorization") == f"Bearer {key}"
        assert server.posts[0].header("x-auth-token") == other
    assert done.returncode == 5, done.stderr
    directory = (out / "latest").resolve()
    assert statuses(np.load(directory / "requests.npy")) == {"http_4xx": 20}
    assert any("llmgen.worker" in line for line in seen)
    report = run_command("report", directory)
    for text in (*seen, done.stdout, done.stderr, report.stdout, report.stderr):
        assert key not in text
        assert other not in text
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        content = path.read_bytes()
        assert key.encode() not in content, path
        assert other.encode() not in content, path
    assert "***" in (directory / "errors.jsonl").read_text()


def command_lines() -> list[str]:
    """Arguments of every process of this machine, as any user of it may read them."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
        except OSError:
            continue
    return lines


def test_raw_records_of_a_crash_hold_no_secret(tmp_path):
    """What a worker writes while it runs is what is left when the controller is killed."""
    key = "sk-0123456789abcdefghijk"
    enough = threading.Event()

    def echo(peer: Peer, request: Request) -> None:
        peer.send(whole(f"bad key {request.header('authorization')}".encode(), b"500 Oops", kind=b"text/plain"))
        if request.index > 30:
            enough.set()

    with OddServer(answering(echo)) as server:
        process = llmgen_command(
            *("run", "--url", server.url, "--out", tmp_path, "--rate", 50, "--duration", "30s", "--workers", 1),
            env=environment(OPENAI_API_KEY=key),
        )
        try:
            assert enough.wait(30)
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=20)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    texts = [path for path in files if path.name == "errors.jsonl"]
    assert texts
    assert "bad key" in texts[0].read_text()
    for path in files:
        # the worker, which goes within a second, drops what it did not use
        with contextlib.suppress(FileNotFoundError):
            assert key.encode() not in path.read_bytes(), path


def test_no_request_after_a_refusal(endpoint, tmp_path):
    """The status of every request is told apart from what our own configuration prevented."""
    done = run_command(*flags_of_short_run(endpoint.url, tmp_path), "--model", "simulatd")
    assert done.returncode == 2
    assert "simulated" in done.stderr
    assert Status.never_sent.name not in done.stdout


def test_kept_answers_hold_no_secret(tmp_path):
    key = "sk-0123456789abcdefghijk"

    def echo(peer: Peer, request: Request) -> None:
        peer.send(whole(f"bad key {request.header('authorization')}".encode(), b"500 Oops", kind=b"text/plain"))

    with OddServer(answering(echo)) as server:
        run_command(*flags_of_short_run(server.url, tmp_path), "--keep-bodies", env=environment(OPENAI_API_KEY=key))
    [answers] = tmp_path.rglob("answers-0.jsonl")
    assert "bad key" in answers.read_text()
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert key.encode() not in path.read_bytes(), path
