"""``python -m llmgen.simulator --options JSON``: the child process of `Endpoint`. People use ``llmgen serve``."""

from __future__ import annotations

import signal
import sys

import msgspec

from llmgen.errors import LlmgenError
from llmgen.simulator.options import Options
from llmgen.simulator.service import serve


def run(options: Options) -> int:
    """Serves until stopped; errors become one line on standard error and their exit code."""
    try:
        return serve(options)
    except LlmgenError as error:
        print(f"llmgen serve: {error}", file=sys.stderr)
        return error.exit_code


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or arguments[0] != "--options":
        print("usage: python -m llmgen.simulator --options JSON (see llmgen.simulator.Options)", file=sys.stderr)
        return 2
    # What `serve` puts back when it is done: a second signal must not interrupt the last steps of an orderly end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return run(msgspec.json.decode(arguments[1], type=Options))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
