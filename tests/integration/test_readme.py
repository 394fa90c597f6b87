"""Every command of the README works as it stands there: only its server's address, its length and its folder differ."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmgen.simulator import Endpoint, Options

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.removeprefix("$ ")
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ ")
]


def llmgen(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = shlex.split(command)
    assert words[0] == "llmgen"
    program = [sys.executable, "-m", "llmgen"]
    return subprocess.run([*program, *words[1:]], cwd=folder, capture_output=True, text=True, timeout=100, check=False)


def test_no_command_is_left_out() -> None:
    commands = ("run", "report", "list", "serve", "export", "compare")
    kinds = ("scripts/demo", "pip install", "python -m benchmarks.compare", *(f"llmgen {name}" for name in commands))
    assert COMMANDS
    assert not [command for command in COMMANDS if not command.startswith(kinds)]


def test_runs_and_what_reads_them(tmp_path: Path) -> None:
    with Endpoint(Options(ttft="20ms", itl="2ms")) as endpoint:
        for command in COMMANDS:
            if not command.startswith(("llmgen run", "llmgen report", "llmgen list", "llmgen export")):
                continue
            command = command.replace("http://127.0.0.1:8000", endpoint.url)
            command = re.sub(r"--duration \S+", "--duration 2s", command)
            done = llmgen(command, tmp_path)
            # The machine that runs the tests may be too busy for a valid run (4); what the user reads must be there.
            assert done.returncode in (0, 4) if " run " in command else done.returncode == 0, done.stderr
            assert done.stdout
    summary = json.loads((tmp_path / "runs" / "latest" / "summary.json").read_text())
    assert summary["requests"]["succeeded"] == summary["requests"]["scheduled"] > 0
    assert (tmp_path / "runs" / "latest").resolve().parent == tmp_path / "runs"
    assert list((tmp_path / "runs").glob("*/report.html"))


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("llmgen compare")])
def test_compare(command: str, tmp_path: Path) -> None:
    with Endpoint(Options(ttft="20ms", itl="2ms")) as endpoint:
        done = llmgen(f"llmgen run --url {endpoint.url} --rate 20 --duration 2s --output-tokens 5 --quiet", tmp_path)
        assert done.returncode in (0, 4), done.stderr
    (tmp_path / "baseline").mkdir()
    shutil.copy(tmp_path / "runs" / "latest" / "summary.json", tmp_path / "baseline" / "summary.json")
    done = llmgen(command, tmp_path)
    assert done.returncode in (0, 4), done.stderr  # the same run twice: no regression
    assert "REGRESSION" in done.stdout


@pytest.mark.parametrize("command", [command for command in COMMANDS if "benchmarks.compare" in command])
def test_comparison_with_other_tools(command: str) -> None:
    words = [sys.executable, *shlex.split(re.sub(r"--rounds \d+", "--rounds 1", command))[1:]]
    short = ["--streams", "20", "--seconds", "2", "--only", "llmgen"]
    done = subprocess.run([*words, *short], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^llmgen [\d.]+ +[\d.]+ ", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("llmgen serve")])
def test_serve(command: str, tmp_path: Path) -> None:
    words = shlex.split(re.sub(r"--port \d+", "--port 0", command))
    program = [sys.executable, "-m", "llmgen"]
    process = subprocess.Popen([*program, *words[1:]], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stdout is not None
    try:
        assert process.stdout.readline().startswith("llmgen serve: listening on http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_demo(tmp_path: Path) -> None:
    assert "scripts/demo" in COMMANDS
    venv = Path(sys.prefix)
    if not list(venv.glob(".llmgen-installed-*")):
        pytest.skip("this environment was not made by scripts/setup-env")
    done = subprocess.run(
        [ROOT / "scripts" / "demo", "--duration", "3s", "--out", tmp_path / "runs"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LLMGEN_VENV": str(venv)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode in (0, 4), done.stderr
    assert "TTFT" in done.stdout


@pytest.mark.full
def test_pip_install(tmp_path: Path) -> None:
    command = next(command for command in COMMANDS if command.startswith("pip install"))
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True, timeout=100)
    words = [word.replace(".[", f"{ROOT}[") for word in shlex.split(command)]
    bin_folder = tmp_path / "venv" / "bin"
    subprocess.run([bin_folder / "python", "-m", *words], check=True, timeout=500, cwd=tmp_path)
    done = subprocess.run([bin_folder / "llmgen", "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("llmgen ")
