"""HTTP/2 servers that are not written here: nghttpd, nginx, hypercorn, Node. Each on loopback, each can be killed and
started again at the same port. A test that needs one which this machine lacks is skipped and says so."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

START_S = 30.0  # Node and Python import for seconds on a busy machine
HERE = Path(__file__).parent


def free_port() -> int:
    """A port that nobody listens on now; servers started again must be able to take it back."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def program(name: str) -> str:
    """The path of a program; skips the test if it is not installed. Debian puts servers where users do not look."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed (scripts/test-full installs it where it may)")
    return found


@dataclass(frozen=True)
class Certificate:
    """A certificate for localhost, and the authority that signed it; paths of PEM files."""

    ca: str
    chain: str
    key: str


def certificate(folder: Path) -> Certificate:
    folder.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    with (folder / "chain.pem").open("wb") as chain:
        chain.writelines(blob.bytes() for blob in issued.cert_chain_pems)
    return Certificate(str(folder / "ca.pem"), str(folder / "chain.pem"), str(folder / "key.pem"))


class ForeignServer:
    """A server process with all its children, listening at 127.0.0.1:port while it runs."""

    def __init__(self, command: list[str], port: int, log: Path, secure: bool = False, **environment: str) -> None:
        self.command, self.port, self.log = command, port, log
        self.url = f"https://localhost:{port}" if secure else f"http://127.0.0.1:{port}"
        self.environment = {**os.environ, **environment}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> ForeignServer:
        """Starts it and waits until it listens."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )
        until = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return self
            except OSError:
                if self.process.poll() is not None or time.monotonic() > until:
                    self.kill()
                    told = self.log.read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"{self.command[0]} does not listen at {self.port}: {told}") from None
                time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL for it and its children: open connections are cut where they are."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
            self.process = None

    def __enter__(self) -> ForeignServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()


# -- what they answer -------------------------------------------------------------------------------------------------


def chat_event(text: str, finish: str | None = None) -> str:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": finish}
    event = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return f"data: {json.dumps(event, separators=(',', ':'))}\n\n"


def chat_body(events: int) -> str:
    """A stream of so many token events and [DONE]."""
    tokens = [chat_event(f" t{number}", "length" if number == events - 1 else None) for number in range(events)]
    return "".join(tokens) + "data: [DONE]\n\n"


# -- the servers ------------------------------------------------------------------------------------------------------


def nghttpd(folder: Path, events: int) -> ForeignServer:
    """Cleartext HTTP/2 with prior knowledge: a file of `events` events, whole, with Content-Length and no type."""
    answer = folder / "www" / "v1" / "chat" / "completions"
    answer.parent.mkdir(parents=True)
    answer.write_text(chat_body(events))
    port = free_port()
    command = [program("nghttpd"), "--no-tls", "--address=127.0.0.1", "-d", str(folder / "www"), str(port)]
    return ForeignServer(command, port, folder / "nghttpd.log")


NGINX = """
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} ssl http2;
    ssl_certificate {certificate.chain};
    ssl_certificate_key {certificate.key};
    keepalive_requests {requests};
    location / {{
      proxy_pass {upstream};
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


def nginx(folder: Path, upstream: str, requests_per_connection: int) -> tuple[ForeignServer, str]:
    """TLS, HTTP/2 by ALPN, before an HTTP/1.1 upstream; it says GOAWAY after so many requests of a connection.

    Also the path of the authority's certificate.
    """
    signed = certificate(folder / "certificate")
    port = free_port()
    user = "user root;" if os.geteuid() == 0 else ""  # its own user could not enter the test's folder
    text = NGINX.format(
        user=user, folder=folder, port=port, certificate=signed, upstream=upstream, requests=requests_per_connection
    )
    (folder / "nginx.conf").write_text(text)
    command = [program("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    return ForeignServer(command, port, folder / "nginx.log", secure=True), signed.ca


ASGI = """
BODY = {events!r}


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({{"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}})
    for piece in BODY:
        await send({{"type": "http.response.body", "body": piece, "more_body": True}})
    await send({{"type": "http.response.body", "body": b""}})
"""


def pieces(events: int) -> list[str]:
    return [piece + "\n\n" for piece in chat_body(events).split("\n\n")[:-1]]


def hypercorn(folder: Path, events: int) -> tuple[ForeignServer, str]:
    """TLS and ALPN; each event is a message of its own. Also the path of the authority's certificate."""
    pytest.importorskip("hypercorn")
    signed = certificate(folder / "certificate")
    (folder / "foreign_app.py").write_text(ASGI.format(events=[piece.encode() for piece in pieces(events)]))
    port = free_port()
    command = [sys.executable, "-m", "hypercorn", "--bind", f"127.0.0.1:{port}", "--certfile", signed.chain]
    command += ["--keyfile", signed.key, "foreign_app:app"]
    return ForeignServer(command, port, folder / "hypercorn.log", secure=True, PYTHONPATH=str(folder)), signed.ca


NODE = """
const http2 = require("node:http2");
const pieces = %s;
const server = http2.createServer((request, response) => {
  request.resume();
  request.on("end", () => {
    response.writeHead(200, {"content-type": "text/event-stream"});
    for (const piece of pieces) response.write(piece);
    response.end();
  });
  request.on("error", () => {});
  response.on("error", () => {});
});
server.listen(%d, "127.0.0.1");
"""


def node(folder: Path, events: int) -> ForeignServer:
    """Cleartext HTTP/2 with prior knowledge; each event is a write of its own."""
    executable = program("node")
    port = free_port()
    (folder / "server.js").write_text(NODE % (json.dumps(pieces(events)), port))
    return ForeignServer([executable, str(folder / "server.js")], port, folder / "node.log")
