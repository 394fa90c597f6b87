"""Keyed random numbers: what belongs to an index does not depend on how it is asked for."""

import numpy as np
import pytest

from llmgen.draws import DRAW_BLOCK, draw, normals, uniforms


@pytest.mark.parametrize("source", [uniforms, normals])
def test_any_piece_is_a_piece_of_the_whole(source):
    whole = source(7, "purpose", 0, 3 * DRAW_BLOCK)
    for first, count in [(0, 1), (5, 10), (DRAW_BLOCK - 3, 7), (DRAW_BLOCK, DRAW_BLOCK), (100, 2 * DRAW_BLOCK + 5)]:
        np.testing.assert_array_equal(source(7, "purpose", first, count), whole[first : first + count])


def test_a_sampler_of_varying_appetite_is_keyed_too():
    def gamma(generator, n):
        return generator.standard_gamma(0.2, n)  # by rejection

    whole = draw(1, "x", 0, 2 * DRAW_BLOCK, gamma)
    np.testing.assert_array_equal(draw(1, "x", DRAW_BLOCK + 17, 100, gamma), whole[DRAW_BLOCK + 17 :][:100])


def test_seeds_and_purposes_and_blocks_differ():
    streams = [uniforms(seed, purpose, 0, 2 * DRAW_BLOCK) for seed in (1, 2) for purpose in ("a", "b")]
    halves = [half for stream in streams for half in np.split(stream, 2)]
    for i, one in enumerate(halves):
        for other in halves[:i]:
            assert not np.any(one[:100] == other[:100])
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.05


def test_nothing_asked_nothing_drawn():
    assert uniforms(1, "x", 10, 0).shape == (0,)
