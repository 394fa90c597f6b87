"""Diagnosis with the server's own evidence: rules beside those of diagnosis.py, silent without telemetry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from llmgen.metrics.figures import Finding, Summary
from llmgen.metrics.measurements import Measurements
from llmgen.metrics.server import binned, cut, readings_of
from llmgen.metrics.server_figures import Server
from llmgen.metrics.stability import mann_kendall, theil_sen
from llmgen.telemetry.readings import Readings

FULL: Final = 0.95  # of the KV cache: the next long sequence does not fit
MIN_SHARE: Final = 0.05  # of the time: less is a moment
RISING: Final = 1.5
MIN_WAITING: Final = 2.0  # requests, on average: one is taken up by the next step
BUSY_CPU: Final = 0.9  # of a core or of the node
IDLE_GPU: Final = 0.5
HOT_C: Final = 83.0  # where data-centre GPUs begin to slow down; their own limits are 83 to 90
SLOWED: Final = 0.93  # of the SM clock at the beginning
CREEP: Final = 0.05  # of memory over the run
CREEP_S: Final = 60.0  # shorter runs see a cache fill
CREEP_BINS: Final = 40
ADDED: Final = 0.25  # of the client's TTFT that the server does not see
ADDED_MS: Final = 10.0
SAME_N: Final = 0.1  # counts of client and server that differ by more are not of the same requests


@dataclass(frozen=True)
class Evidence:
    """What the rules look at."""

    m: Measurements
    summary: Summary
    server: Server
    readings: Readings

    @cached_property
    def thirds(self) -> np.ndarray:
        """Edges (ns) of the window's thirds."""
        start, end = self.m.span
        return np.linspace(start, end, 4).astype(np.int64)

    def over_thirds(self, series: str) -> np.ndarray | None:
        values = binned(self.readings, series, self.thirds)
        return None if values is None or np.isnan(values).any() else values

    @cached_property
    def ttft_over_thirds(self) -> np.ndarray:
        """Median TTFT from due, ms."""
        return self._medians("ttft_from_due")

    @cached_property
    def tpot_over_thirds(self) -> np.ndarray:
        return self._medians("tpot")

    def _medians(self, metric: str) -> np.ndarray:
        values, due = self.m.value(metric) / 1e6, self.m.requests["due"]
        there = ~np.isnan(values)
        found = []
        for low, high in zip(self.thirds[:-1], self.thirds[1:], strict=True):
            inside = values[there & (due >= low) & (due < high)]
            found.append(float(np.median(inside)) if len(inside) else float("nan"))
        return np.array(found)


def findings(m: Measurements, summary: Summary) -> tuple[Finding, ...]:
    """Every rule's finding, in the order of RULES."""
    if summary.server is None:
        return ()
    evidence = Evidence(m, summary, summary.server, readings_of(m))
    return tuple(finding for rule in RULES if (finding := rule(evidence)) is not None)


def restarted(e: Evidence) -> Finding | None:
    """A process start time that changed, or counters that fell → the server restarted during the run."""
    when = [mark for mark in e.server.marks if mark.kind == "restart"]
    if not when:
        return None
    times = ", ".join(f"{mark.t_s:.4g} s" for mark in when[:5]) + (" …" if len(when) > 5 else "")
    gone = [mark for mark in e.server.marks if mark.kind == "unreachable" and mark.until_s is not None]
    evidence = [f"{len(when)} restart{'s' if len(when) > 1 else ''}, seen at {times}"]
    evidence += [f"{mark.source}: no answer from {mark.t_s:.4g} to {mark.until_s:.4g} s" for mark in gone[:3]]
    return Finding(
        rule="server-restarted",
        suspicion="a server process ended and a new one took its place during the run",
        evidence=tuple(evidence),
        advice="look at its log for the reason (out of memory, a probe that failed, a roll-out); caches began empty",
    )


def xids(e: Evidence) -> Finding | None:
    """A new XID → the driver reported a GPU error."""
    seen = [mark for mark in e.server.marks if mark.kind == "xid"]
    if not seen:
        return None
    return Finding(
        rule="gpu-xid",
        suspicion="the GPU driver reported an error",
        evidence=tuple(f"{mark.what} at {mark.t_s:.4g} s ({mark.source})" for mark in seen[:5]),
        advice="look the number up in NVIDIA's list of XIDs: some are the program's, some the hardware's",
    )


def kv_cache_full(e: Evidence) -> Finding | None:
    """KV cache full → preemption → TPOT rises."""
    track = e.readings.gauge("kv_usage")
    preempted = e.server.counters.get("preemptions")
    if track is None:
        return None
    inside = cut(track, *e.m.span).v
    inside = inside[~np.isnan(inside)]
    share = float(np.mean(inside >= FULL)) if len(inside) else 0.0
    if share < MIN_SHARE and (preempted is None or preempted.increase < 1):
        return None
    evidence = [f"KV cache at least {FULL:.0%} full in {share:.0%} of the readings, at most {inside.max():.0%}"]
    if preempted is not None:
        evidence.append(f"{preempted.increase:.0f} preemptions, {preempted.per_s:.3g}/s")
    tpot = e.tpot_over_thirds
    if not np.isnan(tpot[[0, 2]]).any():
        evidence.append(f"median TPOT, first to last third: {tpot[0]:.4g} → {tpot[2]:.4g} ms")
    slow = preempted is not None and preempted.increase >= 1
    return Finding(
        rule="kv-cache-full",
        suspicion="the KV cache is full: running requests are preempted and computed again, so tokens come slower"
        if slow
        else "the KV cache is full: new requests wait until running ones end",
        evidence=tuple(evidence),
        advice="fewer running sequences, shorter contexts, a larger share of memory for the cache, a smaller KV type, "
        "or more GPUs",
    )


def server_queue(e: Evidence) -> Finding | None:
    """Waiting requests grow → TTFT grows."""
    waiting, ttft = e.over_thirds("waiting"), e.ttft_over_thirds
    if waiting is None or np.isnan(ttft[[0, 2]]).any():
        return None
    if waiting[2] < MIN_WAITING or waiting[2] < RISING * waiting[0] or ttft[2] < RISING * ttft[0]:
        return None
    evidence = [
        f"waiting in the server, first to last third: {waiting[0]:.4g} → {waiting[2]:.4g} requests",
        f"median TTFT from due: {ttft[0]:.4g} → {ttft[2]:.4g} ms",
    ]
    queued = e.server.histograms.get("queue_time")
    if queued is not None:
        evidence.append(f"mean queue time by the server {queued.mean:.4g} ms over {queued.n:.0f} requests")
    return Finding(
        rule="server-queue",
        suspicion="the server's own queue grows: first tokens wait for a place in the batch",
        evidence=tuple(evidence),
        advice="it takes up less than is offered: raise its limit of running sequences if memory allows, or add "
        "replicas",
    )


def cpu_bound(e: Evidence) -> Finding | None:
    """CPU full with an idle GPU → tokeniser, or another part of the server that is not the model."""
    gpu = e.server.gauges.get("gpu_util")
    if gpu is None or gpu.mean >= IDLE_GPU:
        return None
    process, node = e.server.process_cpus, e.server.node_cpu_share
    if (process is None or process < BUSY_CPU) and (node is None or node < BUSY_CPU):
        return None
    evidence = [f"GPU busy {gpu.mean:.0%} of the time"]
    evidence += [] if process is None else [f"the server's process uses {process:.3g} cores"]
    evidence += [] if node is None else [f"the node's CPUs are {node:.0%} busy"]
    return Finding(
        rule="cpu-bound",
        suspicion="the CPU is full while the GPU waits: tokenising, detokenising, scheduling or the HTTP front end",
        evidence=tuple(evidence),
        advice="more API server processes, a faster tokeniser, see whether TTFT grows with the prompt",
    )


def throttling(e: Evidence) -> Finding | None:
    """GPU slowed by its temperature."""
    evidence = []
    flagged = e.server.gauges.get("gpu_throttled")
    if flagged is not None and flagged.mean >= MIN_SHARE:
        evidence.append(f"a GPU says so in {flagged.mean:.0%} of the time")
    violated = e.server.counters.get("gpu_thermal_violation")
    if violated is not None and violated.per_s >= MIN_SHARE:
        evidence.append(f"{violated.increase:.4g} s of thermal violation")
    hot, clock = e.server.gauges.get("gpu_temperature"), e.over_thirds("gpu_clock")
    if hot is not None and hot.max >= HOT_C and clock is not None and clock[2] < SLOWED * clock[0]:
        evidence.append(f"up to {hot.max:.0f} °C; SM clock {clock[0] / 1e6:.0f} → {clock[2] / 1e6:.0f} MHz")
    if not evidence:
        return None
    return Finding(
        rule="gpu-throttling",
        suspicion="a GPU is hot and lowers its clock",
        evidence=tuple(evidence),
        advice="cooling, power limit, placement; figures of a cold start are not those of an hour later",
    )


def memory_creep(e: Evidence) -> Finding | None:
    """Memory that only grows at a steady load → a leak."""
    start, end = e.m.span
    # the first third is when caches fill
    start += (end - start) // 3
    if end - start < CREEP_S * 1e9:
        return None
    for series, name in (("rss", "resident memory"), ("gpu_memory_used", "GPU memory")):
        edges = np.linspace(start, end, CREEP_BINS + 1).astype(np.int64)
        values = binned(e.readings, series, edges)
        if values is None or any(mark.kind == "restart" for mark in e.server.marks):
            continue
        there = ~np.isnan(values)
        if np.count_nonzero(there) < CREEP_BINS // 2:
            continue
        hours = (np.arange(CREEP_BINS)[there] + 0.5) * (end - start) / CREEP_BINS / 3.6e12
        slope = theil_sen(hours, values[there])
        tau, p_value = mann_kendall(values[there])
        grown = slope * float(hours[-1] - hours[0]) / float(np.median(values[there]))
        if grown < CREEP or p_value > 0.01 or tau < 0.5:
            continue
        return Finding(
            rule="memory-creep",
            suspicion=f"{name} of the server grows all the time: a leak, or a cache without a limit",
            evidence=(
                f"{slope / 1e6:,.4g} MB an hour, {grown:.1%} over the last two thirds of the window "
                f"(Mann-Kendall tau {tau:.2f})",
            ),
            advice="load it longer to see whether it ends, and compare with an older build",
        )
    return None


def between_us(e: Evidence) -> Finding | None:
    """Client's TTFT well above the server's own → network, proxies, or the server's front end."""
    told = e.server.against.get("ttft")
    if told is None or abs(told.server_n - told.client_n) > SAME_N * told.client_n:
        return None
    if told.added_ms < max(ADDED_MS, ADDED * told.client_mean_ms):
        return None
    return Finding(
        rule="added-on-the-way",
        suspicion="much of the first token's time is spent where the server does not count it",
        evidence=(
            f"mean TTFT {told.client_mean_ms:.4g} ms at the client, {told.server_mean_ms:.4g} ms by the server "
            f"({told.server_n:.0f} requests): {told.added_ms:.4g} ms between them",
        ),
        advice="proxies, gateways, TLS, distance, and the server's own front end before its clock starts; compare "
        "with the engine's own port",
    )


RULES: Final[tuple[Callable[[Evidence], Finding | None], ...]] = (
    restarted,
    xids,
    kv_cache_full,
    server_queue,
    cpu_bound,
    throttling,
    memory_creep,
    between_us,
)
