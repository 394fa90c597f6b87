"""Replay of the Azure LLM 2023 trace: each row is a request, at its time, with its lengths, as the server saw them."""

from __future__ import annotations

import csv
import json
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

import llmgen
from llmgen.simulator.truth import read_truth
from running import PATIENCE_S, check_run, configuration, statuses

TRACE = Path(__file__).parents[3] / "shared" / "data" / "azure_llm_2023_conv.csv"

pytestmark = pytest.mark.skipif(not TRACE.exists(), reason="the trace is not here")


def rows_until(seconds: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times (ns after the first), input and output lengths of the rows of the first `seconds`; read without llmgen."""
    times, inputs, outputs = [], [], []
    with TRACE.open(newline="") as file:
        for row in csv.DictReader(file):
            stamp = row["TIMESTAMP"]
            whole, _, fraction = stamp.partition(".")
            moment = datetime.strptime(whole, "%Y-%m-%d %H:%M:%S")
            ns = round((moment - datetime(2023, 1, 1)).total_seconds()) * 10**9 + int(fraction.ljust(9, "0"))
            if times and ns - times[0] >= seconds * 10**9:
                break
            times.append(ns)
            inputs.append(int(row["ContextTokens"]))
            outputs.append(int(row["GeneratedTokens"]))
    return np.array(times) - times[0], np.array(inputs), np.array(outputs)


def replay(serve, tmp_path, seconds: float, scale: float):
    """Trace time `seconds`, offered in `seconds` / `scale`."""
    truth_file = tmp_path / "truth"
    # answers of hundreds of tokens must not outlast the test: a few ms for all of them
    endpoint = serve(ttft="1ms", itl="0", tokens_per_event="64", truth=str(truth_file))
    config = configuration(
        endpoint.url,
        tmp_path / "runs",
        **{
            "load.requests": None,
            "load.trace.file": str(TRACE),
            "load.trace.format": "azure",
            "load.trace.scale": scale,
            "load.duration": seconds / scale,
        },
    )
    result = llmgen.run(config, quiet=True)
    check_run(result.directory)
    endpoint.stop()
    return result, read_truth(truth_file)


def check_replay(result, truth, seconds: float, scale: float) -> None:
    times, inputs, outputs = rows_until(seconds)
    rows = result.requests
    assert len(rows) == len(times) > 100
    start = json.loads((result.directory / "run.json").read_text())["start_ns"]
    due = rows["due"] - start
    wanted = times if scale == 1 else times / scale
    assert np.abs(due - wanted).max() <= (0 if scale == 1 else 1)  # scaled times are rounded to ns
    np.testing.assert_array_equal(rows["planned_input"], inputs)
    np.testing.assert_array_equal(rows["planned_output"], outputs)
    assert statuses(rows) == {"ok": len(times)}
    # what the server counted: words of the prompt, tokens it sent
    np.testing.assert_array_equal(rows["input_tokens"], inputs)
    np.testing.assert_array_equal(rows["output_tokens"], outputs)
    seen = truth.requests[np.argsort(truth.requests["index"], kind="stable")]
    seen = seen[seen["index"] >= 0]
    np.testing.assert_array_equal(seen["index"], np.arange(len(times)))
    np.testing.assert_array_equal(seen["input_tokens"], inputs)
    np.testing.assert_array_equal(seen["tokens"], outputs)
    assert (seen["t"] >= rows["due"]).all()  # nothing reaches the server before it is due


def test_the_first_minute_in_three_seconds(serve, tmp_path):
    result, truth = replay(serve, tmp_path, 60, 20)
    check_replay(result, truth, 60, 20)


@pytest.mark.full
@pytest.mark.timeout(60 + 2 * PATIENCE_S)
def test_the_first_minute(serve, tmp_path):
    result, truth = replay(serve, tmp_path, 60, 1)
    check_replay(result, truth, 60, 1)
