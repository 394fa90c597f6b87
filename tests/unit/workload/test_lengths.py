"""Length distributions against scipy's, and what their grammar refuses."""

import math

import numpy as np
import pytest
from scipy import stats

from llmgen.draws import normals, uniforms
from llmgen.errors import ConfigError
from llmgen.workload.lengths import MAX_LENGTH, parse_length

N = 100_000


def sample(text, count=N):
    length = parse_length(text, "workload.input")
    deviates = {"none": lambda: np.zeros(count), "uniform": lambda: uniforms(1, "x", 0, count)}
    found = length.values(deviates.get(length.deviate, lambda: normals(1, "x", 0, count))())
    assert found.dtype == np.int64
    assert found.min() >= length.smallest
    assert found.max() <= length.largest
    return length, found


@pytest.mark.parametrize("value", [512, "512", " 512 "])
def test_constant(value):
    length, found = sample(value, 10)
    assert found.tolist() == [512] * 10
    assert (length.smallest, length.largest, length.mean) == (512, 512, 512.0)


def test_uniform_takes_every_whole_number_alike():
    length, found = sample("uniform:3,12")
    counts = np.bincount(found)[3:]
    assert len(counts) == 10
    assert stats.chisquare(counts).pvalue > 0.001
    assert length.mean == 7.5


def test_uniform_of_one():
    assert set(sample("uniform:4,4")[1].tolist()) == {4}


def test_normal():
    length, found = sample("normal:500,50")
    assert stats.kstest(found + uniforms(2, "jitter", 0, N) - 0.5, stats.norm(500, 50).cdf).statistic < 0.006
    assert length.mean == 500


def test_normal_is_cut_at_one():
    _, found = sample("normal:10,20")
    assert found.min() == 1
    assert np.mean(found == 1) == pytest.approx(stats.norm(10, 20).cdf(1.5), abs=0.005)


def test_lognormal_has_the_mean_and_deviation_of_the_lengths():
    length, found = sample("lognormal:6000,2000")
    assert found.mean() == pytest.approx(6000, rel=0.005)
    assert found.std() == pytest.approx(2000, rel=0.02)
    sigma = math.sqrt(math.log(1 + (2000 / 6000) ** 2))
    expected = stats.lognorm(sigma, scale=6000 / math.exp(sigma**2 / 2))
    assert stats.kstest(found, expected.cdf).statistic < 0.006
    assert length.mean == 6000


def test_without_deviation_both_are_constant():
    assert set(sample("normal:7,0")[1].tolist()) == set(sample("lognormal:7,0")[1].tolist()) == {7}


def test_an_absurd_tail_is_cut():
    assert sample("lognormal:100,4e6")[1].max() <= MAX_LENGTH


@pytest.mark.parametrize("exponent", [0, 0.8, 1.1, 2.5])
def test_zipf(exponent):
    length, found = sample(f"zipf:{exponent},50")
    chance = np.arange(1, 51) ** -float(exponent)
    chance /= chance.sum()
    assert stats.chisquare(np.bincount(found, minlength=51)[1:], chance * N).pvalue > 0.001
    assert length.mean == pytest.approx((np.arange(1, 51) * chance).sum())


def test_file(tmp_path):
    file = tmp_path / "lengths.txt"
    file.write_text("10\n20\r\n20\n400")
    length, found = sample(f"file:{file}")
    values, counts = np.unique(found, return_counts=True)
    assert values.tolist() == [10, 20, 400]
    assert stats.chisquare(counts, np.array([0.25, 0.5, 0.25]) * N).pvalue > 0.001
    assert (length.smallest, length.largest, length.mean) == (10, 400, 112.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["whole number"]),
        ("many", ["'many'", "whole number", "lognormal:M,S"]),
        ("0", ["'0'", "from 1 to"]),
        ("-5", ["'-5'"]),
        ("1.5", ["'1.5'", "whole number"]),
        (str(MAX_LENGTH + 1), ["from 1 to"]),
        ("unifrom:1,2", ["'unifrom'", "uniform:A,B"]),
        ("uniform:1", ["two numbers"]),
        ("uniform:1,2,3", ["two numbers"]),
        ("uniform:9,2", ["write uniform:2,9"]),
        ("uniform:0,2", ["smallest", "from 1"]),
        ("uniform:a,2", ["smallest", "whole number"]),
        ("normal:x,2", ["mean", "number"]),
        ("normal:0.5,2", ["mean", "from 1"]),
        ("normal:nan,2", ["mean"]),
        ("normal:5,-1", ["standard deviation", "from 0"]),
        ("lognormal:5,inf", ["standard deviation", "from 0"]),
        ("zipf:1.1,0", ["largest"]),
        ("zipf:-1,10", ["exponent"]),
        ("zipf:1,4000000", ["largest", "at most"]),
        ("file:/no/such/file", ["/no/such/file", "cannot be read"]),
    ],
)
def test_refused_with_key_value_and_cure(text, words):
    with pytest.raises(ConfigError) as caught:
        parse_length(text, "workload.input")
    for word in ["workload.input", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "word"), [("", "empty"), ("1\nx\n", "number 2 is 'x'"), ("5\n0\n", "number 2 is '0'")]
)
def test_a_broken_file_is_refused(tmp_path, text, word):
    (tmp_path / "f").write_text(text)
    with pytest.raises(ConfigError, match=word):
        parse_length(f"file:{tmp_path / 'f'}", "workload.output")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "f").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        parse_length(f"file:{tmp_path / 'f'}", "workload.output")
