"""The terminal report: faithful, 80 columns, harmless."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fabricate import MS, event_rows, never_sent, request_rows, run_info, write_run
from llmgen.columns import Status
from llmgen.metrics.figures import Summary, Verdict
from llmgen.metrics.summary import summarise
from llmgen.records import open_run
from llmgen.report.canvas import number, share
from llmgen.report.text import protocol_text, render

HOSTILE = "\x1b[2J\x1b]0;title\x07</script>\r\n\0=1+1 \u202e"


def make(path: Path, **info: Any) -> tuple[Summary, dict[str, Any]]:
    rows = request_rows(300, every_ms=20)
    rng = np.random.default_rng(1)
    wait = (rng.exponential(30, 300) * MS).astype(np.int64)
    for name in ("first_token", "first_visible", "last_token", "end"):
        rows[name] += wait
    rows["klass"] = np.arange(300) % 2
    for name in ("first_token", "first_visible", "last_token", "max_gap"):
        rows[name][:3] = -1
    rows["status"][:3], rows["http_status"][:3], rows["token_events"][:3] = Status.http_5xx, 503, 0
    classes = [{"name": "short", "slo": ["tpot<20ms"]}, {"name": "long", "slo": []}]
    told = run_info(300, every_ms=20, classes=classes, **info)
    told["config"]["slo"] = ["ttft_p95<800ms", "goodput>=0.999", "e2e_p99<10s"]
    run = open_run(write_run(path / "run", rows, event_rows(rows), told))
    return summarise(run), told


def plain_text(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_the_protocol_is_told_where_it_is_not_plain_http1() -> None:
    assert protocol_text({"server": [{"protocol": 1}]}) == ""
    assert protocol_text({"server": [{"protocol": 2}]}) == "HTTP/2"
    workers = [{"tls_handshakes": 8, "tls_resumed": 6}, {"tls_handshakes": 4}]
    info = {"server": [{"protocol": 2, "tls": "TLSv1.3"}], "workers_detail": workers}
    assert protocol_text(info) == "HTTP/2, TLSv1.3, 12 handshakes (6 resumed)"
    assert protocol_text({"server": "edited", "workers_detail": 3}) == ""


def test_report_says_what_the_summary_says(tmp_path: Path) -> None:
    s, info = make(tmp_path)
    text = render(s, info, errors=[{"status": "http_5xx", "http_status": 503, "text": "overloaded, try later"}])
    assert text.lstrip().startswith("VALID")
    ttft = s.latency.ttft_from_due_ms
    assert ttft is not None
    (line,) = [line for line in text.splitlines() if line.startswith("TTFT from due")]
    assert line.split()[3:5] == [number(ttft.p50), number(ttft.p90)]
    assert line.split()[-2:] == ["297", "3"]
    for words in (
        "300 requests, constant · 50.0/s over the schedule",
        "300 sent (100 %)",
        "297 ok (99 %), 3 failed",
        "http_5xx",
        "503 overloaded, try later",
        "✗  goodput>=0.999",
        "✓  ttft_p95<800ms",
        "class:short tpot<20ms",
        "schedule lag p50 0.2",
        "short",
    ):
        assert words in text, words
    assert "too few values" in text  # a p99 of 297


@pytest.mark.parametrize("color", [False, True])
def test_lines_fit_80_columns(tmp_path: Path, color: bool) -> None:
    s, info = make(tmp_path)
    reasons = tuple("a reason that is much longer than a line of the terminal can be, " * 2 for _ in range(3))
    s = msgspec.structs.replace(s, verdict=Verdict(status="suspect", reasons=reasons, notes=reasons))
    errors = [{"status": "http_5xx", "text": "x" * 3000}]
    text = render(s, info, color=color, errors=errors)
    assert max(len(line) for line in plain_text(text).splitlines()) <= 80
    assert ("\x1b[" in text) is color
    # the same words, but for blanks that a style runs over to the end of a line
    assert [line.rstrip() for line in plain_text(text).splitlines()] == render(s, info, errors=errors).splitlines()


def test_hostile_text_is_shown_harmlessly(tmp_path: Path) -> None:
    classes = [{"name": f"a{HOSTILE}", "slo": []}, {"name": "[bold]b[/bold]", "slo": []}]
    s, info = make(tmp_path)
    s = msgspec.structs.replace(
        s,
        name=HOSTILE,
        tags={HOSTILE: HOSTILE},
        classes=dict(zip((c["name"] for c in classes), s.classes.values(), strict=True)),
    )
    info["targets"] = [{"url": HOSTILE}]
    text = render(s, info, errors=[{"status": "http_5xx", "http_status": 503, "text": HOSTILE * 9}])
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert "[bold]b[/bold]" in text
    assert "\\x1b[2J" in text


def test_a_run_without_answers_has_no_latency_table(tmp_path: Path) -> None:
    rows = never_sent(request_rows(5))
    info = run_info(5, state="incomplete", reasons=["worker 0 was killed (SIGKILL)"])
    text = render(summarise(open_run(write_run(tmp_path / "run", rows, event_rows(rows), info))), info)
    assert "INCOMPLETE" in text
    assert "worker 0 was killed (SIGKILL)" in text
    assert "nothing to measure" in text
    assert "TTFT" not in text


def test_render_needs_no_run_json(tmp_path: Path) -> None:
    s, _ = make(tmp_path)
    assert "LATENCY" in render(s)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0004, "<0.001"), (0.0123, "0.012"), (0.2, "0.2"), (1, "1.00"), (12.34, "12.3"), (123.4, "123"),
     (1234.5, "1,234"), (9.999, "10.00")],
)  # fmt: skip
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_a_share_is_100_percent_only_if_nothing_is_missing() -> None:
    assert share(1) == "100 %"
    assert share(0) == "0 %"
    assert share(0.9999) == "99.99 %"
    assert share(0.5) == "50 %"
    assert share(1e-5) == "0.001 %"
