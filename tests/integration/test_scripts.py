"""scripts/setup-env on machines that lack something: one clear line and its cure, never a half-made environment."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("bash", "dirname", "cat", "find", "sort", "xargs", "sha256sum", "cut", "tee", "uname", "env", "rm")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A directory of programs that is the whole PATH; add to it what the machine shall have."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    return folder


def program(machine: Path, name: str, script: str) -> None:
    path = machine / name
    path.write_text(f"#!{machine}/bash\n{script}\n")
    path.chmod(0o755)


def set_up(machine: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [machine / "bash", ROOT / "scripts" / "setup-env"],
        env={"PATH": str(machine), "HOME": "/nonexistent", "LLMGEN_VENV": str(machine.parent / "venv")} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("answer", "complaint", "cure"),
    [
        ("echo old-3.9", "the newest Python found is 3.9 (python3), llmgen needs 3.11 or newer", "LLMGEN_PYTHON="),
        ("echo headers", "python3 has no C headers (Python.h)", "python3-dev"),
        ("echo venv", "python3 has no venv module", "python3-venv"),
        ("echo 'pyenv: no such version' >&2; exit 127", "no working Python found", "install Python 3.11"),
    ],
)
def test_a_python_that_will_not_do(answer: str, complaint: str, cure: str, machine: Path) -> None:
    program(machine, "python3", answer)
    done = set_up(machine)
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert complaint in first
    assert second.startswith("llmgen: cure: ")
    assert cure in second
    assert not (machine.parent / "venv").exists()


def test_no_python_at_all(machine: Path) -> None:
    done = set_up(machine)
    assert done.returncode == 1
    assert "no working Python found" in done.stderr


def test_a_broken_shim_does_not_hide_a_python_that_only_lacks_headers(machine: Path) -> None:
    program(machine, "python3.13", "exit 127")
    program(machine, "python3.12", "echo headers")
    program(machine, "python3", "echo old-3.9")
    done = set_up(machine)
    assert "python3.12 has no C headers" in done.stderr


def test_another_system_is_refused(machine: Path) -> None:
    (machine / "uname").unlink()
    program(machine, "uname", "echo Darwin")
    done = set_up(machine)
    assert done.returncode == 1
    assert "Linux only" in done.stderr


@pytest.fixture
def with_venv(machine: Path) -> Path:
    """A machine whose environment exists, with a real Python in it and nothing installed."""
    python = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    subprocess.run([python, "-m", "venv", "--without-pip", machine.parent / "venv"], check=True, timeout=60)
    return machine


def test_no_compiler(with_venv: Path) -> None:
    done = set_up(with_venv, CC="no-such-compiler")
    assert done.returncode == 1
    assert "no C compiler (no-such-compiler)" in done.stderr
    assert "apt-get install gcc" in done.stderr


def test_a_compiler_without_headers(with_venv: Path) -> None:
    program(with_venv, "cc", "exit 1")
    done = set_up(with_venv, CC="cc")
    assert done.returncode == 1
    assert "does not find the headers" in done.stderr
    assert "libc6-dev" in done.stderr
