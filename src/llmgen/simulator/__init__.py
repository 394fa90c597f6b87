"""The embedded endpoint (`llmgen serve`): an LLM server that never computes, but whose times are known.

`serve(options)` blocks until SIGINT or SIGTERM; `Endpoint(options)` runs the same in a child process of its own.
"""

from llmgen.simulator.endpoint import Endpoint
from llmgen.simulator.options import Options
from llmgen.simulator.service import serve

__all__ = ["Endpoint", "Options", "serve"]
