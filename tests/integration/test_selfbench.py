"""`llmgen selfbench` as a command: a whole quick one, one that is interrupted, and the run after it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

from running import flags_of_short_run, run_command

SHORT = ("--quick", "--step", "100ms", "--time", "10s")


def test_a_quick_selfbench_and_the_verdict_of_the_run_after_it(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = run_command("selfbench", *SHORT, "--json", "--out", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["state"] == "complete"
    measured = {(ramp["protocol"], ramp["shape"]) for ramp in found["ramps"]}
    assert ("HTTP/1.1", "events") in measured
    for ramp in found["ramps"]:
        for step in ramp["steps"]:
            if step["verdict"] in ("valid", "suspect"):
                assert step["events_per_s"] > 0
                assert step["ttft"]["n"] > 0
                assert 0 < step["ttft"]["p50_ms"] < 1000
                # the error is that of a client, not of a wrong pairing: true TTFT 10 or 100 ms
                assert abs(step["ttft"]["p50_error_ms"]) < 5
    kept = json.loads((tmp_path / "cache" / "llmgen" / "selfbench.json").read_text())
    assert kept == found
    assert "Plotly" in (tmp_path / "page.html").read_text()
    # end to end: a later run that is late names this loop
    flags = ("--verdict", "invalid_lag_ms=0", "--verdict", "invalid_lag_share=0")
    flags += ("--verdict", "suspect_lag_ms=0", "--verdict", "suspect_lag_share=0")
    late = run_command(*flags_of_short_run(serve().url, tmp_path), *flags, "--json")
    assert late.returncode == 4, late.stderr
    named = f"a plain C timer loop was late by {found['timer_loop']['p99_us'] / 1000:.1f} ms here"
    assert named in json.loads(late.stdout)["verdict"]["reasons"][0]


def test_an_interrupt_prints_what_was_measured_and_says_that_it_is_partial(tmp_path):
    command = [sys.executable, "-m", "llmgen", "selfbench", *SHORT, "--progress"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if "HTTP/1.1 events" in line:
                    break
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=40)
        except BaseException:
            process.kill()
            raise
    assert process.returncode == 130, err
    assert out.startswith("partial: interrupted")
    assert "HTTP/1.1 events/s" in out
    assert list(tmp_path.iterdir()) == []  # neither a result that later runs would trust, nor scratch files
