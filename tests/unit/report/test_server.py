"""The server in the reports: its lines, its panels on the client's time axis, its marks; nothing without telemetry."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from fabricate import event_rows, request_rows, run_info, write_run
from fabricate_telemetry import Values, write_telemetry
from llmgen.metrics.measurements import Measurements
from llmgen.metrics.summary import summarise
from llmgen.records import Run, open_run
from llmgen.report import html, server_plots, text
from llmgen.report.server_plots import MOST_POINTS, rate, thinned
from llmgen.telemetry.readings import Track

SERVER: Values = {
    "running": lambda t: 10 + t, "waiting": lambda t: 0.0, "kv_usage": lambda t: t / 20, "preemptions": lambda t: 3 * t,
    "ttft.sum": lambda t: 0.03 * 10 * t, "ttft.count": lambda t: 10 * t,
    "queue_time.sum": lambda t: 0.002 * 10 * t, "queue_time.count": lambda t: 10 * t,
    "batch_tokens.sum": lambda t: 640 * t, "batch_tokens.count": lambda t: 10 * t,
    "start_time": lambda t: 5.0 if t < 5 else 900.0, "failed": lambda t: 2 * t,
}  # fmt: skip


def made(directory: Path, values: Values | None = SERVER, **more: Any) -> Run:
    if values is not None:
        writer = write_telemetry(directory, values, seconds=10, **more)
        write_telemetry(
            directory,
            {"gpu_util[0]": lambda t: 0.9, "gpu_util[1]": lambda t: 0.4, "gpu_xid[1]": lambda t: 79.0 * (t > 3)},
            seconds=10, family="dcgm", number=1, writer=writer,
        ).close()  # fmt: skip
    rows = request_rows(100)
    return open_run(write_run(directory, rows, event_rows(rows), run_info(100)))


def test_the_terminal_says_what_the_server_said(tmp_path: Path) -> None:
    run = made(tmp_path, gap=(5.0, 6.0))
    shown = text.render(summarise(run), run.info, width=100)
    section = " ".join(shown.split("SERVER")[1].split("\n\n")[0].split())
    assert "vllm, dcgm: 40 readings, 2 failed" in section
    assert re.search(r"requests 14\.\d \(at most 20\.0\) running, 0 \(at most 0\) waiting, 29 failed", section)
    assert re.search(r"KV cache 2\d(\.\d)? % in use \(at most 50 %\), \d\d preemptions", section)
    assert "64.0 tokens an iteration" in section
    assert "TTFT 30.0 ms by the server, 50.0 by us: 20.0 ms between (means)" in section
    assert "queue time 2.00 ms in the server" in section
    assert "GPUs busy 65 %" in section
    assert "5.00 s to 6.00 s: http://vllm:0/metrics: Connection refused" in section
    assert "6.00 s: vllm restarted" in section
    assert "XID 79 on GPU 1" in section


def test_others_who_use_the_server_are_said(tmp_path: Path) -> None:
    values = {"ttft.sum": lambda t: 0.03 * 40 * t, "ttft.count": lambda t: 40 * t}
    shown = " ".join(text.render(summarise(made(tmp_path, values)), width=200).split())
    assert "not the same requests: 400 there, 100 here" in shown


def test_without_telemetry_neither_report_speaks_of_a_server(tmp_path: Path) -> None:
    run = made(tmp_path, None)
    summary = summarise(run)
    assert "SERVER" not in text.render(summary)
    assert "<h2>The server</h2>" not in html.render(run, summary)
    assert server_plots.panels(Measurements(run)) == []
    assert server_plots.shapes(Measurements(run)) == []


def test_the_page_has_the_server_s_panels_on_the_client_s_axis(tmp_path: Path) -> None:
    run = made(tmp_path)
    page = html.render(run, summarise(run))
    assert "<h2>The server</h2>" in page
    [data] = re.findall(r'<script[^>]*id="figures"[^>]*>(.*?)</script>', page, re.DOTALL)
    figure = json.loads(data)["over-time"]
    titles = [note["text"] for note in figure["layout"]["annotations"]]
    for title in (
        "server: requests running, waiting",
        "server: KV cache in use, %",
        "server: preemptions/s",
        "GPU busy, %",
    ):
        assert title in titles
    assert {trace["xaxis"] for trace in figure["data"]} == {"x"}
    running = next(trace for trace in figure["data"] if trace["name"] == "running")
    assert (running["x"][0], running["y"][0]) == (0, 10)
    assert (running["x"][-1], running["y"][-1]) == (10, 20)
    preemptions = next(trace for trace in figure["data"] if trace["name"] == "preemptions")
    before = [y for x, y in zip(preemptions["x"], preemptions["y"], strict=True) if x < 5]
    assert np.allclose(before, 3)
    assert {trace["name"] for trace in figure["data"]} >= {"GPU 0", "GPU 1"}
    marks = [(shape["x0"], shape["label"]["text"]) for shape in figure["layout"]["shapes"] if "label" in shape]
    assert (5, "vllm restarted") in marks
    assert (3.5, "XID 79 on GPU 1") in marks


def test_what_a_server_says_of_itself_cannot_leave_its_place(tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script>"
    writer = write_telemetry(tmp_path, SERVER, seconds=10, family="vllm")
    writer.source(1, f"http://x/{hostile}", 0.5)
    writer.failure(1, 5_000_001_000_000, 1, hostile)
    writer.close()
    rows = request_rows(20)
    run = open_run(write_run(tmp_path, rows, event_rows(rows), run_info(20)))
    assert "<script>alert" not in html.render(run, summarise(run))


def test_a_rate_leaves_out_readings_that_lie_close_together() -> None:
    t = np.array([0, 1000, 1010, 2000, 3000], np.int64) * 1_000_000
    found = rate(Track(t, np.array([0.0, 10, 11, 20, 40])))
    assert found is not None
    assert found.t.tolist() == [1_000_000_000, 2_000_000_000, 3_000_000_000]
    assert found.v.tolist() == [10, 10, 20]
    assert rate(Track(t[:1], np.array([1.0]))) is None
    assert rate(None) is None


def test_a_curve_does_not_lead_across_an_outage(tmp_path: Path) -> None:
    run = made(tmp_path, gap=(5.0, 8.0))
    panels = {title: traces for title, traces, _ in server_plots.panels(Measurements(run))}
    for title in ("server: requests running, waiting", "server: preemptions/s"):
        curve = panels[title][0]
        assert [x for x, y in zip(curve["x"], curve["y"], strict=True) if y is None] == [4.5]
        assert curve["x"] == sorted(curve["x"])


def test_a_node_s_share_of_busy_time(tmp_path: Path) -> None:
    values: Values = {"node_cpu_idle": lambda t: 70 + 0.5 * t, "node_cpu": lambda t: 900 + 2 * t}
    panels = {title: traces for title, traces, _ in server_plots.panels(Measurements(made(tmp_path, values)))}
    assert np.allclose(panels["node: CPUs busy, %"][0]["y"], 75)


def test_thinning_keeps_every_peak() -> None:
    rng = np.random.default_rng(2)
    v = rng.normal(size=50_000)
    v[12_345], v[40_000] = 99, -99
    v[100:400] = np.nan
    found = thinned(Track(np.arange(50_000), v))
    assert len(found.t) <= MOST_POINTS
    assert np.nanmax(found.v) == 99
    assert np.nanmin(found.v) == -99
    assert (np.diff(found.t) > 0).all()
