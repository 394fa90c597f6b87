"""The native engine against a plain list-based one, written from the same rules (vLLM v1's scheduler) without a cache
of prefixes: the same steps, to the nanosecond, for any load."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgen.simulator import Parameters, simulate

BLOCK = 16


@dataclass
class Request:
    arrival: int
    input: int
    output: int
    generated: int = 0
    computed: int = 0
    blocks: int = 0
    chunk: int = 0
    first: int = -1
    preemptions: int = 0


class Reference:
    def __init__(self, engine: Parameters) -> None:
        self.engine = engine
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.free = engine.kv_blocks

    def reserve(self, request: Request, tokens: int) -> bool:
        need = -(-tokens // BLOCK) - request.blocks
        if need > self.free:
            return False
        self.free -= max(need, 0)
        request.blocks += max(need, 0)
        return True

    def release(self, request: Request) -> None:
        self.free += request.blocks
        request.blocks = request.computed = request.chunk = 0

    def want(self, request: Request, budget: int, alone: bool) -> int:
        left = request.input + request.generated - request.computed
        decoding = request.generated > 0 and left == 1
        if not self.engine.chunked and not decoding:
            return left if left <= budget or alone else 0
        if self.engine.chunk_tokens and not decoding:
            left = min(left, self.engine.chunk_tokens)
        return min(left, budget)

    def schedule(self) -> bool:
        """Chunks for the next step; False if somebody was preempted and nobody could be added."""
        budget, alone = self.engine.max_batched_tokens, True
        preempted = False
        for request in self.running:
            request.chunk = 0
        for request in list(self.running):
            if request not in self.running:
                break
            want = self.want(request, budget, alone) if budget > 0 else 0
            if want == 0:
                continue
            while request in self.running and not self.reserve(request, request.computed + want):
                victim = self.running.pop()
                self.release(victim)
                victim.preemptions += 1
                self.waiting.insert(0, victim)
                preempted = True
            if request not in self.running:
                break
            request.chunk = want
            budget, alone = max(budget - want, 0), False
        while not preempted and self.waiting and len(self.running) < self.engine.max_seqs and budget > 0:
            request = self.waiting[0]
            want = self.want(request, budget, alone)
            if want == 0 or not self.reserve(request, want):
                break
            self.running.append(self.waiting.pop(0))
            request.chunk = want
            budget, alone = max(budget - want, 0), False
        return any(request.chunk for request in self.running)

    def duration(self) -> int:
        decodes = [
            r for r in self.running if r.chunk == 1 and r.generated > 0 and r.input + r.generated - r.computed == 1
        ]
        prefill = sum(r.chunk for r in self.running if r not in decodes)
        context = sum(r.computed for r in decodes)
        e = self.engine
        return int(e.step_ns + e.prefill_ns * prefill + e.decode_ns * len(decodes) + e.context_ns * context)

    def run(self, requests: list[Request]) -> list[tuple[int, int, int]]:
        """(start, end, tokens) of every step."""
        coming = list(requests)
        steps = []
        now = 0
        while coming or self.waiting or self.running:
            if not self.waiting and not self.running:
                now = max(now, coming[0].arrival)
            while coming and coming[0].arrival <= now:
                self.waiting.append(coming.pop(0))
            if not self.schedule():
                assert self.schedule()
            end = now + self.duration()
            tokens = 0
            for request in list(self.running):
                if request.chunk == 0:
                    continue
                request.computed += request.chunk
                if request.computed < request.input + request.generated:
                    continue
                request.generated += 1
                tokens += 1
                if request.first < 0:
                    request.first = end
                if request.generated == request.output:
                    self.running.remove(request)
                    self.release(request)
            steps.append((now, end, tokens))
            now = end
        return steps


@settings(max_examples=200, deadline=None)
@given(
    load=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 150), st.integers(1, 50)), min_size=1, max_size=30),
    blocks=st.integers(13, 50),
    seqs=st.integers(1, 6),
    budget=st.integers(6, 200),
    chunk=st.sampled_from([0, 0, 7, 64]),
    chunked=st.booleans(),
)
def test_the_same_steps(
    load: list[tuple[int, int, int]], blocks: int, seqs: int, budget: int, chunk: int, chunked: bool
) -> None:
    engine = Parameters(
        step_ns=10_000_000,
        prefill_ns=1000,
        decode_ns=100_000,
        context_ns=10,
        max_seqs=seqs,
        max_batched_tokens=budget,
        chunk_tokens=chunk,
        chunked=chunked,
        kv_blocks=blocks,
        block_tokens=BLOCK,
        prefix_cache=False,
    )
    gaps, inputs, outputs = (np.array(column) for column in zip(*load, strict=True))
    arrivals = np.cumsum(gaps) * 1_000_000
    requests = [Request(int(a), int(i), int(o)) for a, i, o in zip(arrivals, inputs, outputs, strict=True)]
    steps = Reference(engine).run(requests)
    stamps = simulate(arrivals, inputs, outputs, engine)
    assert list(zip(*(stamps.steps[name].tolist() for name in ("start", "end", "tokens")), strict=True)) == steps
    assert stamps.first_token.tolist() == [request.first for request in requests]
    assert stamps.preemptions.tolist() == [request.preemptions for request in requests]
