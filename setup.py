"""Builds the native core.

Every ``.pyx`` below ``src/`` becomes an extension module; the directives stand here and nowhere else.
One environment variable a kind of build (each empties nothing: use a build directory of its own):

    LLMGEN_DEBUG=1      bounds checks, assertions, no optimisation
    LLMGEN_COVERAGE=1   line tracing for coverage.py
    LLMGEN_SANITIZE=1   AddressSanitizer and UndefinedBehaviorSanitizer (used by scripts/fuzz)
    LLMGEN_ANNOTATE=1   writes the annotated HTML of ``cython -a`` below build/cython
    LLMGEN_ONLY=a,b     builds only the modules whose names contain one of the words
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

if sys.platform != "linux":
    raise SystemExit("llmgen: builds on Linux only (it needs epoll, timerfd and SO_TIMESTAMPNS)")

from Cython.Build import cythonize

SRC = Path("src")


def flag(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")


DEBUG, COVERAGE, SANITIZE = flag("LLMGEN_DEBUG"), flag("LLMGEN_COVERAGE"), flag("LLMGEN_SANITIZE")

JOBS = len(os.sched_getaffinity(0))

DIRECTIVES = {
    "language_level": "3",
    "boundscheck": DEBUG,
    "wraparound": False,
    "initializedcheck": DEBUG,
    "nonecheck": DEBUG,
    "cdivision": True,
    "embedsignature": False,
    "linetrace": COVERAGE,
    "auto_pickle": False,
}

compile_args = ["-std=c11", "-Wall", "-Wno-unused-function", "-Wno-unused-variable", "-Wno-unreachable-code"]
link_args: list[str] = []
macros: list[tuple[str, str | None]] = [("_GNU_SOURCE", None)]
if SANITIZE:
    sanitizers = "-fsanitize=address,undefined"
    compile_args += ["-O1", "-g", "-fno-omit-frame-pointer", sanitizers, "-fno-sanitize-recover=undefined"]
    link_args += [sanitizers]
elif DEBUG:
    compile_args += ["-O0", "-g"]
    macros.append(("LLMGEN_DEBUG", "1"))
else:
    compile_args += ["-O3", "-g1", "-fno-semantic-interposition"]
if COVERAGE:
    macros += [("CYTHON_TRACE", "1"), ("CYTHON_TRACE_NOGIL", "1")]


def extensions() -> list[Extension]:
    only = [word for word in os.environ.get("LLMGEN_ONLY", "").split(",") if word]
    found = []
    for path in sorted(SRC.rglob("*.pyx")):
        name = ".".join(path.relative_to(SRC).with_suffix("").parts)
        if only and not any(word in name for word in only):
            continue
        found.append(
            Extension(
                name,
                [str(path)],
                extra_compile_args=compile_args,
                extra_link_args=link_args,
                define_macros=macros,
                libraries=["pthread"],
            )
        )
    return found


setup(
    ext_modules=cythonize(
        extensions(),
        include_path=[str(SRC)],
        compiler_directives=DIRECTIVES,
        annotate=flag("LLMGEN_ANNOTATE"),
        build_dir="build/cython" + ("-debug" if DEBUG else "") + ("-asan" if SANITIZE else ""),
        nthreads=JOBS,
    ),
    options={"build_ext": {"parallel": JOBS}},
)
