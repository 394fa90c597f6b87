"""A busy process on the worker's core makes us read late; the tokens' times are the kernel's and stay true."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from llmgen import machine
from llmgen.simulator.truth import read_truth, timing
from running import run_command

# A machine that does other things may stop the server between its stamp and its write: not in most requests.
TRUE_MS = 1.0
SPINNER = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); print(flush=True)\nwhile True: pass"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="client and server need a core each")
def test_kernel_stamps_stay_true_beside_a_busy_process(serve, tmp_path):
    server_core, *_, core = machine.affinity()
    truth = tmp_path / "truth"
    endpoint = serve(ttft="50ms", itl="20ms", cores=str(server_core), truth=str(truth))
    spinner = subprocess.Popen(
        [sys.executable, "-c", SPINNER, str(core)],
        stdout=subprocess.PIPE,
        start_new_session=True,  # as the workers: the scheduler shares the core between the two
        preexec_fn=machine.carry_niceness,
    )
    there = functools.partial(os.sched_setaffinity, 0, {core})
    try:
        assert spinner.stdout.readline()
        flags = ["--rate", "150", "--duration", "1500ms", "--output-tokens", "10", "--workers", "1", "--no-pin"]
        done = run_command("run", "--url", endpoint.url, *flags, "--json", "--out", tmp_path, preexec_fn=there)
    finally:
        spinner.kill()
        spinner.communicate()
    assert done.returncode in (0, 4), done.stderr
    endpoint.stop()
    rows, true = np.load(tmp_path / "latest" / "requests.npy"), timing(read_truth(truth))
    true_ns = true.ttft[np.argsort(true.index)]
    assert len(rows) == len(true_ns) > 100
    error = (rows["first_token"] - rows["send"] - true_ns) / 1e6
    assert np.abs(np.median(error)) < TRUE_MS
    by_user = (rows["first_token_user"] - rows["send"] - true_ns) / 1e6
    assert by_user.mean() > error.mean()
    client = json.loads(done.stdout)["client"]
    assert client["stamps"] == "kernel"
    assert client["drain_lag_us"]["p99"] > 100  # undisturbed it is some tens
