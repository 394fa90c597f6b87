"""Time and memory of reading traces of a million rows, and of planning them.

Each case runs in a process of its own, so that the peak memory is its own. plan_cost.py measures the Mooncake trace.

    python benchmarks/trace_cost.py --rows 1000000
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy_pass


def write_samples(rows: int, folder: Path) -> list[Path]:
    random = np.random.default_rng(1)
    t = np.cumsum(random.integers(0, 2000, rows)).tolist()
    lengths = random.integers(1, 4000, (rows, 2)).tolist()
    files = [folder / name for name in ("azure.csv", "burstgpt.csv", "mooncake.jsonl", "columns.csv")]
    with files[0].open("w") as file:
        file.write("TIMESTAMP,ContextTokens,GeneratedTokens\n")
        stamps = np.datetime_as_string(np.datetime64("2024-05-12") + np.array(t, "m8[ms]"), unit="us").tolist()
        file.writelines(f"{s.replace('T', ' ')}+00:00,{i},{o}\n" for s, (i, o) in zip(stamps, lengths, strict=True))
    with files[1].open("w") as file:
        file.write("Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n")
        rows_of = zip(t, lengths, strict=True)
        file.writelines(f"{x // 1000}.0,ChatGPT,{i},{o},{i + o},API log\n" for x, (i, o) in rows_of)
    with files[2].open("w") as file:
        for number, (x, (i, o)) in enumerate(zip(t, lengths, strict=True)):
            ids = list(range(number % 1000 * 10, number % 1000 * 10 + -(-i // 512)))
            file.write(json.dumps({"timestamp": x, "input_length": i, "output_length": o, "hash_ids": ids}) + "\n")
    with files[3].open("w") as file:
        file.write("t,i,o\n")
        file.writelines(f"{x / 1000:.3f},{i},{o}\n" for x, (i, o) in zip(t, lengths, strict=True))
    return files


def case(name: str, file: str) -> None:
    from llmgen.config import Load, RunConfig, Target, Trace
    from llmgen.planning import PlanBuilder
    from llmgen.workload import traces

    columns = {"time": "t", "input": "i", "output": "o"} if file.endswith("columns.csv") else {}
    trace = Trace(file=file, columns=columns)
    start, cpu_start = time.perf_counter(), time.process_time()
    if name == "read":
        text = f"{sum(len(block) for block in traces.read(trace))} rows"
        seconds, cpu, peak_mb = time.perf_counter() - start, time.process_time() - cpu_start, numpy_pass.peak_mb()
    else:
        with tempfile.TemporaryDirectory() as folder:
            builder = PlanBuilder(RunConfig(target=Target(model="m"), load=Load(trace=trace)), Path(folder) / "p", 2)
            builder.write_all()
            seconds, cpu, peak_mb = time.perf_counter() - start, time.process_time() - cpu_start, numpy_pass.peak_mb()
            _, content = numpy_pass.same_content(Path(folder) / "p", Path(folder))
        text = (
            f"{builder.rows_written} rows, {builder.planned_input / 1e6:.0f} M prompt tokens, "
            f"{builder.bytes_written / 1e6:.0f} MB; CPU {cpu / content:.1f} x numpy writing the same content"
        )
    print(f"{name} {Path(file).name}: {seconds:.2f} s, CPU {cpu:.2f} s, peak RSS {peak_mb:.0f} MB; {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        case(*arguments.case)
        return
    with tempfile.TemporaryDirectory() as folder:
        cases = [(name, file) for file in write_samples(arguments.rows, Path(folder)) for name in ("read", "plan")]
        for name, file in cases:
            subprocess.run([sys.executable, __file__, "--case", name, str(file)], check=True, timeout=600)


if __name__ == "__main__":
    main()
