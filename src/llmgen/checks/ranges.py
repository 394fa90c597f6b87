"""Does the target take the shortest and the longest requests of the load? Both of each class, sent before a run."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from llmgen.checks.findings import CONFIGURATION, Check, fail, failed, ok, warn
from llmgen.checks.warm import COMMAND_LINE, WAIT_S, small
from llmgen.columns import Status
from llmgen.config import Klass, Load, RunConfig, Trace
from llmgen.errors import ConfigError, TargetError, WorkerError
from llmgen.planning import Requests
from llmgen.records import read_errors
from llmgen.report.escaping import plain
from llmgen.run import run

GROUP: Final = "Lengths"
SAMPLE_ROWS: Final = 65_536  # requests of the load that are drawn to find its shortest and longest
MOST_CLASSES: Final = 16
SERVER: Final = "server"  # workload.tokenizer
SPACING_NS: Final = 100_000_000  # between two of these requests: they are no load

Asked = tuple[str, int, int]  # class, input, output; an output of -1 asks for no limit


def look(config: RunConfig) -> list[Check]:
    """One line a class: accepted, refused, and what lengths came back. ConfigError as planning has it."""
    asked = extremes(config)
    if not asked:
        return []
    with tempfile.TemporaryDirectory(prefix="llmgen-check-") as folder:
        try:
            result = run(probing(config, asked, Path(folder)), progress=False, quiet=True)
        except (ConfigError, TargetError, WorkerError) as error:
            return [failed(GROUP, "requests", error)]
        if result.exit_code == 130:
            raise KeyboardInterrupt
        rows = np.sort(result.requests, order="index")
        said = {int(entry.get("index", -1)): str(entry.get("text") or "") for entry in read_errors(result.directory)}
    names = dict.fromkeys(name for name, _, _ in asked)
    told = list(zip(asked, rows, strict=True))
    return [told_of(name, [(one, row) for one, row in told if one[0] == name], said) for name in names]


def extremes(config: RunConfig) -> list[Asked]:
    """The shortest and the longest prompt and answer that each class would send, once if they are the same.

    Not of classes with prompts of their own (data, a request log): made ones would tell nothing of those.
    """
    workload = config.workload
    if workload.tokenizer == SERVER:  # the lengths that are drawn do not hang on it, and it is asked by the run below
        workload = msgspec.structs.replace(workload, tokenizer=None)
    requests = Requests(msgspec.structs.replace(config, workload=workload))
    block = requests.next_block(SAMPLE_ROWS)
    if block.told is not None and block.told.bodies is not None:
        return []  # a request log's bodies are as long as they are
    drawn = block.drawn
    found: list[Asked] = []
    for number, one in enumerate(requests.classes[:MOST_CLASSES]):
        mine = drawn.klass == number
        if mine.any() and one.data is None:
            inputs, outputs = drawn.planned_input[mine], drawn.planned_output[mine]
            ends = ((inputs.min(), outputs.min()), (inputs.max(), outputs.max()))
            found += dict.fromkeys((one.name, int(a), int(b)) for a, b in ends)
    return found


def probing(config: RunConfig, asked: list[Asked], folder: Path) -> RunConfig:
    """A run of just these requests: a trace of them, with each class's own body and model."""
    trace = folder / "lengths.jsonl"
    rows = [
        {"t_ns": place * SPACING_NS, "in": inputs, "out": max(outputs, 1), "class": name}
        for place, (name, inputs, outputs) in enumerate(asked)
    ]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    base, replace = small(config, 0, str(folder / "runs")), msgspec.structs.replace
    mix = {name: replace(klass, data=None, slo=()) for name, klass in config.workload.mix.items()}
    workload = replace(config.workload, data=None, sessions=None, mix=mix or {"default": Klass()})
    target = replace(base.target, model=config.target.model)
    load = Load(trace=Trace(file=str(trace)), drain=WAIT_S)
    return replace(base, target=target, load=load, workload=workload)


def told_of(name: str, requests: list[tuple[Asked, np.void]], said: dict[int, str]) -> Check:
    """The line of one class."""
    texts: list[str] = []
    data: list[dict[str, Any]] = []
    refused = failing = False
    for (_, inputs, outputs), row in requests:
        status, code = Status(int(row["status"])), int(row["http_status"])
        limit = f"{outputs:,}" if outputs > 0 else "any number of"
        text = f"{inputs:,} tokens in, {limit} out: "
        if status == Status.ok:
            text += f"accepted, got {_count(row['input_tokens'])} in, {_count(row['output_tokens'])} out"
        else:
            reason = plain(said.get(int(row["index"]), ""), COMMAND_LINE)
            word = "refused" if 400 <= code < 500 else "failed"
            text += f"{word}, {status.name}{f' ({code})' if code > 0 else ''}" + (f": {reason}" if reason else "")
            refused, failing = refused or word == "refused", True
        texts.append(text)
        got = {"input_got": int(row["input_tokens"]), "output_got": int(row["output_tokens"])}
        data.append({"input": inputs, "output": outputs, "status": status.name, "http_status": code, **got})
    found = "; ".join(texts)
    if refused:
        cure = "send less (workload.input, workload.output), or let the server take a longer context"
        return fail(GROUP, name, found, cure, CONFIGURATION, requests=data)
    if failing:
        cure = f"each had {WAIT_S:g} s at most: see the server's log; such requests may fail in the run, too"
        return warn(GROUP, name, found, cure, requests=data)
    return ok(GROUP, name, found, requests=data)


def _count(tokens: int) -> str:
    return f"{int(tokens):,}" if tokens >= 0 else "an untold number"
