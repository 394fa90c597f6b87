"""The endpoint as a child process: for the demo, the tests, and whoever wants a server to measure against."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time
from types import TracebackType

import msgspec

from llmgen.errors import TargetError
from llmgen.simulator.options import Options

START_SECONDS = 30.0  # for the child's line; importing numpy takes a second or two on a busy machine
STOP_SECONDS = 10.0
PREFIX = "llmgen serve: listening on "


class Endpoint:
    """``with Endpoint(Options(ttft="50ms")) as endpoint: … endpoint.url``. TargetError if it does not start.

    The child ends with this process at the latest: it watches its standard input.
    """

    def __init__(self, options: Options | None = None) -> None:
        options = msgspec.structs.replace(options or Options(), stop_on_eof=True)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "llmgen.simulator", "--options", msgspec.json.encode(options).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,  # a Ctrl-C at the terminal reaches the controller only
        )
        try:
            self.url = self._wait_for_line()
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> int:
        """Ends the child, its truth log complete; its exit code. Does nothing the second time."""
        process = self._process
        if process.poll() is None:
            assert process.stdin is not None
            process.stdin.close()  # it ends with its standard input; a signal might meet it on its way out
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        return process.returncode

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _wait_for_line(self) -> str:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        received = b""
        end = time.monotonic() + START_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in received:
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise TargetError(f"the embedded endpoint did not start within {START_SECONDS:g} s")
                piece = os.read(self._process.stdout.fileno(), 4096)
                if not piece:
                    told = self._process.stderr.read().decode(errors="replace").strip()
                    raise TargetError(f"the embedded endpoint did not start: {told or 'no message'}")
                received += piece
        line = received.decode().strip()
        if not line.startswith(PREFIX):
            raise TargetError(f"the embedded endpoint said {line!r}")
        return line.removeprefix(PREFIX)
