"""The embedded endpoint (`llmgen serve`): an LLM server that never computes, but whose times are known.

`serve(options)` blocks until SIGINT or SIGTERM; `Endpoint(options)` runs the same in a child process of its own,
`Service(options)` in threads of this one. `simulate` is the engine of ``--engine`` without a network.
"""

from llmgen.simulator.endpoint import Endpoint
from llmgen.simulator.offline import Stamps, simulate
from llmgen.simulator.options import Options
from llmgen.simulator.parameters import Parameters
from llmgen.simulator.service import Service, serve

__all__ = ["Endpoint", "Options", "Parameters", "Service", "Stamps", "serve", "simulate"]
