"""Every extension module has a stub that says what it really offers (mypy.stubtest), and a .pxd beside it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import llmgen

PACKAGE = Path(llmgen.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.pyx"))


def module(source: Path) -> str:
    return ".".join(("llmgen", *source.relative_to(PACKAGE).with_suffix("").parts))


def test_every_extension_has_a_stub_and_a_declaration_file() -> None:
    missing = [str(s.relative_to(PACKAGE)) for s in SOURCES for e in (".pyi", ".pxd") if not s.with_suffix(e).exists()]
    assert SOURCES
    assert not missing


# What Cython writes into modules and classes of its own accord. `__init__`: arguments of a `__cinit__` cannot be read
# at run time, and a type checker finds them in the stub.
UNSEEN = ("test", "pyx_capi", "reduce_cython", "setstate_cython", "init")


def test_stubs_agree_with_the_extensions(tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    allowed.write_text("".join(rf".*\.__{name}__" + "\n" for name in UNSEEN))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy.stubtest", "--concise", "--ignore-disjoint-bases", "--ignore-unused-allowlist"),
            *("--allowlist", str(allowed), "--mypy-config-file", str(PACKAGE.parents[1] / "pyproject.toml")),
            *(module(source) for source in SOURCES),
        ],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
