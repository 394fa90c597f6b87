"""Runs the endpoint in this process: listening socket, sending threads, signals, truth log."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from llmgen import tls
from llmgen.errors import ConfigError, LlmgenError, TargetError
from llmgen.simulator import certificates, distribution, faults, presets, truth
from llmgen.simulator.loop import Loop
from llmgen.simulator.model import Model
from llmgen.simulator.options import DEFAULT_MODEL, Options
from llmgen.simulator.pages import Pages

BACKLOG = 4096  # of the accept queue: open-loop bursts must not be lost to SYN retries (the kernel's somaxconn caps it)
SO_TIMESTAMPNS = 35  # asm-generic; Python's socket module does not name it
MAX_TOKENS_PER_EVENT = 1024  # server.pxd: an event must fit into an HTTP/2 frame
MAX_OUTPUT_TOKENS = 1_000_000
MAX_MODELS, MAX_MODEL_BYTES = 64, 256
MAX_BLOCK_WORDS = 1 << 20
MAX_CORES = 16  # a sending thread's number takes four bits of its connections' numbers


class Service:
    """The endpoint in sending threads of this process, from its making to `stop`.

    ConfigError and TargetError before the first packet. Tests and notebooks may use it directly; `Endpoint` is a
    process of its own and disturbs nobody.
    """

    def __init__(self, options: Options) -> None:
        cores: list[int | None] = [*_check(options)] or [None]
        _raise_descriptor_limit()
        self.failures: list[BaseException] = []
        self._options = options
        self._closing = ExitStack()
        try:
            truth_fd = self._closing.enter_context(_truth_file(options.truth))
            listener, self.url = _listen(options)
            self._closing.enter_context(listener)
            if options.unix:
                self._closing.callback(Path(options.unix).unlink, missing_ok=True)
            self.ended, self._end = self._pipe()  # readable when a thread has ended, or somebody asked for the end
            self._loops = self._make_loops(listener.fileno(), truth_fd, len(cores))
        except BaseException:
            self._closing.close()
            raise
        self._threads = [
            threading.Thread(target=self._work, args=pair, name="llmgen-serve", daemon=True)
            for pair in zip(self._loops, cores, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def ask_to_end(self) -> None:
        """Makes `ended` readable; may be called by a signal handler, also when the end is under way already."""
        with suppress(OSError):  # full: it is readable; closed: nobody waits any more
            os.write(self._end, b"x")

    def stop(self) -> None:
        """Closes all connections and completes the truth log. LlmgenError if a thread had failed."""
        for loop in self._loops:
            loop.stop()
        for thread in self._threads:
            thread.join()
        for loop in self._loops:
            try:
                loop.close()
            except OSError as error:
                self.failures.append(error)
        self._closing.close()
        if self.failures:
            raise LlmgenError(f"the endpoint stopped: {self.failures[0]}") from self.failures[0]

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _pipe(self) -> tuple[int, int]:
        ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for fd in ends:
            self._closing.callback(os.close, fd)
        return ends

    def _make_loops(self, listener: int, truth_fd: int, count: int) -> list[Loop]:
        """The first loop accepts; it deals the connections out to the others through pipes."""
        settings = _settings(self._options)
        pipes = [self._pipe() for _ in range(count - 1)]
        first = Loop(
            listener=listener, inlet=-1, outlets=[end for _, end in pipes], truth_fd=truth_fd, number_base=0, **settings
        )
        others = [
            Loop(listener=-1, inlet=inlet, outlets=[], truth_fd=truth_fd, number_base=number << 28, **settings)
            for number, (inlet, _) in enumerate(pipes, 1)
        ]
        return [first, *others]

    def _work(self, loop: Loop, core: int | None) -> None:
        try:
            if core is not None:
                os.sched_setaffinity(0, {core})  # of this thread
            loop.run()
        except BaseException as error:
            self.failures.append(error)
        finally:
            self.ask_to_end()


def serve(options: Options) -> int:
    """Serves until SIGINT or SIGTERM (or EOF of standard input, if asked); 0. ConfigError before the first packet."""
    service = Service(options)
    with _signals(service):
        print(f"llmgen serve: listening on {service.url}", flush=True)
        _wait(service.ended, options.stop_on_eof)
        service.stop()
    return 0


def _check(options: Options) -> list[int]:
    if options.http not in ("1.1", "2", "both"):
        raise ConfigError(f"http: {options.http!r} is not one of 1.1, 2, both")
    if not options.tls and (options.cert or options.key or options.client_ca or options.write_cert):
        raise ConfigError("cert: certificates are of use with tls only")
    if options.tls and options.unix:
        raise ConfigError("unix: no TLS on a unix socket")
    if not 0 <= options.port <= 65535:
        raise ConfigError(f"port: {options.port} is not a port")
    if options.slots < 0:
        raise ConfigError(f"slots: {options.slots} is negative; 0 means any number")
    if len(options.models) > MAX_MODELS:
        raise ConfigError(f"models: {len(options.models)} names, at most {MAX_MODELS}")
    for name in options.models:
        if not name or len(name.encode()) > MAX_MODEL_BYTES or any(c in '"\\' or ord(c) < 32 for c in name):
            raise ConfigError(f"models: {name!r} is empty, too long or holds a quote, backslash or control character")
    cores = _cores(options.cores)
    if options.slots and len(cores) > 1:
        raise ConfigError(
            f"slots: only one sending thread can count them, and cores={options.cores!r} makes {len(cores)}"
        )
    if not 0 <= options.prefix_blocks <= MAX_BLOCK_WORDS:
        raise ConfigError(f"prefix_blocks: {options.prefix_blocks} is not a size from 1 to {MAX_BLOCK_WORDS}; 0: none")
    if options.prefix_blocks and len(cores) > 1:
        raise ConfigError(
            f"prefix_blocks: only one sending thread can count them, and cores={options.cores!r} makes {len(cores)}"
        )
    if options.prefix_blocks and options.engine is not None:
        raise ConfigError("prefix_blocks: an engine has a prefix cache of its own (block_tokens=N,kv_blocks=0)")
    if options.engine is not None:
        presets.read(options.engine)
        if len(cores) > 1:
            raise ConfigError(f"engine: one sending thread drives it, and cores={options.cores!r} makes {len(cores)}")
        if options.slots or distribution.duration_ns("step", options.step):
            raise ConfigError("engine: it has its own steps and limits; leave step and slots away")
    return cores


def _engine(options: Options) -> dict[str, Any]:
    """What a loop is told about the engine, if there is one."""
    if options.engine is None:
        return {"engine": None, "pages": None, "refusal": 0}
    parameters = presets.read(options.engine)
    model = Model(parameters.settings(options.seed), parameters.draw_noise(options.seed))
    pages = Pages(model, parameters, options.models[0] if options.models else DEFAULT_MODEL)
    return {"engine": model, "pages": pages, "refusal": parameters.refusal}


def _raise_descriptor_limit() -> None:
    """One descriptor a connection: takes what the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _listen(options: Options) -> tuple[socket.socket, str]:
    """A listening socket whose accepted sockets inherit TCP_NODELAY and kernel stamps, and its URL."""
    scheme = "https" if options.tls else "http"
    where = options.unix or f"{options.host}:{options.port}"
    listener: socket.socket | None = None
    try:
        if options.unix:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(options.unix)
            url = f"unix:{os.path.abspath(options.unix)}"
        else:
            family, _, _, _, address = socket.getaddrinfo(
                options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listener = socket.socket(family, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            listener.bind(address)
            host, port = listener.getsockname()[:2]
            url = f"{scheme}://[{host}]:{port}" if family == socket.AF_INET6 else f"{scheme}://{host}:{port}"
        listener.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        listener.setblocking(False)
        listener.listen(BACKLOG)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise TargetError(f"cannot listen on {where}: {error.strerror or error}") from None
    return listener, url


@contextmanager
def _truth_file(path: str | None) -> Iterator[int]:
    """The descriptor of a new truth log, -1 without a path."""
    if path is None:
        yield -1
        return
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise ConfigError(f"truth: cannot write {path!r}: {error.strerror}") from None
    try:
        try:
            os.write(fd, truth.header())
        except OSError as error:
            raise ConfigError(f"truth: cannot write {path!r}: {error.strerror}") from None
        yield fd
    finally:
        os.close(fd)


def _settings(options: Options) -> dict[str, Any]:
    """What every loop is given; draws the distributions."""
    rng = np.random.default_rng(options.seed)
    rules = faults.parse(options.fault)
    output = None
    if options.output_tokens is not None:
        output = distribution.counts("output_tokens", options.output_tokens, rng, 1, MAX_OUTPUT_TOKENS)
    return {
        **rules._asdict(),
        **_engine(options),
        "step_start_ns": time.monotonic_ns(),
        "ttft": distribution.times("ttft", options.ttft, rng),
        "itl": distribution.times("itl", options.itl, rng),
        "output": output,
        "per_event": distribution.counts("tokens_per_event", options.tokens_per_event, rng, 1, MAX_TOKENS_PER_EVENT),
        "step_ns": distribution.duration_ns("step", options.step),
        "seed": options.seed % 2**64,
        "slots": options.slots,
        "prefix_blocks": options.prefix_blocks,
        "models": [name.encode() for name in options.models or (DEFAULT_MODEL,)],
        "any_model": not options.models,
        "http1": options.http != "2",
        "http2": options.http != "1.1",
        "tls": tls.Endpoint(certificates.server_context(options), None, server=True) if options.tls else None,
    }


@contextmanager
def _signals(service: Service) -> Iterator[None]:
    """SIGINT and SIGTERM ask for the end; only the main thread can arrange that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, frame: object) -> None:
        service.ask_to_end()

    # A second signal during the end must not cut the truth log off, so the handlers stay until all is closed.
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(done: int, stop_on_eof: bool) -> None:
    """Returns when `done` is readable, or standard input ends."""
    poll = select.poll()
    poll.register(done, select.POLLIN)
    if stop_on_eof:
        poll.register(0, select.POLLIN | select.POLLHUP)
    while True:
        for fd, _ in poll.poll():
            if fd == done or not os.read(fd, 4096):
                return


def _cores(text: str | None) -> list[int]:
    """``0,2-3`` → [0, 2, 3], each of them allowed to this process."""
    if text is None:
        return []
    cores: list[int] = []
    for part in text.split(","):
        low, dash, high = part.partition("-")
        if not low.isdigit() or (dash and not high.isdigit()):
            raise ConfigError(f"cores: {text!r} is not a list like 0,2-3")
        cores += range(int(low), int(high if dash else low) + 1)
    allowed = os.sched_getaffinity(0)
    missing = [core for core in cores if core not in allowed]
    if missing or len(set(cores)) != len(cores) or len(cores) > MAX_CORES:
        raise ConfigError(f"cores: {text!r}: give up to {MAX_CORES} different ones of {sorted(allowed)}")
    return cores
