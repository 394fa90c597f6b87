"""What a thorough test of an endpoint covers, filled in from what a run, or the runs of a suite, did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from llmgen.metrics.figures import Binned, Summary

WIDE: Final = 8  # longest against shortest length that were measured: three octaves are a range
SHORT_BELOW, LONG_FROM = 256, 2048  # input tokens; between them lies what is called medium here
SOAK_S: Final = 1800.0  # leaks and drifts of caches show within half an hour, or need a day
STRESSED: Final = frozenset({"saturation", "queueing"})

State = Literal["done", "partly", "open"]
Run = tuple[Summary, Mapping[str, Any]]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """An item: what is asked, how far it is answered, by which numbers or with what to do."""

    item: str
    state: State
    note: str


def checklist_of(runs: Sequence[Run]) -> tuple[Check, ...]:
    """The checklist over all runs together; each with its run.json."""
    return (
        _ranges(runs),
        _measured(runs),
        _lengths(runs),
        _streaming(runs),
        _kinds_of_load(runs),
        _server_metrics(runs),
        _autoscaling(runs),
        _targets(runs),
    )


def _ranges(runs: Sequence[Run]) -> Check:
    item = "prompt and output ranges are supported"
    spans = {
        "input": _span([b for summary, _ in runs for b in summary.by_tokens.ttft_by_input]),
        "output": _span([b for summary, _ in runs for b in summary.by_tokens.e2e_by_output]),
    }
    known = {name: span for name, span in spans.items() if span is not None}
    if not known:
        return Check(item=item, state="open", note="no token counts: let the server send usage")
    told = ", ".join(f"{name} {low:,}–{high - 1:,} tokens" for name, (low, high) in known.items())
    wide = len(known) == 2 and all(high > WIDE * low for low, high in known.values())
    cure = "" if wide else "; try the shortest and the longest that you allow"
    return Check(item=item, state="done" if wide else "partly", note=f"answered: {told}{cure}")


def _span(bins: Sequence[Binned]) -> tuple[int, int] | None:
    return (min(b.low for b in bins), max(b.high for b in bins)) if bins else None


def _measured(runs: Sequence[Run]) -> Check:
    item = "TTFT, E2E, throughput and errors are measured"
    named = {
        "TTFT": any(summary.latency.ttft_ms for summary, _ in runs),
        "E2E": any(summary.latency.e2e_ms for summary, _ in runs),
        "throughput": any(summary.throughput.output_tokens_per_s for summary, _ in runs),
        "errors": any(summary.requests.scheduled for summary, _ in runs),
    }
    missing = [name for name, there in named.items() if not there]
    state: State = "done" if not missing else "partly" if len(missing) < len(named) else "open"
    return Check(item=item, state=state, note=f"missing: {', '.join(missing)}" if missing else "all four")


def _lengths(runs: Sequence[Run]) -> Check:
    item = "short, medium and long prompts are in the mix"
    counts = {"short": 0, "medium": 0, "long": 0}
    for summary, _ in runs:
        for b in summary.by_tokens.ttft_by_input:
            middle = (b.low + b.high) / 2
            counts["short" if middle < SHORT_BELOW else "medium" if middle < LONG_FROM else "long"] += b.n
    there = [name for name, count in counts.items() if count]
    told = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    state: State = "done" if len(there) == 3 else "partly" if there else "open"
    return Check(
        item=item, state=state, note=f"requests: {told} (below {SHORT_BELOW}, from {LONG_FROM:,} input tokens)"
    )


def _streaming(runs: Sequence[Run]) -> Check:
    item = "streaming and whole answers"
    kinds = {bool(klass.get("stream", True)) for _, info in runs for klass in info.get("classes") or ()}
    if kinds == {True, False}:
        return Check(item=item, state="done", note="both")
    missing = "whole answers (--no-stream)" if True in kinds else "streaming"
    return Check(item=item, state="partly" if kinds else "open", note=f"not tried: {missing}")


def _kinds_of_load(runs: Sequence[Run]) -> Check:
    item = "load, stress and soak tests are done"
    done = {
        "load": any(summary.verdict.status == "valid" for summary, _ in runs),
        "stress": any(STRESSED & {finding.rule for finding in summary.diagnosis} for summary, _ in runs),
        "soak": any(summary.window.duration_s >= SOAK_S for summary, _ in runs),
    }
    missing = [name for name, there in done.items() if not there]
    state: State = "done" if not missing else "partly" if len(missing) < len(done) else "open"
    return Check(item=item, state=state, note=f"not yet: {', '.join(missing)}" if missing else "all three")


def _server_metrics(runs: Sequence[Run]) -> Check:
    item = "server metrics are correlated"
    read = any((info.get("config") or {}).get("telemetry") or info.get("telemetry") for _, info in runs)
    return Check(item=item, state="done" if read else "open", note="read during the run" if read else "--telemetry URL")


def _autoscaling(runs: Sequence[Run]) -> Check:
    item = "autoscaling and recovery are validated"
    rules = {finding.rule for summary, _ in runs for finding in summary.diagnosis}
    seen = sorted(rules & {"cold-start", "error-spikes"})
    if seen:
        return Check(item=item, state="partly", note=f"seen: {', '.join(seen)}; hold them against your scaling events")
    return Check(item=item, state="open", note="a spike of the rate, a cold start, an instance killed during a run")


def _targets(runs: Sequence[Run]) -> Check:
    item = "targets and regression thresholds are documented"
    configs = [info.get("config") or {} for _, info in runs]
    slo = any(config.get("slo") for config in configs) or any(
        klass.get("slo") for _, info in runs for klass in info.get("classes") or ()
    )
    regression = any(config.get("regression") for config in configs)
    missing = [key for key, there in (("slo", slo), ("regression", regression)) if not there]
    state: State = "done" if not missing else "partly" if len(missing) == 1 else "open"
    return Check(item=item, state=state, note=f"not configured: {', '.join(missing)}" if missing else "slo, regression")
