"""Every extension module has a stub that says what it really offers (mypy.stubtest), and a .pxd beside it."""

from __future__ import annotations

import re
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


IMPORT = re.compile(r"^from \S+ import (\([^)]*\)|[^\n]*)", re.MULTILINE)


def imported(source: Path) -> list[str]:
    """Names that a module imports from another: they are no part of what it offers."""
    lists = (re.sub(r"#[^\n]*", "", found).strip("()") for found in IMPORT.findall(source.read_text(encoding="utf-8")))
    return [item.split()[-1] for names in lists for item in names.split(",") if item.strip()]


def test_stubs_agree_with_the_extensions(tmp_path: Path) -> None:
    patterns = [rf".*\.__{name}__" for name in UNSEEN]
    patterns += [re.escape(f"{module(source)}.{name}") for source in SOURCES for name in imported(source)]
    allowed = tmp_path / "allowed"
    allowed.write_text("".join(f"{pattern}\n" for pattern in patterns))
    stubtest = [sys.executable, "-m", "mypy.stubtest", "--concise", "--ignore-disjoint-bases"]
    settings = ["--ignore-unused-allowlist", "--allowlist", str(allowed)]
    settings += ["--mypy-config-file", str(PACKAGE.parents[1] / "pyproject.toml")]
    done = subprocess.run(
        [*stubtest, *settings, *map(module, SOURCES)], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
