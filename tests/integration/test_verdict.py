"""Thresholds of the verdict go with the run: whoever reports it again judges it the same."""

from __future__ import annotations

import json

from running import flags_of_short_run, run_command

NO_LAG = [f"{kind}_lag_{unit}=0" for kind in ("suspect", "invalid") for unit in ("ms", "share")]


def test_thresholds_are_kept_with_the_run(serve, tmp_path):
    flags = [part for limit in NO_LAG for part in ("--verdict", limit)]
    done = run_command(*flags_of_short_run(serve().url, tmp_path), *flags, "--json")
    # no request goes out at the very nanosecond
    assert done.returncode == 4, done.stderr
    verdict = json.loads(done.stdout)["verdict"]
    assert verdict["status"] == "invalid"
    assert "limit 0.0 ms" in verdict["reasons"][0]
    directory = (tmp_path / "latest").resolve()
    kept = json.loads((directory / "run.json").read_text())["config"]["verdict"]
    assert kept == dict.fromkeys((limit.partition("=")[0] for limit in NO_LAG), 0.0)
    again = run_command("report", directory, "--format", "json")
    assert json.loads(again.stdout)["verdict"] == verdict


def test_an_unknown_threshold_is_refused_with_the_known_ones(tmp_path):
    done = run_command(*flags_of_short_run("http://127.0.0.1:1", tmp_path), "--verdict", "suspect_lag=5")
    assert done.returncode == 2
    for word in ("verdict.suspect_lag", "did you mean 'suspect_lag_", "invalid_client_limit"):
        assert word in done.stderr
