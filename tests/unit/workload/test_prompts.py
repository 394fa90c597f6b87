"""Synthetic prompts: unique beginnings, the right number of words, spans inside the pool."""

import re

import numpy as np
import pytest

from llmgen.plan import SOURCE_STATIC, StaticBytes
from llmgen.workload.prompts import POOL_WORDS, UNIQUE_BYTES, SyntheticPrompts, unique_words
from llmgen.workload.words import COMMON_WORDS


@pytest.fixture
def pool(tmp_path):
    static = StaticBytes()
    static.add(b"something before")
    prompts = SyntheticPrompts(1, static)
    static.write(tmp_path / "static.bin")
    return prompts, (tmp_path / "static.bin").read_bytes()


def texts(pool, first, words):
    prompts, data = pool
    spans, counts = prompts.text(first, np.array(words))
    assert np.all(spans["source"] == SOURCE_STATIC)
    pieces = [data[int(s["offset"]) : int(s["offset"]) + int(s["size"])] for s in spans]
    ends = np.cumsum(counts)
    return [b"".join(pieces[end - count : end]) for end, count in zip(ends, counts, strict=True)]


def test_a_million_beginnings_are_unique_words():
    words = unique_words(1, np.arange(1_000_000))
    assert words.shape == (1_000_000, UNIQUE_BYTES)
    assert len(np.unique(words.view(f"S{UNIQUE_BYTES}"))) == 1_000_000
    for word in words[:1000]:
        assert re.fullmatch(rb"([b-z][aeio])+", word.tobytes())


def test_beginnings_differ_from_their_first_letters_on():
    """A prefix cache works on blocks of a few tokens: neighbours must not share even those."""
    words = unique_words(1, np.arange(10_000))
    first_four = np.ascontiguousarray(words[:, :4]).view("S4").ravel()
    assert len(np.unique(first_four)) > 3700  # of 4096 possible; 10,000 random draws leave about 360 out
    assert np.mean(first_four[1:] == first_four[:-1]) < 0.002


def test_beginnings_far_apart_and_of_other_seeds_are_others():
    near, far = unique_words(1, np.arange(100_000)), unique_words(1, np.arange(100_000) + (1 << 40))
    other = unique_words(2, np.arange(100_000))
    everything = np.concatenate([near, far, other]).view(f"S{UNIQUE_BYTES}")
    assert len(np.unique(everything)) == 300_000


@pytest.mark.parametrize(
    "words", [[1, 5, 100], [0, 0], [0, 7, 0], [POOL_WORDS, 1], [POOL_WORDS + 1, 3], [3 * POOL_WORDS + 5, 0, 2]]
)
def test_text_has_as_many_words_as_asked(pool, words):
    for text, count in zip(texts(pool, 12, words), words, strict=True):
        assert re.fullmatch(rb"( [a-z]+)*", text)
        assert len(text.split()) == count
        assert set(text.decode().split()) <= set(COMMON_WORDS)


def test_a_long_text_goes_over_the_pool_again(pool):
    (text,) = texts(pool, 3, [2 * POOL_WORDS + 10])
    words = text.split()
    assert words[:POOL_WORDS] == words[POOL_WORDS : 2 * POOL_WORDS]
    assert words[:10] == words[-10:]


def test_text_is_keyed_by_the_index(pool):
    together = texts(pool, 0, [20] * 50)
    assert [texts(pool, index, [20])[0] for index in range(50)] == together
    assert len(set(together)) == 50


def test_the_words_are_words():
    assert len(set(COMMON_WORDS)) == len(COMMON_WORDS)
    assert all(re.fullmatch("[a-z]+", word) for word in COMMON_WORDS)
    assert len(COMMON_WORDS) > 300
