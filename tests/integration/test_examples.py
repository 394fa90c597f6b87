"""Every file of examples/ is planned and run against the embedded endpoint, as a user would."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from llmgen.simulator import Endpoint
from running import check_run, run_command

ROOT = Path(__file__).parents[2]
# Those of a server's own API need that server.
# A matrix is a suite of runs, with tests of its own.
EXAMPLES = sorted(
    path
    for path in (ROOT / "examples").glob("*.yaml")
    if not re.search(r"api: custom|^matrix:", path.read_text(), re.MULTILINE)
)
REQUESTS = 20


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 10


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(example: Path, endpoint: Endpoint, tmp_path: Path) -> None:
    flags: list[object] = [example, "--url", endpoint.url, "--requests", REQUESTS, "--warmup", 0, "--exact-output"]
    if "trace:" in example.read_text():
        flags += ["--trace-scale", 200]
    else:
        flags += ["--rate", 100]  # in the place of the file's own: its times are not for a test
    plan = run_command("plan", *flags, "--json", cwd=ROOT)
    assert plan.returncode == 0, plan.stderr
    planned = json.loads(plan.stdout)
    assert planned["requests"] == REQUESTS
    run = run_command("run", *flags, "--out", tmp_path, "--quiet", "--workers", 1, "--drain", "20s", cwd=ROOT)
    assert run.returncode in (0, 3), run.stderr  # a test's machine may miss an objective
    directory = (tmp_path / "latest").resolve()
    check_run(directory)
    rows = np.load(directory / "requests.npy")
    assert len(rows) == REQUESTS
    assert rows["planned_input"].sum() == planned["input_tokens"]
    # The endpoint counts words: what the plan says of made prompts is what it got.
    if example.stem not in ("own-data", "request-log"):
        np.testing.assert_array_equal(rows["input_tokens"], rows["planned_input"])


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_planned_as_it_stands(example: Path) -> None:
    done = run_command("plan", example, "--url", "http://127.0.0.1:9", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert " requests over " in done.stdout


def test_the_document_names_every_example_of_ours() -> None:
    named = set(re.findall(r"examples/([\w-]+)\.yaml", (ROOT / "docs" / "workloads.md").read_text()))
    assert named - {"NAME"} == {path.stem for path in EXAMPLES}
