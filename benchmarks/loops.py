"""Builds the native loops of the micro benchmarks (`*_loop*.pyx` in this folder) against the installed modules."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

from Cython.Build import cythonize
from setuptools import Distribution, Extension

HERE = Path(__file__).parent
SRC = HERE.parent / "src"


def build(name: str, folder: Path) -> Path:
    """Compiles NAME.pyx below `folder`; the extension's path."""
    extension = Extension(name, [str(HERE / f"{name}.pyx")], extra_compile_args=["-std=c11", "-O3"])
    modules = cythonize(
        [extension],
        include_path=[str(SRC)],
        build_dir=str(folder),
        quiet=True,
        compiler_directives={"language_level": "3", "boundscheck": False, "wraparound": False, "cdivision": True},
    )
    command = Distribution({"ext_modules": modules}).get_command_obj("build_ext")
    command.build_lib = command.build_temp = str(folder)
    command.ensure_finalized()
    command.run()
    return Path(command.get_ext_fullpath(name))


def load(path: Path) -> ModuleType:
    """Imports an extension from where it lies."""
    spec = importlib.util.spec_from_file_location(path.name.split(".")[0], path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
