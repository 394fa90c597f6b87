"""``--listen-metrics HOST:PORT``: the counters of a run under way, for Prometheus to read.

A thread of the controller answers; it reads the workers' counters and histograms as the live view does, so that a
scrape costs the load nothing and never waits for it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import numpy as np

from llmgen.columns import NOT_FAILED, Histogram, Status, bucket_bounds_ns
from llmgen.errors import ConfigError
from llmgen.live import LiveHistograms
from llmgen.logs import log
from llmgen.report.openmetrics import CONTENT_TYPE, Exposition, cumulative

PATIENCE_S: Final = 5.0  # of a client that connects and says nothing
MOST_SCRAPES: Final = 8  # at once; a reader that never ends may not take threads without end
# Limits of the exposed histograms: what dashboards for LLMs draw, 1-2.5-5 a decade.
LIMITS_S: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 120.0,
)  # fmt: skip
HISTOGRAMS: Final = (
    (Histogram.ttft, "ttft", "First token − send."),
    (Histogram.itl, "itl", "Inter-token latency, weighted by tokens."),
    (Histogram.lag, "schedule_lag", "Dispatch − due: our own lateness."),
)
COUNTERS: Final = (
    ("due", "llmgen_requests_due", "Requests whose due time has passed."),
    ("sent", "llmgen_requests_sent", "Requests sent."),
    ("tokens", "llmgen_token_events", "Events with generated content."),
    ("events", "llmgen_events", "Server-sent events."),
    ("bytes_in", "llmgen_received_bytes", "Bytes of answers."),
    ("stale_resends", "llmgen_stale_resends", "Requests sent once more: a reused connection had died."),
)
GAUGES: Final = (
    ("in_flight", "llmgen_requests_in_flight", "Requests dispatched and not ended."),
    ("waiting", "llmgen_requests_waiting", "Of them, without a connection or stream yet."),
    ("connections", "llmgen_connections", "Open connections."),
)


class Exporter:
    """Serves one run's counters from `start` to `stop`. Raises ConfigError where it cannot listen."""

    def __init__(self, address: str, counters: np.ndarray, histograms: LiveHistograms, run_id: str, name: str) -> None:
        self._counters = counters
        self._histograms = histograms
        self._labels = {"run_id": run_id, "name": name}
        self._bounds_s = (bucket_bounds_ns()[1:] / 1e9).tolist()
        host, port = parse_address(address)
        try:
            self._server = _Server((host, port), _handler(self))
        except OSError as error:
            raise ConfigError(f"--listen-metrics {address!r}: cannot listen: {error.strerror or error}") from None
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True)

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        shown = f"[{host!s}]" if ":" in str(host) else str(host)
        return f"http://{shown}:{port}/metrics"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns within a second, whatever a client does."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join(1.0)
        self._server.server_close()

    def render(self) -> str:
        """The exposition of this moment."""
        out, counters = Exposition(), self._counters
        out.family("llmgen_run", "info", "The run under way.")
        out.sample("llmgen_run_info", 1, self._labels)
        for field, name, help in COUNTERS:
            out.family(name, "counter", help, "bytes" if name.endswith("_bytes") else "")
            out.sample(f"{name}_total", int(counters[field].sum()))
        out.family("llmgen_requests_ended", "counter", "Requests by how they ended.")
        by_status = counters["by_status"].sum(axis=0)
        for status in Status:
            if status < len(by_status) and (by_status[status] or status is Status.ok):
                labels = {"status": status.name, "failed": str(status not in NOT_FAILED).lower()}
                out.sample("llmgen_requests_ended_total", int(by_status[status]), labels)
        for field, name, help in GAUGES:
            out.family(name, "gauge", help)
            out.sample(name, int(counters[field].sum()))
        out.family("llmgen_worker_cpu_seconds", "counter", "Processor time of the workers.", "seconds")
        for number, cpu_ns in enumerate(counters["cpu_ns"].tolist()):
            out.sample("llmgen_worker_cpu_seconds_total", cpu_ns / 1e9, {"worker": number})
        self._add_histograms(out)
        return out.text()

    def _add_histograms(self, out: Exposition) -> None:
        counts = self._histograms.read()
        if counts is None:
            return
        for metric, name, help in HISTOGRAMS:
            family = f"llmgen_{name}_seconds"
            fine = counts[metric].tolist()
            total = sum(fine)
            out.family(family, "histogram", help, "seconds")
            for limit, count in zip(LIMITS_S, cumulative(fine, self._bounds_s, LIMITS_S), strict=True):
                out.sample(f"{family}_bucket", count, {"le": f"{limit:g}"})
            out.sample(f"{family}_bucket", total, {"le": "+Inf"})
            out.sample(f"{family}_count", total)
            out.sample(f"{family}_sum", self._histograms.total_s(counts[metric]))


@contextlib.contextmanager
def exporting(
    address: str | None, counters: np.ndarray, histograms: LiveHistograms, info: Mapping[str, Any]
) -> Iterator[Exporter | None]:
    """An exporter while the block lasts; nothing without an address. info: run.json."""
    if address is None:
        yield None
        return
    exporter = Exporter(address, counters, histograms, str(info["run_id"]), str(info["name"] or ""))
    exporter.start()
    log.info(f"metrics of this run: {exporter.url}")
    try:
        yield exporter
    finally:
        exporter.stop()


def parse_address(address: str) -> tuple[str, int]:
    """(host, port) of ``HOST:PORT``, ``:PORT`` or ``PORT``; loopback without a host, ``[::1]:9000`` for IPv6."""
    host, _, port = address.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"--listen-metrics {address!r}: write HOST:PORT, like 127.0.0.1:9464")
    return host.strip("[]") or "127.0.0.1", int(port)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a client that hangs may not hold the end of a run

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        import socket

        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self._free = threading.BoundedSemaphore(MOST_SCRAPES)
        super().__init__(address, handler)

    def process_request(self, request, client_address):  # type: ignore[no-untyped-def]
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request, client_address):  # type: ignore[no-untyped-def]
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request, client_address):  # type: ignore[no-untyped-def]
        """A reader that hangs up is no news."""


def _handler(exporter: Exporter) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = PATIENCE_S
        server_version = "llmgen"
        sys_version = ""

        def do_GET(self) -> None:
            found = self.path.partition("?")[0] in ("/metrics", "/")
            body = exporter.render().encode() if found else b"not found; see /metrics\n"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", CONTENT_TYPE if found else "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """The log belongs to the run."""

    return Handler
