"""The native loops of the codec benchmarks, compiled here against the installed modules."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from Cython.Build import cythonize
from setuptools import Distribution, Extension

HERE = Path(__file__).parent
SRC = HERE.parent / "src"


@pytest.fixture(scope="module")
def loop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The extension of the module's LOOP: benchmarks/LOOP.pyx."""
    build = tmp_path_factory.mktemp("loop")
    name: str = request.module.LOOP
    extension = Extension(name, [str(HERE / f"{name}.pyx")], extra_compile_args=["-std=c11", "-O3"])
    modules = cythonize(
        [extension],
        include_path=[str(SRC)],
        build_dir=str(build),
        quiet=True,
        compiler_directives={"language_level": "3", "boundscheck": False, "wraparound": False},
    )
    command = Distribution({"ext_modules": modules}).get_command_obj("build_ext")
    command.build_lib = command.build_temp = str(build)
    command.ensure_finalized()
    command.run()
    spec = importlib.util.spec_from_file_location(name, command.get_ext_fullpath(name))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
