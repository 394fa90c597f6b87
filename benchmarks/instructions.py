"""Instructions of the codecs and the recorder, counted by callgrind: the same on a busy machine as on a quiet one.

    python -m benchmarks.instructions              counts and holds against instructions.json; exit 1 if one is off
    python -m benchmarks.instructions --update     writes what was counted into instructions.json

Each case runs twice in one process under callgrind, short and long; the difference, divided by the difference of the
lengths, is what one event costs, without any start-up. A figure is only held against one of the same compiler (that of
the installed modules), Python, C library and machine; with others it is printed for information. Needs valgrind with
its headers (Debian: valgrind) and a C compiler; half a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from benchmarks.loops import HERE, build, load

FIGURES = Path(__file__).with_suffix(".json")
TOLERANCE = 0.03  # what a rebuild may move; a real change is to be seen and committed
SHORT, LONG = 2, 12  # rounds
CODECS = ("sse_scanner", "ndjson", "http1", "http2", "hpack")
LOOPS = (*(f"codec_loop_{name}" for name in CODECS), "recorder_loop", "instructions_mark")
LIMIT_S = 300  # half a minute on a machine with nothing else to do
HELPER_S = 30  # for the recorder's thread, which runs as slowly as everything here

Case = tuple[int, Callable[[int], object]]  # events a round, what does so many rounds


def cases(loops: dict[str, ModuleType], folder: Path) -> dict[str, Case]:
    """What is counted; one entry's rounds are all alike."""
    return {**text_cases(loops), **http_cases(loops), **recorder_cases(loops["recorder_loop"], folder)}


def text_cases(loops: dict[str, ModuleType]) -> dict[str, Case]:
    from benchmarks import test_codecs_sse_scanner as sse
    from llmgen.wire import scanner

    rules, sse_loop = scanner.Rules("chat"), loops["codec_loop_sse_scanner"]
    chat, usage = sse.CASES["compact"][0], sse.CASES["continuous-usage"][0]
    lines = b"".join(
        b'{"model":"m","created_at":"2026-01-01T00:00:00Z",'
        b'"message":{"role":"assistant","content":" w%d"},"done":false}\n' % (i % 97)
        for i in range(sse.EVENTS)
    )

    def scan(body: bytes, rules: object, remember: bool) -> Case:
        return sse.EVENTS, lambda rounds: sse_loop.run(body, sse.READ_BYTES, rounds, rules, remember)

    return {
        "sse": scan(chat, None, False),
        "sse + scanner": scan(chat, rules, False),
        "sse + scanner, stream's previous event known": scan(chat, rules, True),
        "sse + scanner, usage in every event": scan(usage, rules, True),
        "ndjson": (sse.EVENTS, lambda rounds: loops["codec_loop_ndjson"].run(lines, sse.READ_BYTES, rounds)),
    }


def http_cases(loops: dict[str, ModuleType]) -> dict[str, Case]:
    from benchmarks import test_codecs_hpack as fields
    from benchmarks import test_codecs_http1 as http1
    from benchmarks import test_codecs_http2 as http2
    from llmgen.wire import hpack
    from llmgen.wire.http2 import header_block

    one, packed = loops["codec_loop_http1"], loops["codec_loop_hpack"]
    connection = loops["codec_loop_http2"].Loop()
    connection.read(http2.SETTINGS, http2.READ_BYTES)
    connection.submit(header_block(http2.HEAD), bytes(1000), http2.STREAMS)
    connection.read(http2.heads(1, http2.STREAMS), http2.READ_BYTES)
    data = b"".join(http2.frame(0, 0, 1 + 2 * (n % http2.STREAMS), http2.EVENT) for n in range(1000))
    encoder = hpack.Encoder()
    first, later = encoder.encode(fields.RESPONSE), encoder.encode(fields.RESPONSE)

    def frames(rounds: int) -> None:
        for _ in range(rounds):
            connection.read(data, http2.READ_BYTES)

    return {
        "http1, a chunk": (1000, lambda rounds: one.run(http1.STREAM, len(http1.CHUNK), rounds)),
        "http1, an answer of one event": (1000, lambda rounds: one.run(http1.ANSWER, http1.READ_BYTES, 1000 * rounds)),
        "http2, a DATA frame of 100 streams": (1000, frames),
        "hpack, decode a response's head": (1000, lambda rounds: packed.decode(first, later, 1000 * rounds)),
        "hpack, encode a request's head": (1000, lambda rounds: packed.encode(fields.REQUEST, 1000 * rounds)),
    }


def recorder_cases(loop: ModuleType, folder: Path) -> dict[str, Case]:
    from llmgen.recorder import Recorder

    recorder = Recorder(str(folder), 0, 1)
    until = time.monotonic() + HELPER_S
    while not loop.ready(recorder) and time.monotonic() < until:
        time.sleep(0.1)  # what the helper thread does must not be counted with the rows
    if not loop.ready(recorder):
        raise SystemExit(f"the recorder's thread made no segment in {HELPER_S} s: is {folder} writable, the disk full?")
    return {
        "recorder, an event's row": (1000, lambda rounds: loop.events(recorder, 1000 * rounds)),
        "recorder, a gap in three histograms": (1000, lambda rounds: loop.gaps(recorder, 1000 * rounds)),
        "recorder, a request's row": (100, lambda rounds: loop.requests(recorder, 100 * rounds)),
    }


def count(folder: Path) -> None:
    """In the process under callgrind: every case, short and long, each into a dump of its own."""
    loops = {name: load(path) for name in LOOPS for path in folder.glob(f"{name}.*.so")}
    mark, found = loops["instructions_mark"], cases(loops, folder / "records")
    for name, (_, work) in found.items():
        work(SHORT)  # memory that grows once has grown
        for rounds in (SHORT, LONG):
            mark.counted(work, rounds, f"{rounds} {name}".encode())
    (folder / "events.json").write_text(json.dumps({name: events for name, (events, _) in found.items()}))


def measured() -> dict[str, float]:
    """Instructions an event of every case."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in LOOPS:
            build(name, folder)
        command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/dump"]
        command += [sys.executable, "-m", "benchmarks.instructions", "--count", str(folder)]
        environment = {**os.environ, "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(
            command, env=environment, cwd=HERE.parent, capture_output=True, text=True, timeout=LIMIT_S
        )
        if done.returncode:
            raise SystemExit(f"callgrind failed:\n{done.stderr[-2000:]}")
        dumps = dict(read_dump(path) for path in folder.glob("dump.*"))
        events = json.loads((folder / "events.json").read_text())
    return {
        name: round((dumps[f"{LONG} {name}"] - dumps[f"{SHORT} {name}"]) / (LONG - SHORT) / per_round, 1)
        for name, per_round in events.items()
    }


def read_dump(path: Path) -> tuple[str, int]:
    """The name given to a dump and its instructions."""
    text = path.read_text()
    name = re.search(r"^desc: Trigger: Client Request: (.*)$", text, re.MULTILINE)
    total = re.search(r"^totals: (\d+)", text, re.MULTILINE)
    return name[1] if name else "", int(total[1]) if total else 0


def circumstances() -> str:
    """What decides the figures besides our sources: compiler of the installed modules, Python, C library, machine."""
    import llmgen.recorder

    assert llmgen.recorder.__file__ is not None
    compiler = re.search(rb"GCC: \([^)]*\) [\d.]+|clang version [\d.]+", Path(llmgen.recorder.__file__).read_bytes())
    built_by = compiler[0].decode().replace("GCC: ", "gcc ") if compiler else "unknown compiler"
    vectors = "avx2" if re.search(r"\bavx2\b", Path("/proc/cpuinfo").read_text()) else "no avx2"  # memchr's choice
    library = "-".join(platform.libc_ver())
    return f"{built_by}, Python {platform.python_version()}, {library}, {platform.machine()} {vectors}"


def verdict(counted: float, committed: float | None) -> tuple[str, bool]:
    """(what to print, whether it is off)."""
    if committed is None:
        return "no figure", True
    change = counted / committed - 1
    return f"{committed:10,.1f} {change:+7.1%}", abs(change) > TOLERANCE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="write what was counted into instructions.json")
    parser.add_argument("--count", type=Path, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.count:
        count(a.count)
        return
    if not shutil.which("valgrind"):
        raise SystemExit("needs valgrind with its headers (Debian: apt-get install valgrind)")
    key, found = circumstances(), measured()
    figures: dict[str, dict[str, float]] = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    committed, off = figures.get(key, {}), []
    print(f"instructions an event ({key})\n{'':48}   counted  committed  change")
    for name, value in found.items():
        text, wrong = verdict(value, committed.get(name))
        off += [name] if wrong else []
        print(f"{name:48}{value:10,.1f} {text}")
    if a.update:
        FIGURES.write_text(json.dumps({**figures, key: found}, indent=2, sort_keys=False) + "\n")
        print(f"written to {FIGURES}")
    elif not committed:
        print("for information: no figures of these circumstances are committed (--update adds them)")
    elif gone := sorted(set(committed) - set(found)):
        raise SystemExit(f"committed, but not counted any more: {', '.join(gone)} (--update)")
    elif off:
        names = ", ".join(off)
        raise SystemExit(f"more than {TOLERANCE:.0%} off: {names}. Meant? python -m benchmarks.instructions --update")


if __name__ == "__main__":
    main()
