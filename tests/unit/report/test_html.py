"""report.html: whole, self-contained, escaped."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fabricate import MS, event_rows, never_sent, request_rows, run_info, write_run
from llmgen.columns import HISTOGRAM_DTYPE, Histogram, Status
from llmgen.metrics.summary import summarise, with_profiles
from llmgen.records import Run, open_run
from llmgen.report.html import render, write_html

HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)">\x1b[31m\0\ufffe'


class Page(HTMLParser):
    """Elements, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        (self.scripts if self._inside == "script" else self.words).append(data)

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""


def make(path: Path, *, hostile: bool = False, events: bool = True, **info: Any) -> Run:
    rows = request_rows(200, every_ms=20, tokens=20)
    rows["klass"] = np.arange(200) % 2
    wait = (np.random.default_rng(1).exponential(30, 200) * MS).astype(np.int64)
    for name in ("first_token", "first_visible", "last_token", "end"):
        rows[name] += wait
    for name in ("first_token", "first_visible", "last_token", "max_gap"):
        rows[name][:3] = -1
    rows["status"][:3], rows["http_status"][:3], rows["token_events"][:3] = Status.http_5xx, 503, 0
    rows["output_tokens"][:3] = -1
    name = HOSTILE if hostile else "short"
    classes = [{"name": name, "slo": ["tpot<20ms"]}, {"name": "long", "slo": []}]
    told = run_info(200, every_ms=20, classes=classes, **info)
    told["config"]["slo"] = ["ttft_p95<800ms"]
    if hostile:
        told |= {"name": HOSTILE, "note": HOSTILE, "tags": {HOSTILE: HOSTILE}, "targets": [{"url": HOSTILE}]}
    hist = np.zeros(20, HISTOGRAM_DTYPE)
    hist["metric"], hist["bucket"], hist["count"] = Histogram.itl, 800 + np.arange(20), 9
    run = write_run(path / "run", rows, event_rows(rows) if events else None, told, hist)
    text = HOSTILE if hostile else "overloaded"
    (run / "errors.jsonl").write_text(json.dumps({"status": "http_5xx", "http_status": 503, "text": text}) + "\n")
    return open_run(run)


def figures(page: Page) -> dict[str, Any]:
    (found,) = [text for text in page.scripts if text.startswith('{"over-time"')]
    return json.loads(found)


def test_page_holds_everything(tmp_path: Path) -> None:
    run = make(tmp_path)
    s = summarise(run)
    page = Page(render(run, s))
    places = {attributes.get("id") for tag, attributes in page.tags if tag == "div" and "id" in attributes}
    made = figures(page)
    assert places == set(made) == {"over-time", "ttft", "e2e", "itl", "load", "requests"}
    text = " ".join(page.words)
    for words in ("valid", "TTFT from due", "ttft_p95<800ms", "met", "http_5xx: 3", "overloaded", "Slowest requests"):
        assert words in text, words
    assert s.latency.ttft_ms is not None
    assert f"{s.latency.ttft_ms.p50:.1f}" in text


def test_pictures_are_drawn_from_the_records(tmp_path: Path) -> None:
    run = make(tmp_path)
    made = figures(Page(render(run, summarise(run))))
    traces = {trace["name"]: trace for trace in made["over-time"]["data"]}
    width = traces["sent"]["x"][0] * 2
    assert sum(traces["sent"]["y"]) * width == pytest.approx(200)
    assert max(traces["in flight"]["y"]) >= 10
    assert sum(traces["output tokens/s"]["y"]) * width == pytest.approx(197 * 20, rel=1e-3)
    failed = sum(sum(traces[name]["y"]) for name in ("http_5xx · short", "http_5xx · long"))
    assert failed * width == pytest.approx(3)
    cdf = [trace for trace in made["ttft"]["data"] if trace.get("yaxis") == "y2"]
    assert len(cdf) == 2
    for trace in cdf:
        assert trace["y"][0] == 0
        assert trace["y"][-1] == 1
        assert trace["x"] == sorted(trace["x"])
    for trace in made["ttft"]["data"]:
        if trace not in cdf:
            assert sum(trace["y"]) == pytest.approx(1, abs=0.01)
    axes = [key for key in made["over-time"]["layout"] if key.startswith("yaxis")]
    assert len(axes) == len({trace["yaxis"] for trace in made["over-time"]["data"]})


def test_nothing_is_fetched(tmp_path: Path) -> None:
    run = make(tmp_path)
    page = Page(render(run, summarise(run)))
    for tag, attributes in page.tags:
        assert not {"src", "href", "action", "data"} & set(attributes), (tag, attributes)
        assert tag not in ("link", "iframe", "object", "embed", "base")
    policy = next(a for tag, a in page.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in str(policy["content"])


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    run = make(tmp_path, hostile=True)
    text = render(run, summarise(run))
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 3
    assert "img" not in [tag for tag, _ in page.tags]
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "\0" not in text
    assert "\x1b" not in text
    assert HOSTILE[:30] in " ".join(page.words)  # told, not dropped
    names = {trace["name"] for trace in figures(page)["ttft"]["data"]}
    assert not any("<" in name for name in names)  # plotly would read tags


def test_level_requests_and_an_empty_run(tmp_path: Path) -> None:
    run = make(tmp_path / "a", events=False)
    made = figures(Page(render(run, summarise(run))))
    assert set(made) == {"over-time", "ttft", "e2e", "itl", "load", "requests"}
    assert [trace["name"] for trace in made["itl"]["data"]] == ["short", "short"]  # the histograms have no other class
    rows = never_sent(request_rows(3))
    empty = open_run(write_run(tmp_path / "b", rows, event_rows(rows), run_info(3)))
    page = Page(render(empty, summarise(empty)))
    assert set(figures(page)) == {"over-time"}


def test_size_and_place(tmp_path: Path) -> None:
    run = make(tmp_path)
    path = write_html(run, summarise(run))
    assert path == run.path / "report.html"
    assert path.stat().st_size < 8_000_000
    assert not list(run.path.glob(".report*"))
    other = write_html(run, summarise(run), tmp_path / "x.html")
    assert other.read_bytes() == path.read_bytes()
    assert re.match(r"<!doctype html>\n<html lang=\"en\">", path.read_text())


def test_requests_are_drawn_phase_by_phase(tmp_path: Path) -> None:
    run = make(tmp_path)
    made = figures(Page(render(run, summarise(run))))["requests"]
    bars = {trace["name"]: trace for trace in made["data"] if trace["type"] == "bar"}
    assert list(bars) == ["lag and queue", "connect", "to the first token", "tokens", "end"]
    names = bars["tokens"]["y"]
    assert len(names) == len(set(names)) <= 40
    assert sum(name.startswith("*") for name in names) == 10
    row = int(names[5].lstrip("*#").split()[0])
    request = run.requests[row]
    first = (request["first_token"] - request["due"]) / MS
    assert bars["tokens"]["base"][5] == pytest.approx(first, rel=1e-3)
    assert bars["tokens"]["x"][5] == pytest.approx(190, rel=1e-3)  # 19 gaps of 10 ms
    assert bars["connect"]["x"][5] == pytest.approx(0.8, rel=1e-3)  # from the dispatch to the send
    (ticks,) = [trace for trace in made["data"] if trace["type"] == "scatter"]
    mine = [x for x, y in zip(ticks["x"], ticks["y"], strict=True) if y == names[5]]
    assert mine == pytest.approx([first + 10 * place for place in range(20)], rel=1e-3)


def test_latency_against_tokens_needs_different_tokens(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.__dict__["requests"] = run.requests.copy()
    run.requests["input_tokens"] = np.resize([10, 2000], 200)
    made = figures(Page(render(run, summarise(run))))
    cloud = made["ttft-input"]["data"]
    assert [trace["name"] for trace in cloud] == ["short", "long", "p50", "p95"]
    assert sum(len(trace["x"]) for trace in cloud[:2]) == 197
    assert "e2e-output" not in made


def test_conclusions_are_on_the_page(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.info["config"]["prices"] = {"gpu_hour": 2.0}
    run.__dict__["requests"] = run.requests.copy()
    run.requests["session"], run.requests["turn"] = np.arange(200) // 2, np.arange(200) % 2
    run.requests["reads"] = 1
    text = " ".join(Page(render(run, with_profiles(run, summarise(run), None))).words)
    for words in (
        "Diagnosis",
        "buffering-proxy",
        "Try:",
        "Sessions",
        "without a failed turn",
        "Timeouts and patience",
        "Cost",
        "As others tell it",
        "inference-perf",
        "Checklist",
        "of 8 items",
        "Turns",
    ):
        assert words in text, words


def test_the_page_of_a_large_run_stays_small(tmp_path: Path) -> None:
    """Nothing on it grows with the requests but up to its limits."""
    rows = request_rows(20_000, every_ms=5, tokens=10)
    rng = np.random.default_rng(1)
    wait = (rng.exponential(300, 20_000) * MS).astype(np.int64)
    for name in ("first_token", "first_visible", "last_token", "end"):
        rows[name] += wait
    rows["input_tokens"] = rng.integers(1, 9000, 20_000)
    rows["output_tokens"] = rng.integers(2, 900, 20_000)
    rows["klass"] = np.arange(20_000) % 5
    classes = [{"name": f"class {number}", "slo": []} for number in range(5)]
    told = run_info(20_000, every_ms=5, classes=classes)
    run = open_run(write_run(tmp_path / "run", rows, event_rows(rows), told))
    assert write_html(run, summarise(run)).stat().st_size < 6_500_000
