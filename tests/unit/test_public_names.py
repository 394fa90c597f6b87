"""`import llmgen`: cheap, complete, and `llmgen.run` is the function whatever was imported before."""

from __future__ import annotations

import subprocess
import sys

import pytest

import llmgen


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = ["numpy", "msgspec", "rich", "plotly", "click", "uvloop"]
    assert python(f"import sys, llmgen; print([name for name in {heavy!r} if name in sys.modules])") == "[]"


@pytest.mark.parametrize("name", llmgen.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(llmgen, name) is not None
    assert name in dir(llmgen)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        _ = llmgen.runn  # type: ignore[attr-defined]


@pytest.mark.parametrize("before", ["pass", "import llmgen.run", "from llmgen.run import run", "llmgen.run"])
def test_run_is_the_function(before: str) -> None:
    assert python(f"import llmgen\n{before}\nprint(callable(llmgen.run), llmgen.run.__name__)") == "True run"
