"""Fixtures of the integration tests: runs whose books are checked, and embedded endpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import llmgen
from llmgen.run import Result
from llmgen.simulator import Endpoint, Options
from running import Offer, check_run, configuration


@pytest.fixture
def offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Offer:
    """``offer(url, **flags)`` runs, checks the books, and returns the Result."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def run(url: str | list[str], **flags: Any) -> Result:
        result = llmgen.run(configuration(url, tmp_path / "runs", **flags), quiet=True)
        check_run(result.directory)
        return result

    return run


@pytest.fixture
def serve() -> Iterator[Callable[..., Endpoint]]:
    """``serve(fault=("503:1",), …)`` starts an embedded endpoint that ends with the test."""
    running: list[Endpoint] = []

    def start(**options: Any) -> Endpoint:
        endpoint = Endpoint(Options(**{"ttft": "2ms", "itl": "1ms", **options}))
        running.append(endpoint)
        return endpoint

    yield start
    for endpoint in running:
        endpoint.stop()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    """A well-behaved embedded endpoint for the tests of a file."""
    with Endpoint(Options(ttft="2ms", itl="1ms")) as running:
        yield running
