"""The engine's model without a network: from a plan to the stamps that a perfect client would see.

``llmgen serve --engine`` has its times from the same model; what it adds is the operating system.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llmgen.simulator import presets
from llmgen.simulator.model import Model
from llmgen.simulator.parameters import Parameters, check

ADMITTED, LOADING, FULL, LENGTH = 0, 1, 2, 3  # engine.pxd's Admission

TOKEN_ROW: Final = np.dtype([("t", "<i8"), ("request", "<u4"), ("tokens", "<u4")])
STEP_ROW: Final = np.dtype(
    [
        ("start", "<i8"),
        ("end", "<i8"),
        ("replica", "<u4"),
        ("prefill_tokens", "<u4"),
        ("decodes", "<u4"),  # sequences that decode
        ("running", "<u4"),  # sequences in the batch at the step's start
        ("waiting", "<u4"),  # and in the queue
        ("tokens", "<u4"),  # that the step gave
        ("kv_used", "<u4"),  # blocks
        ("spare", "<u4"),
    ]
)
MARK_ROW: Final = np.dtype([("t", "<i8"), ("mark", "<u4"), ("replica", "<u4")])


@dataclass(frozen=True, slots=True)
class Stamps:
    """One entry a request, in the order of the plan; times in ns on the plan's clock, −1: refused."""

    arrival: NDArray[np.int64]
    scheduled: NDArray[np.int64]  # the first step that computes it begins; minus arrival: the queue wait
    first_token: NDArray[np.int64]
    last_token: NDArray[np.int64]
    admission: NDArray[np.uint8]  # ADMITTED, or why it was refused
    replica: NDArray[np.uint32]
    cached_tokens: NDArray[np.uint32]  # of its prompt, those that the prefix cache had when it first ran
    preemptions: NDArray[np.uint32]
    tokens: NDArray[np.void]  # TOKEN_ROW, in order of time; empty unless asked for
    steps: NDArray[np.void]  # STEP_ROW
    marks: NDArray[np.void]  # MARK_ROW: what happened to replicas; `mark` as in truth.MARKS
    counters: dict[str, Any]  # Model.snapshot at the end


def simulate(
    arrivals_ns: ArrayLike,
    input_tokens: ArrayLike,
    output_tokens: ArrayLike,
    engine: Parameters | str,
    *,
    seed: int = 1,
    hash_ids: Sequence[Sequence[int]] | None = None,
    start_ns: int | None = None,
    tokens: bool = False,
) -> Stamps:
    """What an engine does with a load.

    `arrivals_ns` in ascending order; `output_tokens` at least 1. `engine` may be a text as for ``--engine``. `hash_ids`
    names the blocks of each prompt (`block_tokens` tokens each), as traces do: the same id, the same content and the
    same prefix; without it all prompts differ. The engine starts (to load) at `start_ns`, by default with the first
    arrival. `tokens` asks for every token's time.
    """
    parameters = presets.read(engine) if isinstance(engine, str) else engine
    check(parameters)
    arrival, inputs, outputs = (
        np.ascontiguousarray(values, dtype=np.int64) for values in (arrivals_ns, input_tokens, output_tokens)
    )
    count = len(arrival)
    _check_load(arrival, inputs, outputs)
    lists = hash_ids if hash_ids is not None else [()] * count
    if len(lists) != count:
        raise ValueError(f"hash_ids of {len(lists)} requests, but there are {count}")
    offsets = np.zeros(count + 1, np.int64)
    np.cumsum([len(ids) for ids in lists], out=offsets[1:])
    ids = np.fromiter((i for request in lists for i in request), np.uint64, int(offsets[-1]))
    hashes = (ids + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)  # spreads them over the buckets; odd: one to one
    scheduled, first_token, last_token = (np.full(count, -1, np.int64) for _ in range(3))
    admission = np.zeros(count, np.uint8)
    replica, cached, preemptions = (np.zeros(count, np.uint32) for _ in range(3))
    model = Model(parameters.settings(seed), parameters.draw_noise(seed))
    begin = start_ns if start_ns is not None else int(arrival[0]) if count else 0
    stamps = (scheduled, first_token, last_token, admission, replica, cached, preemptions)
    token_rows, step_rows, mark_rows = model.run(
        arrival, inputs, outputs, hashes, offsets, begin, *stamps, tokens, hash_ids is not None
    )
    return Stamps(
        arrival,
        *stamps,
        tokens=np.frombuffer(token_rows, TOKEN_ROW),
        steps=np.frombuffer(step_rows, STEP_ROW),
        marks=np.frombuffer(mark_rows, MARK_ROW),
        counters=model.snapshot(begin),  # of the last event, which is later
    )


def _check_load(arrival: NDArray[np.int64], inputs: NDArray[np.int64], outputs: NDArray[np.int64]) -> None:
    if arrival.ndim != 1 or not arrival.shape == inputs.shape == outputs.shape:
        raise ValueError("arrivals, input and output tokens are three arrays of one length")
    if len(arrival) == 0:
        return
    if np.any(np.diff(arrival) < 0):
        raise ValueError("arrivals are not in ascending order")
    if inputs.min() < 0 or outputs.min() < 1 or max(inputs.max(), outputs.max()) >= 2**31:
        raise ValueError("input tokens are from 0, output tokens from 1 on, and fewer than 2^31")
