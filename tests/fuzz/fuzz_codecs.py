"""Fuzzes the codecs of llmgen.wire; `scripts/fuzz` builds them with AddressSanitizer and UBSan and runs this.

The process that is started watches a second one that does the work, so that a crash or an endless loop is reported too:
the worker writes every input into a shared file before it tries it. What failed is written to a case file, and
`--reproduce FILE` tries that alone. The same seed gives the same inputs.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import hashlib
import mmap
import os
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from random import Random

from mutator import LONGEST, mutate
from targets import TARGETS, Target

HANG_S = 20.0  # one input takes far below a millisecond, also under the sanitizers on a busy machine
CORPUS = 2000  # inputs kept; beyond, a new one replaces an old one
LEAK_ROUNDS = 20
LEAK_INPUTS = 200
LEAK_SLACK = LEAK_ROUNDS * 8  # bytes; the smallest leak of one block in every round is twice that
FAILED = 1

# What the worker is doing: number of tries, the case's seed, size of its target's name and of its input; then both.
STATUS = struct.Struct("<QQII")
STATUS_BYTES = STATUS.size + 64 + 2 * LONGEST


class Case:
    """An input and the seed of everything else that happens to it."""

    def __init__(self, target: str, seed: int, data: bytes) -> None:
        self.target, self.seed, self.data = target, seed, data

    def run(self) -> object:
        return TARGETS[self.target].run(self.data, Random(self.seed))

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.target}-{hashlib.sha256(self.data).hexdigest()[:12]}.case"
        path.write_bytes(f"{self.target} {self.seed}\n".encode() + self.data)
        return path

    @classmethod
    def load(cls, path: Path) -> Case:
        head, _, data = path.read_bytes().partition(b"\n")
        target, seed = head.decode().split()
        return cls(target, int(seed), data)


class Status:
    """The shared file; the watching process reads in it what the worker tried last."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self.memory = mmap.mmap(file.fileno(), STATUS_BYTES)
        self.tries = 0

    def write(self, case: Case) -> None:
        name = case.target.encode()
        self.tries += 1
        self.memory[STATUS.size : STATUS.size + len(name) + len(case.data)] = name + case.data
        STATUS.pack_into(self.memory, 0, self.tries, case.seed, len(name), len(case.data))

    def read(self) -> tuple[int, Case]:
        tries, seed, name_size, size = STATUS.unpack_from(self.memory, 0)
        start = STATUS.size + name_size
        return tries, Case(self.memory[STATUS.size : start].decode(), seed, self.memory[start : start + size])


def fuzz(target: Target, seed: int, seconds: float, runs: int, status: Status) -> list[Case]:
    """Tries inputs for so long, or so many; returns the corpus. Raises what the target raises."""
    rng = Random(f"{seed} {target.name}")
    corpus: list[Case] = []
    seen: set[object] = set()
    tries = 0
    started = time.monotonic()
    while tries < runs and (tries % 64 or time.monotonic() - started < seconds):
        if not corpus or rng.random() < 0.2:
            data = target.generate(rng)[:LONGEST]
        else:
            inputs = [rng.choice(corpus).data, rng.choice(corpus).data]
            data = mutate(rng, inputs[0], target.tokens, inputs)
        case = Case(target.name, rng.getrandbits(63), data)
        status.write(case)
        signature = case.run()
        tries += 1
        if signature not in seen:
            seen.add(signature)
            if len(corpus) < CORPUS:
                corpus.append(case)
            else:
                corpus[rng.randrange(CORPUS)] = case
    took = time.monotonic() - started
    print(f"{target.name}: {tries:,} executions, {tries / took:,.0f}/s, {len(seen):,} behaviours", flush=True)
    return corpus


def check_leaks(target: Target, corpus: list[Case], status: Status) -> None:
    """Tries a part of the corpus again and again: the memory in use must not grow. Needs the sanitizer's count."""
    try:
        in_use = ctypes.CDLL(None).__sanitizer_get_current_allocated_bytes
    except AttributeError:
        return
    in_use.restype = ctypes.c_size_t
    cases = corpus[-LEAK_INPUTS:]
    sizes = []
    for rounds in (2, LEAK_ROUNDS):
        for _ in range(rounds):
            for case in cases:
                status.write(case)
                case.run()
        gc.collect()
        sizes.append(in_use())
    if sizes[1] - sizes[0] > LEAK_SLACK:
        raise MemoryError(f"{target.name} leaks: {sizes[1] - sizes[0]} bytes in {LEAK_ROUNDS} rounds of its corpus")


def check_build(library: str | None) -> None:
    """Fuzzing the ordinary build by mistake would look like success."""
    from llmgen.wire import sse

    if library is not None and not Path(sse.__file__).is_relative_to(Path(library).resolve()):
        raise SystemExit(f"fuzz: {sse.__file__} is not the sanitized build in {library}")


def work(arguments: argparse.Namespace, targets: list[Target]) -> int:
    check_build(arguments.library)
    status = Status(Path(arguments.status))
    for target in targets:
        try:
            corpus = fuzz(target, arguments.seed, arguments.seconds / len(targets), arguments.runs, status)
            check_leaks(target, corpus, status)
        except Exception as failure:
            traceback.print_exc()
            if isinstance(failure, MemoryError):
                print(f"fuzz: {failure}", flush=True)
            else:
                print(f"fuzz: {target.name} failed; input in {status.read()[1].write(Path(arguments.out))}", flush=True)
            return FAILED
    return 0


def watch(arguments: argparse.Namespace, command: list[str]) -> int:
    """Runs the worker; reports a crash, or an input that it does not come back from."""
    with tempfile.NamedTemporaryFile(prefix="llmgen-fuzz-") as file:
        file.truncate(STATUS_BYTES)
        status = Status(Path(file.name))
        worker = subprocess.Popen([*command, "--status", file.name], stdin=subprocess.DEVNULL)
        last, moved = -1, time.monotonic()
        code = None
        try:
            while code is None:
                try:
                    code = worker.wait(timeout=0.5)
                except subprocess.TimeoutExpired:
                    tries = status.read()[0]
                    if tries != last:
                        last, moved = tries, time.monotonic()
                    elif time.monotonic() - moved > HANG_S:
                        break
        finally:
            worker.kill()
            worker.wait()
        if code in (0, FAILED):
            return code
        tries, case = status.read()
        if tries == 0:
            print(f"fuzz: the worker did not start (exit {code})")
            return FAILED
        what = f"did not come back in {HANG_S:.0f} s" if code is None else f"crashed (exit {code})"
        print(f"fuzz: {case.target} {what}; input in {case.write(Path(arguments.out))}")
        return FAILED


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description="Fuzz the codecs under ASan and UBSan.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"{' '.join(TARGETS)}; all if none is named")
    parser.add_argument("--seconds", type=float, default=60, help="in all targets together (60)")
    parser.add_argument("--runs", type=int, default=sys.maxsize, help="at most so many executions a target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", default="build/fuzz", help="folder for inputs that fail (build/fuzz)")
    parser.add_argument("--reproduce", metavar="FILE", help="try one case file again")
    parser.add_argument("--library", help=argparse.SUPPRESS)
    parser.add_argument("--status", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    unknown = [name for name in arguments.targets if name not in TARGETS]
    if unknown:
        parser.error(f"unknown target {unknown[0]!r}; there are {', '.join(TARGETS)}")
    targets = [TARGETS[name] for name in arguments.targets or TARGETS]
    if arguments.reproduce:
        check_build(arguments.library)
        print(Case.load(Path(arguments.reproduce)).run())
        return 0
    if arguments.status:
        return work(arguments, targets)
    return watch(arguments, [sys.executable, *sys.argv])


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    sys.exit(main())
