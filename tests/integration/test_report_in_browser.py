"""report.html in a real browser, from disk with the network off: nothing on the console, every picture drawn."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from fabricate import MS, event_rows, request_rows, run_info, write_run
from llmgen.columns import Status
from llmgen.metrics.summary import summarise
from llmgen.records import open_run
from llmgen.report.html import write_html

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = "</script><script>alert(1)</script><b onclick=x>"


@pytest.mark.full
@pytest.mark.skipif(BROWSER is None, reason="chromium is not installed")
@pytest.mark.parametrize("window", ["1100,3000", "390,3000"])
def test_page_opens_and_draws(tmp_path: Path, window: str) -> None:
    rows = request_rows(500, every_ms=20, tokens=20)
    wait = (np.random.default_rng(1).exponential(30, 500) * MS).astype(np.int64)
    for name in ("first_token", "first_visible", "last_token", "end"):
        rows[name] += wait
    rows["input_tokens"] = np.arange(500) + 1
    rows["status"][::50], rows["http_status"][::50] = Status.http_5xx, 503
    info = run_info(500, every_ms=20, classes=[{"name": HOSTILE, "slo": []}], name=HOSTILE)
    run = open_run(write_run(tmp_path / "run", rows, event_rows(rows), info))
    (run.path / "errors.jsonl").write_text(json.dumps({"status": "http_5xx", "http_status": 503, "text": HOSTILE}))
    page = write_html(run, summarise(run))
    assert BROWSER is not None
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--window-size={window}", "--enable-logging=stderr", "--v=0",
        "--virtual-time-budget=10000", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    assert not re.findall(r".*CONSOLE.*", done.stderr)
    assert 'data-drawn="8"' in done.stdout
    drawn = re.findall(r'class="picture js-plotly-plot" id="([\w-]+)"|id="([\w-]+)"[^>]*js-plotly-plot', done.stdout)
    assert {a or b for a, b in drawn} == {"over-time", "ttft", "e2e", "itl", "load", "ttft-input", "tpot-context",
        "requests"}  # fmt: skip
    assert done.stdout.count('class="main-svg"') >= 8
    assert "<b onclick" not in re.sub(r"<script.*?</script>", "", done.stdout, flags=re.DOTALL)
