"""Runs the endpoint in this process: listening socket, sending threads, signals, truth log."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np

from llmgen import tls
from llmgen.errors import ConfigError, LlmgenError, TargetError
from llmgen.simulator import certificates, distribution, faults, truth
from llmgen.simulator.loop import Loop
from llmgen.simulator.options import DEFAULT_MODEL, Options

BACKLOG = 4096  # of the accept queue: open-loop bursts must not be lost to SYN retries (the kernel's somaxconn caps it)
SO_TIMESTAMPNS = 35  # asm-generic; Python's socket module does not name it
MAX_TOKENS_PER_EVENT = 1024  # server.pxd: an event must fit into an HTTP/2 frame
MAX_OUTPUT_TOKENS = 1_000_000
MAX_MODELS, MAX_MODEL_BYTES = 64, 256


def serve(options: Options) -> int:
    """Serves until SIGINT or SIGTERM (or EOF of standard input, if asked); 0. ConfigError before the first packet."""
    _check(options)
    _raise_descriptor_limit()
    with _truth_file(options.truth) as truth_fd:
        listener, url = _listen(options)
        with listener:
            loops = [_loop(options, listener.fileno(), truth_fd)]
            try:
                _run(options, url, loops)
            finally:
                if options.unix:
                    with suppress(FileNotFoundError):
                        os.unlink(options.unix)
    return 0


def _check(options: Options) -> None:
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
        os.write(fd, truth.header())
        yield fd
    finally:
        os.close(fd)


def _loop(options: Options, listener: int, truth_fd: int) -> Loop:
    """Draws the distributions and makes the sending loop."""
    rng = np.random.default_rng(options.seed)
    rules = faults.parse(options.fault)
    output = None
    if options.output_tokens is not None:
        output = distribution.counts("output_tokens", options.output_tokens, rng, 1, MAX_OUTPUT_TOKENS)
    return Loop(
        listener,
        ttft=distribution.times("ttft", options.ttft, rng),
        itl=distribution.times("itl", options.itl, rng),
        output=output,
        per_event=distribution.counts("tokens_per_event", options.tokens_per_event, rng, 1, MAX_TOKENS_PER_EVENT),
        step_ns=distribution.duration_ns("step", options.step),
        seed=options.seed % 2**64,
        rules=rules.rules,
        refuse_below=rules.refuse_below,
        mute_below=rules.mute_below,
        close_idle_ns=rules.close_idle_ns,
        slow_settings_ns=rules.slow_settings_ns,
        stream_limit=rules.stream_limit,
        lowered_limit=rules.lowered_limit,
        window=rules.window,
        slots=options.slots,
        models=[name.encode() for name in options.models or (DEFAULT_MODEL,)],
        any_model=not options.models,
        http1=options.http != "2",
        http2=options.http != "1.1",
        tls=tls.Endpoint(certificates.server_context(options), None, server=True) if options.tls else None,
        truth_fd=truth_fd,
        number_base=0,
    )


def _run(options: Options, url: str, loops: list[Loop]) -> None:
    """Runs every loop in a thread of its own until a signal, or until one fails; then closes them."""
    failures: list[BaseException] = []
    done_read, done_write = os.pipe()
    os.set_blocking(done_write, False)

    def work(loop: Loop, core: int | None) -> None:
        try:
            if core is not None:
                os.sched_setaffinity(0, {core})
            loop.run()
        except BaseException as error:
            failures.append(error)
        finally:
            os.write(done_write, b"x")

    cores: list[int | None] = [*_cores(options.cores)] or [None]
    threads = [
        threading.Thread(target=work, args=pair, name="llmgen-serve", daemon=True)
        for pair in zip(loops, cores, strict=True)
    ]
    with _signals(done_write):
        for thread in threads:
            thread.start()
        print(f"llmgen serve: listening on {url}", flush=True)
        _wait(done_read, options.stop_on_eof)
        for loop in loops:
            loop.stop()
        for thread in threads:
            thread.join()
        for loop in loops:
            loop.close()
    os.close(done_read)
    os.close(done_write)
    if failures:
        raise LlmgenError(f"the endpoint stopped: {failures[0]}") from failures[0]


@contextmanager
def _signals(wake: int) -> Iterator[None]:
    """SIGINT and SIGTERM write to `wake`; only the main thread can arrange that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, frame: object) -> None:
        with suppress(BlockingIOError):
            os.write(wake, b"s")

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(done: int, stop_on_eof: bool) -> None:
    """Returns when something is written to `done`, or standard input ends."""
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
    if missing or not cores:
        raise ConfigError(f"cores: {text!r}: this process may run on {sorted(allowed)}")
    return cores
