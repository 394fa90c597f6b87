"""From a run's records to summary.json."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from llmgen.columns import OutputSource
from llmgen.errors import RecordError
from llmgen.metrics import (
    breakdown,
    comparison,
    cost,
    diagnosis,
    profiles,
    server,
    server_evidence,
    sessions,
    stability,
)
from llmgen.metrics.attainment import evaluate
from llmgen.metrics.client import client_of, load_of
from llmgen.metrics.figures import SUMMARY_SCHEMA, SUMMARY_VERSION, Group, Summary, Tokens, Verdict, Window
from llmgen.metrics.groups import counts_of, group_of, latency_of, named, requests_of, throughput_of
from llmgen.metrics.measurements import Measurements
from llmgen.metrics.statistics import distribution
from llmgen.metrics.verdict import Thresholds, judge
from llmgen.records import Run, check_schema

MOST_TURNS: Final = 20  # turns told apart; later ones are one group: each costs a pass over all requests


def summarise(run: Run, thresholds: Thresholds | None = None, patience_s: tuple[float, ...] | None = None) -> Summary:
    """Everything that summary.json says about a run. patience_s: thresholds of abandonment; None: 1, 3 and 10 s."""
    return summary_of(Measurements(run), thresholds, patience_s)


def with_profiles(run: Run, summary: Summary, name: str | None) -> Summary:
    """The summary with what another tool would have printed, or with what all of them would have (None)."""
    m = Measurements(run)
    found = profiles.all_profiles(m) if name is None else {name: profiles.profile(m, name)}
    return msgspec.structs.replace(summary, profiles=found)


def summary_of(
    m: Measurements, thresholds: Thresholds | None = None, patience_s: tuple[float, ...] | None = None
) -> Summary:
    """`summarise`, of measurements that somebody made already."""
    run, info = m.run, m.run.info
    everyone = m.everyone
    requests = requests_of(m, everyone, run_wide=True)
    latency, throughput = latency_of(m, everyone), throughput_of(m, everyone)
    whole = Group(requests=requests, latency=latency, throughput=throughput)
    groups = _classes(m, whole)
    start, end = ((edge - m.start_ns) / 1e9 for edge in m.span)
    windows = breakdown.windows_of(m)
    summary = Summary(
        run_id=info.get("run_id"),
        name=info.get("name"),
        tags=info.get("tags") or {},
        started=_iso(info.get("start_realtime_ns")),
        fingerprint=comparison.fingerprint(info),
        record="events" if run.events is not None else "requests",
        verdict=Verdict(status="valid"),
        requests=requests,
        window=Window(start_s=start, end_s=end, duration_s=m.duration_s, requests=counts_of(m, m.inside)),
        load=load_of(m, requests),
        latency=latency,
        throughput=throughput,
        tokens=_tokens(m),
        client=client_of(m),
        slo=tuple(evaluate(m, slo, throughput, groups) for slo in m.run_slos),
        classes=groups,
        targets=_targets(m, whole),
        turns=_turns(m),
        windows=windows,
        stability=stability.trends_of(m, windows),
        by_tokens=breakdown.by_tokens(m),
        timeouts=breakdown.timeouts_of(m),
        abandonment=breakdown.abandonment_of(m, patience_s or breakdown.THRESHOLDS_S),
        sessions=sessions.sessions_of(m),
        cost=cost.cost_of(m, throughput),
        server=server.server_of(m, throughput),
    )
    verdict = judge(summary, info, thresholds)
    notes = (*verdict.notes, *run.notes)
    return msgspec.structs.replace(
        summary,
        verdict=msgspec.structs.replace(verdict, notes=notes),
        diagnosis=(*diagnosis.diagnose(m, summary), *server_evidence.findings(m, summary)),
    )


def _tokens(m: Measurements) -> Tokens:
    r, mask = m.requests, m.inside & m.ok

    def known_sum(name: str) -> int | None:
        values = r[name][mask]
        values = values[values >= 0]
        return int(values.sum(dtype=np.int64)) if len(values) else None

    both = mask & (r["planned_output"] > 0) & (r["output_tokens"] >= 0)
    asked, got = (int(r[name][both].sum(dtype=np.int64)) for name in ("planned_output", "output_tokens"))
    counted = mask & (r["token_events"] > 0) & (r["output_tokens"] >= 0)
    sources = named(r["output_source"][mask], OutputSource)
    sources.pop("none", None)
    return Tokens(
        input=known_sum("input_tokens"),
        output=known_sum("output_tokens"),
        reasoning=known_sum("reasoning_tokens"),
        cached=known_sum("cached_tokens"),
        output_source=sources,
        planned_input=known_sum("planned_input"),
        planned_output=known_sum("planned_output"),
        output_ratio=got / asked if asked else None,
        tokens_per_event=distribution(r["output_tokens"][counted] / r["token_events"][counted], scale=1.0),
    )


def encode(summary: Summary) -> bytes:
    """summary.json, indented; what is not finite becomes null."""
    return msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n"


def write_summary(run_dir: Path, summary: Summary) -> None:
    """Writes summary.json, atomically."""
    path = run_dir / "summary.json"
    temporary = run_dir / ".summary.json.tmp"
    with temporary.open("wb") as file:
        file.write(encode(summary))
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def read_summary(path: Path) -> Summary:
    """A summary.json, or that of a run directory. Raises RecordError."""
    if path.is_dir():
        path = path / "summary.json"
    try:
        data = path.read_bytes()
        document = msgspec.json.decode(data)
        check_schema(
            path, document.get("schema") if isinstance(document, dict) else None, SUMMARY_SCHEMA, SUMMARY_VERSION
        )
        return msgspec.json.decode(data, type=Summary)
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: damaged ({error})") from error


# -- groups -------------------------------------------------------------------------------------------------------


def _classes(m: Measurements, whole: Group) -> dict[str, Group]:
    groups: dict[str, Group] = {}
    for number, name in enumerate(m.class_names):
        mask = m.of_class(name)
        groups[name] = whole if mask.all() else group_of(m, mask, number)
    for name, group in groups.items():
        results = tuple(evaluate(m, slo, group.throughput, groups) for slo in m.class_slos if slo.klass == name)
        groups[name] = msgspec.structs.replace(group, slo=results)
    return groups


def _targets(m: Measurements, whole: Group) -> dict[str, Group]:
    groups: dict[str, Group] = {}
    for number, target in enumerate(m.run.info.get("targets") or ()):
        mask = m.requests["target"] == number
        groups[str(target["url"])] = whole if mask.all() else group_of(m, mask)
    return groups


def _turns(m: Measurements) -> dict[str, Group]:
    """By turn of a session; empty without sessions."""
    of_session = m.requests["session"] >= 0
    if not of_session.any():
        return {}
    turn = m.requests["turn"]
    groups: dict[str, Group] = {}
    for number in np.flatnonzero(np.bincount(turn[of_session])).tolist():
        if number >= MOST_TURNS:
            groups[f"{MOST_TURNS}+"] = group_of(m, of_session & (turn >= MOST_TURNS))
            break
        groups[str(number)] = group_of(m, of_session & (turn == number))
    return groups


def _iso(realtime_ns: int | None) -> str | None:
    if not realtime_ns:
        return None
    return datetime.datetime.fromtimestamp(realtime_ns / 1e9, datetime.UTC).isoformat(timespec="milliseconds")
