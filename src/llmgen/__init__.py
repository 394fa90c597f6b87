"""llmgen: an open-loop load generator for LLM inference endpoints that measures itself as well as the server.

    import llmgen
    result = llmgen.run(llmgen.RunConfig(...))      # or llmgen.load_config("load.yaml")
    result.summary, result.requests, result.events
    llmgen.open_run("runs/latest")                  # the same from disk

Names are loaded when first used: a worker process, which imports this package too, pays for none of them.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from llmgen.config import (
        Client,
        Klass,
        Load,
        RunConfig,
        Stage,
        Target,
        Timeouts,
        Trace,
        Workload,
        load_config,
        merge,
    )
    from llmgen.errors import ConfigError, LlmgenError, RecordError, TargetError, WorkerError
    from llmgen.records import open_run
    from llmgen.run import Result, run

_HOME: Final = {
    "Client": "config",
    "Klass": "config",
    "Load": "config",
    "RunConfig": "config",
    "Stage": "config",
    "Target": "config",
    "Timeouts": "config",
    "Trace": "config",
    "Workload": "config",
    "load_config": "config",
    "merge": "config",
    "ConfigError": "errors",
    "LlmgenError": "errors",
    "RecordError": "errors",
    "TargetError": "errors",
    "WorkerError": "errors",
    "open_run": "records",
    "Result": "run",
    "run": "run",
}

__all__ = [
    "Client",
    "ConfigError",
    "Klass",
    "LlmgenError",
    "Load",
    "RecordError",
    "Result",
    "RunConfig",
    "Stage",
    "Target",
    "TargetError",
    "Timeouts",
    "Trace",
    "WorkerError",
    "Workload",
    "load_config",
    "merge",
    "open_run",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'llmgen' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"llmgen.{_HOME[name]}"), name)
    setattr(sys.modules[__name__], name, value)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(types.ModuleType):
    """`run` is a submodule and the function in it: as an attribute of the package it is always the function.

    The import system sets a submodule as an attribute of its package; here is the only place to tell it otherwise.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "run" and isinstance(value, types.ModuleType):
            value = value.run
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
