"""--patience: streams without a first token are cancelled for real, and count as misses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from llmgen.columns import Status
from llmgen.simulator import Endpoint
from running import Offer, statuses

MS = 1_000_000


def test_streams_without_a_first_token_are_abandoned(offer: Offer, serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(ttft="5s")
    result = offer(endpoint.url, **{"client.patience": 0.3, "slo": ["ttft<10s"]})
    rows = result.requests
    assert statuses(rows) == {"abandoned": 20}
    waited = rows["end"] - rows["due"]
    assert (waited >= 300 * MS).all()
    assert (rows["first_token"] < 0).all()
    assert (rows["send"] >= 0).all()
    assert result.summary.requests.failed == {"abandoned": 20}
    assert result.summary.throughput.goodput == 0
    assert result.exit_code == 5


def test_who_has_a_first_token_stays_to_the_end(offer: Offer, serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(ttft="10ms", itl="60ms")  # an answer takes longer than the patience
    result = offer(endpoint.url, **{"client.patience": 0.25})
    rows = result.requests
    assert statuses(rows) == {"ok": 20}
    assert np.min(rows["end"] - rows["due"]) > 250 * MS


def test_patience_counts_from_due_and_beats_the_time_limit(offer: Offer, serve: Callable[..., Endpoint]) -> None:
    """One connection: who waits for it in our own queue leaves as well."""
    endpoint = serve(ttft="5s")
    result = offer(endpoint.url, **{"client.patience": 0.3, "client.connections": 1})
    rows = result.requests
    assert set(np.unique(rows["status"])) == {Status.abandoned}
    assert (rows["send"] < 0).any()


def test_whole_answers_know_no_first_token(offer: Offer, serve: Callable[..., Endpoint]) -> None:
    result = offer(serve(ttft="400ms").url, **{"client.patience": 0.1, "workload.stream": False, "load.requests": 3})
    assert statuses(result.requests) == {"ok": 3}


@pytest.mark.parametrize("value", [0, -1])
def test_patience_is_above_zero(offer: Offer, value: float) -> None:
    with pytest.raises(Exception, match=r"client\.patience"):
        offer("http://127.0.0.1:9", **{"client.patience": value})
