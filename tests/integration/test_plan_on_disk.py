"""The plan of a run that is longer than a segment: its bodies go once every worker has left them behind."""

from __future__ import annotations

from typing import Any

import pytest

from llmgen.planning import FIRST_SEGMENT_ROWS, PlanBuilder
from llmgen.simulator import Endpoint
from running import Offer, statuses


def test_bodies_go_while_the_run_goes_on(endpoint: Endpoint, offer: Offer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    drop = PlanBuilder.drop_bodies

    def watched(self: PlanBuilder, passed: int) -> None:
        drop(self, passed)
        seen.append((passed, len(list(self._writer.directory.glob("*.spans")))))

    monkeypatch.setattr(PlanBuilder, "drop_bodies", watched)
    count = FIRST_SEGMENT_ROWS + 3000
    short: dict[str, Any] = {"load.concurrency": 64, "load.requests": count, "workload.output": 1}
    result = offer(endpoint.url, **short, **{"client.workers": 2, "record": "requests"})
    assert statuses(result.requests) == {"ok": count}
    assert seen[0] == (0, 2)  # a closed loop is planned 65,536 requests ahead
    assert seen[-1] == (1, 1)
