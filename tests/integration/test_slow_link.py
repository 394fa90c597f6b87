"""A slow link between us and the server: connecting and answering take long, and none of it is called our lateness."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from odd_servers import GOOD, OddServer, Peer, Request, answer_get, answering
from running import PATIENCE_S, check_run, environment, statuses

DELAY_S = 0.05  # each way
LLMGEN = (sys.executable, "-m", "llmgen")
SMALL = ("--input-tokens", "8", "--output-tokens", "8", "--workers", "1")
STEADY = ("--arrival", "constant", "--rate", "20", "--requests", "20", *SMALL)


# -- a link of the kernel's --------------------------------------------------------------------------------------------


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=20)


@pytest.fixture
def delayed_link() -> Iterator[tuple[str, list[str]]]:
    """(our address, command prefix into a namespace whose link to us takes DELAY_S each way)."""
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("tc") is None:
        pytest.skip("needs root, ip and tc")
    name = f"llmgen{os.getpid() % 100000}"
    ours, theirs = f"{name[:10]}a", f"{name[:10]}b"
    steps = [
        ("ip", "netns", "add", name),
        ("ip", "link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", name),
        ("ip", "addr", "add", "10.213.77.1/30", "dev", ours),
        ("ip", "link", "set", ours, "up"),
        ("ip", "-n", name, "addr", "add", "10.213.77.2/30", "dev", theirs),
        ("ip", "-n", name, "link", "set", theirs, "up"),
        ("ip", "-n", name, "link", "set", "lo", "up"),
        ("tc", "qdisc", "add", "dev", ours, "root", "netem", "delay", f"{DELAY_S * 1000:g}ms"),
        ("tc", "-n", name, "qdisc", "add", "dev", theirs, "root", "netem", "delay", f"{DELAY_S * 1000:g}ms"),
    ]
    try:
        for step in steps:
            done = command(*step)
            if done.returncode:
                pytest.skip(f"{' '.join(step)}: {done.stderr.strip()}")
        yield "10.213.77.1", ["ip", "netns", "exec", name]
    finally:
        command("ip", "link", "del", ours)
        command("ip", "netns", "del", name)


def test_a_delayed_link(delayed_link, tmp_path):
    """The client runs in the namespace; connect takes a round trip, the first token two ways, the lag stays ours."""
    address, prefix = delayed_link
    listener = socket.socket()
    listener.bind((address, 0))
    port = listener.getsockname()[1]
    listener.close()
    serve = ("serve", "--host", address, "--port", str(port), "--ttft", "1ms", "--itl", "1ms")
    server = subprocess.Popen([*LLMGEN, *serve], stdout=subprocess.PIPE, text=True, env=environment())
    try:
        assert server.stdout is not None
        assert "listening" in server.stdout.readline()
        out = tmp_path / "runs"
        run = ("run", "--url", f"http://{address}:{port}", "--out", str(out), *STEADY)
        done = subprocess.run([*prefix, *LLMGEN, *run], capture_output=True, text=True, timeout=60, env=environment())
    finally:
        server.terminate()
        server.communicate(timeout=20)
    assert done.returncode == 0, done.stderr
    directory = (out / "latest").resolve()
    summary = check_run(directory)
    rows = np.load(directory / "requests.npy")
    assert statuses(rows) == {"ok": 20}
    round_trip = 2 * DELAY_S * 1e9
    fresh = rows[rows["connected"] >= 0]
    assert len(fresh) > 0
    assert (fresh["connected"] - fresh["connect_start"] >= round_trip).all()
    assert (rows["first_token"] - rows["send"] >= round_trip).all()
    check_lag(rows, summary, round_trip)


def check_lag(rows: np.ndarray, summary: dict, slow_ns: float) -> None:
    """The link's time is in connect and in TTFT, not in the schedule lag."""
    assert summary["latency"]["connect_ms"]["min"] >= slow_ns / 1e6
    assert summary["latency"]["connect_ms"]["n"] == np.count_nonzero(rows["connected"] >= 0)
    # half of what the link takes would already be more than an idle client's lateness; p50, for a busy machine
    assert summary["load"]["schedule_lag_ms"]["p50"] < slow_ns / 2e6
    fresh = rows["connected"] >= 0
    from_due = rows["first_token"][fresh] - rows["due"][fresh]
    assert (from_due >= slow_ns).all()
    assert (rows["send"][fresh] - rows["due"][fresh] >= slow_ns).all()
    assert summary["verdict"]["status"] in ("valid", "suspect")


# -- without privileges: a proxy ---------------------------------------------------------------------------------------


class DelayingProxy:
    """Passes bytes on, DELAY_S later each way; the time between two pieces stays what it was."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        pieces: list[tuple[float, bytes]] = []
        some = threading.Condition()

        def read() -> None:
            piece = b"first"
            while piece:
                try:
                    piece = source.recv(65536)
                except OSError:
                    piece = b""
                with some:
                    pieces.append((time.monotonic() + DELAY_S, piece))
                    some.notify()

        threading.Thread(target=read, daemon=True).start()
        with contextlib.suppress(OSError):
            while True:
                with some:
                    if not some.wait_for(lambda: pieces, timeout=30):
                        return
                    due, piece = pieces.pop(0)
                time.sleep(max(0.0, due - time.monotonic()))
                if not piece:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(piece)

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def test_a_delaying_proxy(offer, serve):
    """Without a slow connect (the proxy accepts at once) the delay is in the answer alone."""
    endpoint = serve()
    proxy = DelayingProxy(int(endpoint.url.rpartition(":")[2]))
    try:
        result = offer(proxy.url, **{"load.rate": 40.0})
    finally:
        proxy.stop()
    rows = result.requests
    assert statuses(rows) == {"ok": 20}
    assert (rows["first_token"] - rows["send"] >= 2 * DELAY_S * 1e9).all()
    summary = result.summary
    assert summary.load.schedule_lag_ms.p50 < 1e3 * DELAY_S
    # connections were needed while others were slow to answer; none waited for another
    assert summary.latency.queue_ms.p50 < 1e3 * DELAY_S
    assert summary.latency.connect_ms.n > 1


def test_connects_that_take_a_second(offer, tmp_path):
    """A full accept queue drops SYNs, which are sent again after a second: told in connect, with the retransmits."""

    def handle(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if answer_get(peer, request):
                peer.server.shrink_backlog()
            else:
                peer.send(GOOD)

    def restore() -> None:
        until = time.monotonic() + PATIENCE_S
        while not (tmp_path / "runs" / "latest").exists() and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(
            0.7
        )  # `latest` is made START_DELAY_S before the load begins; the dropped SYNs are sent again after 1 s
        server.restore_backlog()

    with OddServer(handle) as server:
        threading.Thread(target=restore, daemon=True).start()
        result = offer(server.url, **{"load.rate": "inf", "load.requests": 8})
    rows = result.requests
    assert statuses(rows) == {"ok": 8}
    took = (rows["connected"] - rows["connect_start"]) / 1e9
    slow = took > 0.9
    assert slow.any()
    assert (rows["retransmits"][slow] > 0).all()
    summary = result.summary
    assert summary.latency.connect_ms.max > 900
    assert summary.load.schedule_lag_ms.p50 < 450
    assert (rows["send"][slow] >= rows["connected"][slow]).all()


def test_a_limit_of_connections_is_no_lag_of_ours(offer):
    """Requests behind a limit of one connection wait for it: queueing, told apart from the schedule lag."""

    def slowly(peer: Peer, _: Request) -> None:
        time.sleep(0.03)
        peer.send(GOOD)

    with OddServer(answering(slowly)) as server:
        result = offer(server.url, **{"client.connections": 1, "load.rate": 100.0, "load.requests": 15})
    summary = result.summary
    assert statuses(result.requests) == {"ok": 15}
    assert summary.latency.queue_ms.max > 150
    assert summary.load.schedule_lag_ms.p50 < summary.latency.queue_ms.p50
