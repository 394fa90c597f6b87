"""OpenMetrics text of a summary, read by the parser of prometheus_client."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from fabricate import event_rows, request_rows, run_info, write_run
from llmgen.columns import Status
from llmgen.metrics.summary import summarise
from llmgen.records import open_run
from llmgen.report.openmetrics import Exposition, cumulative, render

HOSTILE = 'a"\\\n} 1\n# EOF\x1b[31m\0'


def samples(text: str) -> dict[tuple[str, str, str], float]:
    """(name, class, status or quantile) → value."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            other = sample.labels.get("status") or sample.labels.get("quantile") or sample.labels.get("objective") or ""
            found[sample.name, sample.labels.get("class", ""), other] = sample.value
    return found


def test_the_summary_is_read_back(tmp_path: Path) -> None:
    rows = request_rows(100)
    rows["klass"] = np.arange(100) % 2
    rows["status"][:4] = Status.http_5xx
    told = run_info(100, classes=[{"name": "a", "slo": ["e2e_p99<1ms"]}, {"name": "b", "slo": []}])
    told["config"]["slo"] = ["ttft_p90<1s", "ttft<1s"]
    s = summarise(open_run(write_run(tmp_path / "run", rows, event_rows(rows), told)))
    found = samples(render(s))
    assert found["llmgen_requests", "", "ok"] == 96
    assert found["llmgen_requests", "a", "http_5xx"] == 2
    assert found["llmgen_ttft_seconds", "", "0.99"] == pytest.approx(0.05)
    assert found["llmgen_ttft_seconds_count", "b", ""] == 50
    assert found["llmgen_ttft_seconds_sum", "b", ""] == pytest.approx(2.5)
    assert found["llmgen_itl_seconds", "a", "0.5"] == pytest.approx(0.01)
    assert found["llmgen_goodput", "", ""] == 0.96
    assert found["llmgen_slo_met", "", "ttft_p90<1s"] == 1
    assert found["llmgen_slo_met", "a", "e2e_p99<1ms"] == 0
    assert found["llmgen_verdict", "", "valid"] == 1
    assert found["llmgen_offered_rate", "", ""] == 10


def test_hostile_labels_stay_in_their_quotes(tmp_path: Path) -> None:
    rows = request_rows(5)
    classes = [{"name": HOSTILE, "slo": []}, {"name": "b", "slo": []}]
    told = run_info(5, name=HOSTILE, tags={HOSTILE: HOSTILE}, classes=classes)
    text = render(summarise(open_run(write_run(tmp_path / "run", rows, event_rows(rows), told))))
    assert [line for line in text.splitlines() if line.startswith("# EOF")] == ["# EOF"]
    assert not {"\x1b", "\0"} & set(text)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    (info,) = families["llmgen_run"].samples
    assert info.labels["name"].startswith('a"')


def test_coarse_buckets_of_fine_ones() -> None:
    assert cumulative([1, 2, 3, 4], [0.1, 0.2, 0.4, 0.8], [0.05, 0.2, 0.5, 9]) == [0, 3, 6, 10]


def test_whole_numbers_are_written_whole() -> None:
    out = Exposition()
    out.family("x", "gauge", "X.")
    out.sample("x", 3.0)
    out.sample("x", 0.25, {"a": 1})
    assert out.text().splitlines()[2:] == ["x 3", 'x{a="1"} 0.25', "# EOF"]
