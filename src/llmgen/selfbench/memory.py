"""Memory of a stream: a worker with many open at once against the same worker with a few."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from llmgen import machine
from llmgen.config import Client, Load, RunConfig, Workload
from llmgen.selfbench.figures import Memory, Placement
from llmgen.selfbench.steps import TIMEOUTS, Server, Shape, offer, run_info, serving

FEW: Final = 10
# The worker looks at its memory once a second: answers that last 2.1 s are all open at one look at least.
SHAPE: Final = Shape("memory", 4, "1500ms", "200ms", 0.0, 0.0, 2.1)
DRAIN_S: Final = 15.0


def stream_memory(protocol: str, streams: int, placement: Placement, folder: Path) -> Memory | None:
    """None where not all answers came, so that nobody knows how many were open."""
    if protocol == "HTTP/1.1":
        # the server needs as many descriptors as the worker
        room = machine.raise_descriptor_limit() - machine.SPARE_DESCRIPTORS
        streams = min(streams, room, machine.ephemeral_ports() // 2)
    with serving(SHAPE, protocol, placement, folder, None) as server:
        base, many = (at_once(server, count, folder) for count in (FEW, streams))
    if base is None or many is None:
        return None
    return Memory(
        protocol="HTTP/1.1" if protocol == "HTTP/1.1" else "HTTP/2",
        streams=streams,
        base_streams=FEW,
        base_mb=base,
        mb=many,
        bytes_per_stream=round((many - base) * (1 << 20) / (streams - FEW)),
    )


def at_once(server: Server, streams: int, folder: Path) -> float | None:
    """Peak of the worker's own memory, MB, with so many streams that all begin together."""
    config = RunConfig(
        name="selfbench",
        record="requests",
        target=server.target,
        load=Load(arrival="closed", concurrency=streams, requests=streams, drain=DRAIN_S),
        workload=Workload(input=8, output=SHAPE.tokens),
        client=Client(workers=1, timeouts=TIMEOUTS),
    )
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        result = offer(config, Path(scratch) / "run")
        if result.summary.requests.succeeded < streams:
            return None
        workers = run_info(result)["workers_detail"]
    return float(workers[0]["peak_user_rss_mb"]) if workers else None
