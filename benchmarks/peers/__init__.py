"""Other load generators, one file each: is it there, how is it called, where does it say what it measured?

Each file has PEERS, a list of Peer. A command that is not on PATH can be named by an environment variable (a virtual
environment of its own, say): LLMGEN_PEER_AIPERF=/opt/aiperf/bin/aiperf.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

TOKENS = 200  # an answer
TTFT_MS, GAP_MS = 100, 20  # what the server is told


@dataclass(frozen=True)
class Load:
    """What every tool is asked for."""

    url: str  # http://127.0.0.1:PORT
    streams: int
    rate: float  # requests a second, Poisson; 0: closed loop
    seconds: float
    folder: Path  # for the tool's files; empty
    tokenizer: Path  # a folder with tokenizer.json: nothing can be fetched
    seed: int  # of the arrivals, another one every round

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def body(self) -> bytes:
        """A request, for tools that send what they are given."""
        prompt = "tell me something long about the rivers of this country"
        return b'{"model":"simulated","stream":true,"max_tokens":%d,"messages":[{"role":"user","content":"%b"}]}' % (
            TOKENS,
            prompt.encode(),
        )


@dataclass(frozen=True)
class Percentiles:
    p50: float
    p99: float


@dataclass(frozen=True)
class Told:
    """What a tool reported, ms; None: it does not measure that."""

    ttft: Percentiles | None = None
    gap: Percentiles | None = None
    gap_is_mean: bool = False  # its gaps are means of a request; the truth is then taken in the same way
    from_s: float = 0  # it begins to measure so long after its first request
    verdict: str = ""  # what it says about its own run


@dataclass(frozen=True)
class Peer:
    name: str
    open_loop: bool  # False: keeps `streams` requests in flight, whatever rate is asked
    find: Callable[[], str | None]  # the command; None: not installed
    version: Callable[[str], str]
    command: Callable[[str, Load], list[str]]
    read: Callable[[Load, str], Told]  # from its files or its standard output; any exception is its failure
    environment: Mapping[str, str] = field(default_factory=dict)


def installed(command: str) -> Callable[[], str | None]:
    """Finds `command` where LLMGEN_PEER_COMMAND says, or on PATH."""
    variable = f"LLMGEN_PEER_{command.upper().replace('-', '_')}"
    return lambda: shutil.which(os.environ.get(variable) or command)


def version_beside(package: str) -> Callable[[str], str]:
    """The version of a Python package in the environment that a command lies in."""

    def version(command: str) -> str:
        places = Path(command).resolve().parent.parent.glob("lib/python*/site-packages")
        found = [d.version for d in metadata.distributions(name=package, path=[str(place) for place in places])]
        return found[0] if found else ""

    return version
