"""One request through everything that carries the load: body, worker, core, records; and what its times say."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from llmgen.checks.findings import CONFIGURATION, UNREACHABLE, Check, fail, failed, milliseconds, ok, warn
from llmgen.columns import EventFlag, Flag, Kind, OutputSource, Status
from llmgen.config import Load, RunConfig, Timeouts, Workload
from llmgen.errors import ConfigError, TargetError, WorkerError
from llmgen.loading import loading
from llmgen.records import read_errors
from llmgen.report.escaping import plain
from llmgen.run import Result, run

GROUP: Final = "Target"
TOKENS: Final = 16  # each way: enough for a gap between tokens, and nothing to a server that is up
WAIT_S: Final = 60.0  # for each step; a model that is still being loaded takes longer, and is not ready for load
BUFFERED_TOKENS: Final = 8  # so many tokens in a single read are no chance
COMMAND_LINE: Final = 100  # characters of what a server said that a table shows


@dataclass(frozen=True)
class Warm:
    """Times of the one request, s; None where they did not happen."""

    ttft: float | None
    gap: float | None  # between tokens
    end: float


def ask(config: RunConfig, number: int) -> tuple[list[Check], Warm | None]:
    """Sends one request to target `number`, as a run of its own in a folder that goes again."""
    with tempfile.TemporaryDirectory(prefix="llmgen-check-") as folder:
        try:
            result = run(small(config, number, folder), progress=False, quiet=True)
        except (ConfigError, TargetError, WorkerError) as error:
            return [failed(GROUP, "warm request", error)], None
        if result.exit_code == 130:
            raise KeyboardInterrupt
        row = result.requests[0]
        if row["status"] != Status.ok:
            return [refused(row, result.directory)], None
        return read(result, row, config, secure=config.target.urls[number].startswith("https:"))


def small(config: RunConfig, number: int, folder: str) -> RunConfig:
    """The same request as the load's first class sends, but short, alone and with bounded waits."""
    w, t = config.workload, config.client.timeouts
    klass = next(iter(w.mix.values()), None)
    replace = msgspec.structs.replace
    timeouts = Timeouts(**{name: min(getattr(t, name), WAIT_S) for name in ("connect", "first_token", "idle", "total")})
    body, stream, model = w.body, w.stream, config.target.model
    if klass is not None:
        body = {**body, **klass.body}
        stream = w.stream if klass.stream is None else klass.stream
        model = klass.model or model
    return RunConfig(
        name="check",
        out=folder,
        seed=config.seed,
        target=replace(config.target, urls=(config.target.urls[number],), model=model),
        load=Load(arrival="constant", rate=1.0, requests=1, drain=WAIT_S),
        workload=Workload(
            input=TOKENS,
            output=TOKENS,
            body=body,
            stream=stream,
            exact_output=w.exact_output,
            max_tokens_field=w.max_tokens_field,
        ),
        client=replace(
            config.client,
            workers=1,
            connections=None,
            preconnect=0,
            pin=False,
            abort_on=None,
            retries=0,
            patience=None,
            timeouts=timeouts,
        ),
    )


def refused(row: np.void, directory: Path) -> Check:
    status, code = Status(int(row["status"])).name, int(row["http_status"])
    said = next((str(entry.get("text") or "") for entry in read_errors(directory)), "")
    text = f"{status}{f' ({code})' if code > 0 else ''}" + (f": {plain(said, COMMAND_LINE)}" if said else "")
    if code in (401, 403):
        cure = "set OPENAI_API_KEY, --api-key-env NAME or --header 'api-key: env:NAME'"
        return fail(GROUP, "warm request", text, cure, CONFIGURATION, status=status, http_status=code)
    if loading(code, said) is not None:
        cure = "the model is still being loaded; check again once it is ready (llmgen test coldstart waits for it)"
        return fail(GROUP, "warm request", text, cure, UNREACHABLE, status=status, http_status=code)
    cures = {
        404: "check the path (--path, --api) and the model (--model)",
        400: "the server does not like the body; see --body, --max-tokens-field and --api",
        422: "the server does not like the body; see --body, --max-tokens-field and --api",
        429: "the target limits our rate already; its results would be those of the limit",
    }
    cure = cures.get(code, "see the server's log" if code > 0 else "see whether the server answers at all (curl -v)")
    return fail(GROUP, "warm request", text, cure, UNREACHABLE, status=status, http_status=code)


def read(result: Result, row: np.void, config: RunConfig, *, secure: bool) -> tuple[list[Check], Warm]:
    """The phases of a request that succeeded, and what is odd about its answer."""
    since = {name: (int(row[name]) - int(row["send"])) / 1e9 for name in ("headers", "first_token", "end")}
    streamed = row["first_token"] >= 0
    tokens = int(row["output_tokens"])
    steps = {
        "connect": span(row, "connect_start", "connected"),
        "TLS" if secure else "SETTINGS": span(row, "connected", "secured"),
        "headers": since["headers"],
        "first token": since["first_token"] if streamed else None,
        "end": since["end"],
    }
    text = ", ".join(f"{name} {milliseconds(value)}" for name, value in steps.items() if value is not None)
    text += f"; {tokens} tokens"
    data: dict[str, Any] = {"seconds": steps, "tokens": tokens, "stamps": result.summary.client.stamps}
    checks = [ok(GROUP, "warm request", text, **data)]
    if config.client.stamps == "kernel" and row["flags"] & Flag.user_stamped:
        cure = "tokens would be stamped when we read them; another interface or kernel may do better"
        checks.append(warn(GROUP, "stamps", "no kernel stamps on the way from this target", cure))
    if row["output_source"] not in (OutputSource.usage, OutputSource.ids):
        cure = "output tokens will be counted as events; a server that reports usage makes them exact"
        checks.append(warn(GROUP, "usage", "the answer does not tell how many tokens it has", cure))
    if buffered(result.events):
        cure = "a proxy collects the stream; turn that off (nginx: proxy_buffering off), or TTFT and ITL mean nothing"
        checks.append(warn(GROUP, "stream", f"all {tokens} tokens came in one piece", cure))
    gap = span(row, "first_token", "last_token")
    several = streamed and tokens > 1 and gap is not None
    return checks, Warm(
        ttft=since["first_token"] if streamed else None,
        gap=gap / (tokens - 1) if several and gap is not None else None,
        end=since["end"],
    )


def span(row: np.void, first: str, last: str) -> float | None:
    """Seconds between two stamps, None unless both are there."""
    return None if row[first] < 0 or row[last] < 0 else (int(row[last]) - int(row[first])) / 1e9


def buffered(events: np.ndarray | None) -> bool:
    """Whether all of many tokens came in one read."""
    if events is None:
        return False
    tokens = events[events["kind"] & (Kind.text | Kind.reasoning | Kind.tool) != 0]
    return len(tokens) >= BUFFERED_TOKENS and bool((tokens["flags"][:-1] & EventFlag.coalesced != 0).all())
