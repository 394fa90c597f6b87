"""The native loop of a benchmark, compiled once a module."""

from __future__ import annotations

from types import ModuleType

import pytest

from benchmarks.loops import build, load


@pytest.fixture(scope="module")
def loop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The extension of the module's LOOP: benchmarks/LOOP.pyx."""
    name: str = request.module.LOOP
    return load(build(name, tmp_path_factory.mktemp("loop")))
