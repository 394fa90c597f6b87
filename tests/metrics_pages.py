"""Metrics pages for tests: a small server in this process, and pages as servers print them (tests/fixtures/metrics)."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FIXTURES = Path(__file__).parent / "fixtures" / "metrics"


def page(name: str) -> str:
    return (FIXTURES / f"{name}.txt").read_text(encoding="utf-8")


class MetricsServer:
    """Answers every GET with what `answer` returns: text of a page, or a status that is not 200."""

    def __init__(self, answer: Callable[[], str | int]) -> None:
        self.seen: list[dict[str, str]] = []
        self.connections = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                outer.connections += 1
                super().setup()

            def do_GET(self) -> None:
                outer.seen.append({"path": self.path, **{k.lower(): v for k, v in self.headers.items()}})
                told = answer()
                body = told.encode() if isinstance(told, str) else b"no"
                self.send_response(200 if isinstance(told, str) else told)
                self.send_header("content-type", "text/plain; version=0.0.4")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/metrics"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@contextlib.contextmanager
def serving(answer: Callable[[], str | int] | str) -> Iterator[MetricsServer]:
    server = MetricsServer((lambda: answer) if isinstance(answer, str) else answer)
    try:
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """The URL of a page that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/metrics"
