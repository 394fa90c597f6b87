"""--retries: further attempts after a connection error, 429 or 503, all recorded; latency counts from the first due."""

from __future__ import annotations

from collections import Counter

import numpy as np

from llmgen.columns import REQUEST_DTYPE, Status
from odd_servers import END, MODELS, STREAM_HEAD, OddServer, Peer, chunk, token, whole
from running import Offer, statuses

SECOND = 1_000_000_000


class Flaky:
    """Refuses the first `times` attempts of every request, then answers."""

    def __init__(self, times: int, status: bytes, more: bytes = b"") -> None:
        self.times, self.status, self.more = times, status, more
        self.seen: Counter[int] = Counter()

    def __call__(self, peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if request.method == "GET":
                peer.send(whole(MODELS))
                continue
            self.seen[request.index] += 1
            if self.seen[request.index] <= self.times:
                peer.send(whole(b'{"error":{"message":"later"}}', self.status, more=self.more))
            else:
                peer.send(STREAM_HEAD + chunk(token()) + chunk(b"data: [DONE]\n\n") + END)


def test_a_second_attempt_succeeds_and_latency_counts_from_the_first_due(offer: Offer) -> None:
    with OddServer(Flaky(1, b"503 Service Unavailable", b"retry-after: 1\r\n")) as server:
        result = offer(server.url, **{"client.retries": 2, "load.requests": 5})
    rows = result.requests
    assert statuses(rows) == {"ok": 5}
    assert (rows["attempt"] == 1).all()
    assert (rows["dispatch"] - rows["due"] >= SECOND).all()  # Retry-After was honoured
    assert (rows["first_token"] - rows["due"] >= SECOND).all()
    attempts = np.load(result.directory / "attempts.npy")
    assert attempts.dtype == REQUEST_DTYPE
    assert sorted(attempts["index"]) == sorted(rows["index"])
    assert (attempts["status"] == Status.http_5xx).all()
    assert (attempts["attempt"] == 0).all()
    summary = result.summary
    assert summary.requests.scheduled == summary.requests.succeeded == 5
    assert summary.latency.ttft_from_due_ms is not None
    assert summary.latency.ttft_from_due_ms.min >= 1000
    # waiting for the server's wish is no lateness of ours
    assert summary.load.schedule_lag_ms is None or summary.load.schedule_lag_ms.max < 1000


def test_attempts_end_and_the_last_status_counts(offer: Offer) -> None:
    with OddServer(Flaky(9, b"429 Too Many Requests", b"retry-after: 0\r\n")) as server:
        result = offer(server.url, **{"client.retries": 1, "load.requests": 3})
        sent = len(server.posts)
    assert statuses(result.requests) == {"rate_limited": 3}
    assert (result.requests["attempt"] == 1).all()
    assert sent == 6


def test_off_by_default_and_other_failures_are_final(offer: Offer) -> None:
    with OddServer(Flaky(1, b"503 Service Unavailable")) as server:
        assert statuses(offer(server.url, **{"load.requests": 3}).requests) == {"http_5xx": 3}
    with OddServer(Flaky(1, b"400 Bad Request")) as server:
        result = offer(server.url, **{"client.retries": 3, "load.requests": 3})
    assert statuses(result.requests) == {"http_4xx": 3}
    assert not (result.directory / "attempts.npy").exists()


def test_no_attempt_falls_beyond_the_drain(offer: Offer) -> None:
    with OddServer(Flaky(9, b"503 Service Unavailable", b"retry-after: 60\r\n")) as server:
        result = offer(server.url, **{"client.retries": 5, "load.requests": 3, "load.drain": 1.0})
    assert statuses(result.requests) == {"http_5xx": 3}
    assert (result.requests["attempt"] == 0).all()


def test_a_closed_loop_goes_on_after_its_attempts(offer: Offer) -> None:
    with OddServer(Flaky(1, b"429 Too Many Requests")) as server:
        result = offer(server.url, **{"client.retries": 1, "load.concurrency": 2, "load.requests": 4})
    assert statuses(result.requests) == {"ok": 4}
    assert (result.requests["attempt"] == 1).all()
