"""The engine's model, held against queueing theory, arithmetic and a naive prefix cache; nothing takes real time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from llmgen.simulator import truth
from llmgen.simulator.offline import ADMITTED, FULL, LENGTH, LOADING, Stamps, simulate
from llmgen.simulator.parameters import Parameters

MS = 1_000_000
S = 1_000_000_000
TRACES = Path(__file__).parents[4] / "shared" / "data"

PLAIN = Parameters(step_ns=10 * MS, prefill_ns=1000, decode_ns=100_000, max_seqs=4, prefix_cache=False)


def changed(parameters: Parameters, **values: Any) -> Parameters:
    return msgspec.structs.replace(parameters, **values)


def poisson(rate: float, count: int, seed: int = 1) -> NDArray[np.int64]:
    gaps = np.random.default_rng(seed).exponential(1 / rate, count)
    return np.cumsum(gaps * S).astype(np.int64)


def run(arrivals: Any, inputs: Any, outputs: Any, engine: Parameters | str, **settings: Any) -> Stamps:
    count = len(arrivals)
    stamps = simulate(arrivals, np.broadcast_to(inputs, count), np.broadcast_to(outputs, count), engine, **settings)
    conserved(stamps, np.broadcast_to(outputs, count))
    return stamps


def conserved(stamps: Stamps, outputs: NDArray[np.int64]) -> None:
    """What is true of any run."""
    admitted = stamps.admission == ADMITTED
    counters = stamps.counters["replicas"]
    assert sum(r["generation_tokens"] for r in counters) == outputs[admitted].sum() == stamps.steps["tokens"].sum()
    assert sum(r["at_length"] + r["stopped"] for r in counters) == admitted.sum()
    assert sum(r["running"] + r["waiting"] + r["kv_used"] - r["kv_lost"] for r in counters) == 0
    assert sum(r["preemptions"] for r in counters) == stamps.preemptions.sum()
    refused = [stamps.counters[f"refused_{why}"] for why in ("loading", "full", "length")]
    assert refused == [(stamps.admission == why).sum() for why in (LOADING, FULL, LENGTH)]
    for kind in (stamps.scheduled, stamps.first_token, stamps.last_token):
        assert (kind[~admitted] == -1).all()
    assert (stamps.arrival <= stamps.scheduled)[admitted].all()
    assert (stamps.scheduled < stamps.first_token)[admitted].all()
    assert (stamps.first_token <= stamps.last_token)[admitted].all()
    for number in np.unique(stamps.steps["replica"]):
        steps = stamps.steps[stamps.steps["replica"] == number]
        assert (steps["start"][1:] >= steps["end"][:-1]).all()


# --- one request, step by step ---------------------------------------------------------------------------------------


def test_one_request_takes_a_prefill_and_a_step_a_token() -> None:
    stamps = run([5 * S], 200, 4, PLAIN, tokens=True)
    prefill, decode = 10 * MS + 200 * 1000, 10 * MS + 100_000
    assert stamps.scheduled[0] == 5 * S
    assert stamps.first_token[0] == 5 * S + prefill
    assert stamps.tokens["t"].tolist() == [5 * S + prefill + i * decode for i in range(4)]
    assert stamps.last_token[0] == stamps.tokens["t"][-1]


def test_context_costs_what_the_parameters_say() -> None:
    stamps = run([0], 200, 3, changed(PLAIN, context_ns=50))
    lengths = stamps.steps["end"] - stamps.steps["start"]
    assert lengths.tolist() == [10 * MS + 200_000, 10 * MS + 100_000 + 200 * 50, 10 * MS + 100_000 + 201 * 50]


def test_a_prompt_is_cut_into_chunks() -> None:
    stamps = run([0], 1000, 2, changed(PLAIN, max_batched_tokens=300))
    assert stamps.steps["prefill_tokens"].tolist() == [300, 300, 300, 100, 0]
    stamps = run([0], 1000, 2, changed(PLAIN, max_batched_tokens=300, chunk_tokens=400))
    assert stamps.steps["prefill_tokens"].tolist() == [300, 300, 300, 100, 0]
    stamps = run([0, 0], 1000, 1, changed(PLAIN, max_batched_tokens=900, chunk_tokens=400))
    assert stamps.steps["prefill_tokens"].tolist() == [800, 800, 400]


def test_decodes_come_before_prompts_in_the_budget() -> None:
    engine = changed(PLAIN, max_batched_tokens=100)
    stamps = run([0, 1], [10, 1000], [20, 2], engine, tokens=True)
    assert stamps.steps["prefill_tokens"][:4].tolist() == [10, 99, 99, 99]  # one token of each step is the decode's
    gaps = np.diff(stamps.tokens["t"][stamps.tokens["request"] == 0])
    assert gaps[0] == 10 * MS + 100_000 + 99 * 1000  # slowed down by the other one's prompt, but never stopped


def test_without_chunks_a_prompt_waits_until_it_fits() -> None:
    engine = changed(PLAIN, max_batched_tokens=1000, chunked=False)
    stamps = run([0, 0, 0], [600, 600, 5000], 1, engine)
    assert stamps.steps["prefill_tokens"].tolist() == [600, 600, 5000]  # the last one fits nowhere: it gets a step


def test_tokens_of_a_step_come_together() -> None:
    stamps = run(np.arange(4), 10, 5, PLAIN, tokens=True)
    assert set(stamps.tokens["t"]) <= set(stamps.steps["end"])
    counts = np.unique(stamps.tokens["t"], return_counts=True)[1]
    assert counts.max() == 4
    assert counts.sum() == 20


def test_a_request_of_the_same_instant_shares_the_step_and_a_later_one_waits_for_the_next() -> None:
    stamps = run([100, 100, 101], 10, 2, PLAIN)
    assert stamps.scheduled[:2].tolist() == [100, 100]
    assert stamps.scheduled[2] == stamps.first_token[0]


# --- queues ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [0.3, 0.6, 0.85])
def test_one_at_a_time_is_an_m_d_1_queue(load: float) -> None:
    """Pollaczek-Khinchine with constant service: the mean wait is ρ·D / 2(1 − ρ)."""
    service = 10 * MS + 100 * 1000
    count = 2_000_000  # waits are correlated: at 0.85 the mean of fewer is still several per cent off
    arrivals = poisson(load / (service / S), count)
    stamps = run(arrivals, 100, 1, changed(PLAIN, max_seqs=1))
    expected = load * service / (2 * (1 - load))
    waits = (stamps.scheduled - arrivals)[count // 20 :]
    assert waits.mean() == pytest.approx(expected, rel=0.03)
    assert (waits == 0).mean() == pytest.approx(1 - load, abs=0.01)


def test_one_at_a_time_obeys_lindleys_recursion() -> None:
    service = 10 * MS + 100 * 1000
    arrivals = poisson(90, 5000)
    stamps = run(arrivals, 100, 1, changed(PLAIN, max_seqs=1))
    wait = 0
    for gap, found in zip(np.diff(arrivals), (stamps.scheduled - arrivals)[1:], strict=True):
        wait = max(0, wait + service - int(gap))
        assert wait == found


def test_littles_law_holds_exactly_in_the_batch() -> None:
    stamps = run(poisson(30, 3000), 200, 60, changed(PLAIN, max_seqs=16))
    length = stamps.steps["end"] - stamps.steps["start"]
    assert (stamps.steps["running"] * length).sum() == (stamps.last_token - stamps.scheduled).sum()


def test_littles_law_holds_in_the_system() -> None:
    arrivals = poisson(30, 20_000)
    stamps = run(arrivals, 200, 60, changed(PLAIN, max_seqs=32))
    rng = np.random.default_rng(3)
    looks = rng.uniform(arrivals[0], arrivals[-1], 20_000)
    inside = np.searchsorted(arrivals, looks) - np.searchsorted(np.sort(stamps.last_token), looks)
    rate = len(arrivals) / (arrivals[-1] - arrivals[0])
    assert inside.mean() == pytest.approx(rate * (stamps.last_token - arrivals).mean(), rel=0.02)


def test_it_saturates_where_the_parameters_say() -> None:
    """Full batches of short prompts give max_seqs tokens every step + decode · max_seqs."""
    engine = changed(PLAIN, max_seqs=32, decode_ns=200_000, prefill_ns=0)
    capacity = 32 / ((10 * MS + 32 * 200_000) / S)
    outputs = 100
    most = capacity / outputs
    for factor in (0.5, 0.9, 1.5, 3.0):
        arrivals = poisson(most * factor, 4000)
        stamps = run(arrivals, 1, outputs, engine)
        half = arrivals[-1] // 2, arrivals[-1]
        done = ((stamps.last_token > half[0]) & (stamps.last_token <= half[1])).sum() / (half[1] - half[0]) * S
        assert done == pytest.approx(most * min(factor, 1.0), rel=0.05)
    waits = stamps.scheduled - stamps.arrival
    assert waits[-100:].mean() > 100 * waits[:100].mean()


def test_the_queue_refuses_what_it_does_not_hold() -> None:
    stamps = run(np.zeros(20), 10, 5, changed(PLAIN, max_waiting=6))
    assert (stamps.admission == ADMITTED).sum() == 6
    assert (stamps.admission[6:] == FULL).all()


def test_what_is_longer_than_the_context_is_refused() -> None:
    stamps = run([0, 1, 2], [90, 91, 10], [10, 10, 91], changed(PLAIN, context_tokens=100))
    assert stamps.admission.tolist() == [ADMITTED, LENGTH, LENGTH]
    stamps = run([0, 1], [150, 151], 10, changed(PLAIN, kv_blocks=10, block_tokens=16))
    assert stamps.admission.tolist() == [ADMITTED, LENGTH]


# --- the KV cache ----------------------------------------------------------------------------------------------------


def test_a_full_cache_preempts_the_youngest_and_loses_nothing() -> None:
    engine = changed(PLAIN, max_seqs=8, kv_blocks=40, block_tokens=16)
    stamps = run(np.arange(8), 64, 100, engine, tokens=True)
    assert stamps.preemptions.sum() > 0
    assert stamps.preemptions[0] == 0
    assert stamps.steps["kv_used"].max() <= 40
    assert (np.diff(stamps.last_token) >= 0).all()  # first come, first served
    per_request = np.bincount(stamps.tokens["request"], stamps.tokens["tokens"])
    assert (per_request == 100).all()
    computed = stamps.steps["prefill_tokens"].sum()
    assert computed > 8 * 64  # what was lost is computed again


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 150), st.integers(1, 60)), min_size=1, max_size=40),
    st.integers(14, 60),
    st.integers(1, 8),
    st.integers(8, 300),
    st.booleans(),
    st.integers(0, 4),
)
def test_any_load_on_any_small_engine_is_conserved(
    load: list[tuple[int, int, int]], blocks: int, seqs: int, budget: int, chunked: bool, drafts: int
) -> None:
    gaps, inputs, outputs = (np.array(column) for column in zip(*load, strict=True))
    engine = changed(
        PLAIN,
        kv_blocks=blocks,
        max_seqs=seqs,
        max_batched_tokens=budget,
        chunked=chunked,
        prefix_cache=True,
        drafts=drafts,
        acceptance=0.5,
    )
    ids = [[1000 * (i % 3) + b for b in range(-(-int(n) // 16))] for i, n in enumerate(inputs)]
    stamps = run(np.cumsum(gaps) * MS, inputs, outputs, engine, hash_ids=ids, tokens=True)
    assert stamps.steps["kv_used"].max(initial=0) <= blocks
    assert stamps.steps["running"].max(initial=0) <= seqs
    admitted = stamps.admission == ADMITTED
    got = np.bincount(stamps.tokens["request"], stamps.tokens["tokens"], len(load))
    assert (got[admitted] == outputs[admitted]).all()


def naive_hits(ids: list[list[int]]) -> tuple[int, int]:
    seen: set[int] = set()
    hits = 0
    for request in ids:
        for name in request:
            if name not in seen:
                break
            hits += 1
        seen.update(request)
    return hits, sum(map(len, ids))


IDEAL = Parameters(step_ns=1 * MS, prefill_ns=1, max_seqs=10**6, max_batched_tokens=2**31 - 1, block_tokens=512)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=30), st.integers(0, 2))
def test_prefixes_are_found_as_a_naive_cache_finds_them(paths: list[list[int]], gap: int) -> None:
    names: dict[tuple[int, ...], int] = {}
    ids = [[names.setdefault(tuple(path[: n + 1]), len(names)) for n in range(len(path))] for path in paths]
    lengths = [512 * len(path) - 7 for path in paths]
    stamps = run(np.arange(len(paths)) * gap * MS, lengths, 3, IDEAL, hash_ids=ids)
    replica = stamps.counters["replicas"][0]
    assert (replica["block_hits"], replica["block_queries"]) == naive_hits(ids)


@pytest.mark.parametrize(
    ("name", "rows", "share"),
    [
        ("conversation", None, 0.366),
        ("synthetic", None, 0.640),
        ("conversation", 2000, 0.289),
        ("synthetic", 2000, 0.328),
    ],
)
def test_the_reuse_of_real_traces(name: str, rows: int | None, share: float) -> None:
    path = TRACES / f"mooncake_{name}.jsonl"
    if not path.exists():
        pytest.skip("needs the trace files of Mooncake")
    trace = [json.loads(line) for line in path.read_text().splitlines()[:rows]]
    arrivals, inputs, outputs, ids = (
        [record[key] for record in trace] for key in ("timestamp", "input_length", "output_length", "hash_ids")
    )
    stamps = run(np.array(arrivals) * MS, inputs, outputs, IDEAL, hash_ids=ids)
    replica = stamps.counters["replicas"][0]
    assert replica["block_hits"] / replica["block_queries"] == pytest.approx(share, abs=0.0005)
    assert (replica["block_hits"], replica["block_queries"]) == naive_hits(ids)


def test_a_cached_prefix_saves_its_prefill() -> None:
    engine = changed(PLAIN, prefix_cache=True, block_tokens=16)
    ids = [list(range(10)), list(range(10))]
    stamps = run([0, S], 160, 2, engine, hash_ids=ids)
    assert stamps.cached_tokens.tolist() == [0, 144]  # the last block is computed: a step has to give a token
    first, second = stamps.first_token - stamps.arrival
    assert first - second == 144 * 1000
    assert stamps.counters["replicas"][0]["prefix_hits"] == 144
    assert stamps.counters["replicas"][0]["prefix_queries"] == 320


def test_a_small_cache_forgets() -> None:
    engine = changed(PLAIN, prefix_cache=True, block_tokens=16, kv_blocks=25)
    ids = [list(range(10)), list(range(100, 120)), list(range(10))]
    stamps = run([0, S, 2 * S], [160, 320, 160], 2, engine, hash_ids=ids)
    assert stamps.cached_tokens[2] < 144
    assert stamps.counters["replicas"][0]["kv_evictions"] > 0


# --- the rest --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("acceptance", [0.0, 0.6, 1.0])
def test_speculation_gives_several_tokens_a_step(acceptance: float) -> None:
    engine = changed(PLAIN, drafts=3, acceptance=acceptance, draft_ns=1000)
    stamps = run(np.arange(400) * 2 * S, 10, 101, engine, tokens=True)
    later = stamps.tokens[~np.isin(stamps.tokens["t"], stamps.first_token)]
    full = later[later["t"] < stamps.last_token[later["request"]]]
    expected = 1 + acceptance + acceptance**2 + acceptance**3
    assert full["tokens"].mean() == pytest.approx(expected, rel=0.02)
    lengths = (stamps.steps["end"] - stamps.steps["start"])[stamps.steps["decodes"] == 1]
    assert set(lengths) == {10 * MS + 100_000 + 3000}
    replica = stamps.counters["replicas"][0]
    assert replica["accepted_tokens"] == sum(stamps.tokens["tokens"]) - len(stamps.tokens)


def test_nothing_is_taken_before_the_model_is_loaded() -> None:
    stamps = run([0, 4 * S, 5 * S + 1], 10, 2, changed(PLAIN, load_ns=5 * S), start_ns=0)
    assert stamps.admission.tolist() == [LOADING, LOADING, ADMITTED]
    assert [truth.MARKS[mark] for mark in stamps.marks["mark"]] == ["ordered", "ready"]
    assert stamps.marks["t"].tolist() == [0, 5 * S]


def test_the_first_steps_are_slow() -> None:
    stamps = run([0], 1, 30, changed(PLAIN, warmup_steps=10, warmup_factor=5.0, prefill_ns=100_000))
    lengths = stamps.steps["end"] - stamps.steps["start"]
    assert lengths[0] == 5 * lengths[-1]
    assert (np.diff(lengths[:11]) < 0).all()
    assert len(set(lengths[10:])) == 1


def test_replicas_are_ordered_and_removed() -> None:
    engine = changed(
        PLAIN, max_replicas=3, scale_waiting=4.0, scale_period_ns=1 * S, scale_delay_ns=7 * S, scale_down_ns=5 * S
    )
    arrivals = np.concatenate([np.arange(800) * (40 * MS), [120 * S]])
    stamps = run(arrivals, 10, 50, engine, start_ns=0)
    marks = [(truth.MARKS[m["mark"]], int(m["replica"]), int(m["t"])) for m in stamps.marks]
    ordered = [(r, t) for what, r, t in marks if what == "ordered" and t > 0]
    ready = {r: t for what, r, t in marks if what == "ready"}
    removed = [r for what, r, _ in marks if what == "removed"]
    assert [r for r, _ in ordered] == [1, 2]
    assert all(t % S == 0 and ready[r] == t + 7 * S for r, t in ordered)
    assert ordered[1][1] >= ready[1]  # one at a time
    assert removed == [2, 1]
    assert set(stamps.replica) == {0, 1, 2}
    assert stamps.replica[-1] == 0


def test_requests_go_to_the_replica_with_the_fewest() -> None:
    stamps = run(np.zeros(8), 10, 5, changed(PLAIN, replicas=4))
    assert stamps.replica.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def test_a_hot_engine_is_slower_until_it_has_cooled() -> None:
    engine = changed(PLAIN, heat_c=60.0, heat_ns=20 * S, throttle_c=75.0, throttle_factor=1.5)
    stamps = run([0], 1, 20_000, engine)
    names = [truth.MARKS[mark] for mark in stamps.marks["mark"]]
    assert names[:4] == ["ordered", "ready", "throttled", "cool"]
    hot, cool = stamps.marks["t"][2:4]
    # From 30 °C towards 90 °C with a time constant of 20 s: 75 °C after 20 s · ln 4.
    assert hot / S == pytest.approx(20 * np.log(4), rel=0.01)
    lengths = stamps.steps["end"] - stamps.steps["start"]
    slow = lengths[(stamps.steps["start"] >= hot) & (stamps.steps["start"] < cool)]
    assert set(slow) == {round(1.5 * (10 * MS + 100_000))}


def test_a_leak_of_blocks_ends_at_half_of_the_cache() -> None:
    stamps = run(np.arange(500) * S, 10, 2, changed(PLAIN, kv_blocks=100, leak_blocks=0.5))
    assert stamps.counters["replicas"][0]["kv_lost"] == 50
    assert stamps.steps["kv_used"][0] < stamps.steps["kv_used"][-1]


def test_histograms_agree_with_the_stamps() -> None:
    stamps = run(poisson(20, 2000), 100, 20, changed(PLAIN, max_seqs=8), tokens=True)
    replica = stamps.counters["replicas"][0]
    for name, values in (
        ("queue_time", stamps.scheduled - stamps.arrival),
        ("first_token_time", stamps.first_token - stamps.arrival),
        ("request_time", stamps.last_token - stamps.arrival),
        ("decode_time", stamps.last_token - stamps.first_token),
    ):
        histogram = replica[name]
        assert histogram["count"] == 2000 == sum(histogram["counts"])
        assert histogram["sum"] == pytest.approx(values.sum() / S)
        expected = np.bincount(np.searchsorted(histogram["bounds"], values / S), minlength=len(histogram["counts"]))
        assert histogram["counts"] == expected.tolist()
    assert replica["token_gap"]["count"] == 2000 * 19
    assert replica["iteration_tokens"]["count"] == len(stamps.steps)
    assert replica["iteration_tokens"]["sum"] == (stamps.steps["prefill_tokens"] + stamps.steps["decodes"]).sum()


def test_the_seed_decides() -> None:
    engine = changed(PLAIN, noise=0.2, drafts=2, acceptance=0.5)
    runs = [run(np.arange(50) * 10 * MS, 50, 20, engine, seed=seed).last_token.tolist() for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_noise_has_the_mean_and_spread_that_were_asked_for() -> None:
    stamps = run([0], 1, 20_000, changed(PLAIN, noise=0.2))
    lengths = (stamps.steps["end"] - stamps.steps["start"])[1:]
    assert lengths.mean() == pytest.approx(10 * MS + 100_000, rel=0.02)
    assert lengths.std() / lengths.mean() == pytest.approx(0.2, rel=0.05)


def test_an_empty_load() -> None:
    stamps = run([], 1, 1, PLAIN)
    assert len(stamps.steps) == 0


@pytest.mark.parametrize(
    ("arrivals", "inputs", "outputs"), [([1, 0], [1, 1], [1, 1]), ([0], [1], [0]), ([0], [-1], [1]), ([0], [1, 2], [1])]
)
def test_a_load_that_is_none(arrivals: list[int], inputs: list[int], outputs: list[int]) -> None:
    with pytest.raises(ValueError):
        simulate(arrivals, inputs, outputs, PLAIN)
