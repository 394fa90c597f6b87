"""The paged KV cache against a plain model of it, and its order of eviction."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from llmgen.simulator.kvcache import Cache


def test_the_longest_free_block_is_taken_and_forgotten() -> None:
    cache = Cache(3)
    blocks = [cache.new() for _ in range(3)]
    assert cache.new() is None
    for block, name in zip(blocks, (10, 20, 30), strict=True):
        assert block is not None
        cache.name(block, name)
    for block in (blocks[1], blocks[0], blocks[2]):
        assert block is not None
        cache.drop(block)
    assert [cache.find(name) for name in (10, 20, 30)] == blocks
    assert cache.new() == blocks[1]
    assert cache.find(20) is None
    assert cache.find(10) == blocks[0]
    assert cache.counts["evictions"] == 1


def test_a_block_that_is_used_again_is_not_evicted() -> None:
    cache = Cache(2)
    first, second = cache.new(), cache.new()
    assert first is not None
    assert second is not None
    cache.name(first, 1)
    cache.drop(first)
    cache.drop(second)
    cache.take(first)
    assert cache.new() == second
    assert cache.new() is None
    assert cache.find(1) == first


def test_without_a_limit_nothing_is_forgotten() -> None:
    cache = Cache(0)
    for name in range(5000):
        block = cache.new()
        assert block is not None
        cache.name(block, name * 2**32)  # all in one bucket: the worst case of the table
        cache.drop(block)
    assert cache.counts["evictions"] == 0
    assert None not in [cache.find(name * 2**32) for name in range(0, 5000, 500)]


def test_a_leak_stops_at_half() -> None:
    cache = Cache(10)
    for _ in range(20):
        cache.lose()
    assert cache.counts == {"count": 10, "free": 5, "in_use": 0, "named": 0, "lost": 5, "evictions": 0}


@given(
    st.integers(1, 6),
    st.lists(st.tuples(st.sampled_from(["new", "take", "drop", "name", "lose"]), st.integers(0, 5), st.integers(0, 7))),
)
def test_counts_and_references_agree_with_a_plain_model(limit: int, steps: list[tuple[str, int, int]]) -> None:
    cache = Cache(limit)
    references: Counter[int] = Counter()
    names: dict[int, int] = {}  # block → name
    lost = 0
    for what, block, name in steps:
        in_use = references[block] > 0
        if what == "new":
            got = cache.new()
            assert (got is None) == (+references == references and len(+references) + lost >= limit)
            if got is not None:
                assert references[got] == 0
                names.pop(got, None)
                references[got] = 1
        elif what == "take" and (in_use or block in names):
            cache.take(block)
            references[block] += 1
        elif what == "drop" and in_use:
            cache.drop(block)
            references[block] -= 1
        elif what == "name" and in_use:
            cache.name(block, name)
            if block not in names and name not in names.values():
                names[block] = name
        elif what == "lose":
            before = {n: cache.find(n) for n in names.values()}
            cache.lose()
            for n, was in before.items():
                if cache.find(n) is None:
                    assert was is not None
                    del names[was]
            lost = cache.counts["lost"]
        references = +references
        assert {n: cache.find(n) for n in names.values()} == {n: b for b, n in names.items()}
        counts = cache.counts
        assert counts["in_use"] == len(references)
        assert counts["free"] == limit - len(references) - lost
        assert counts["named"] == len(names)
