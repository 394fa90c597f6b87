"""The grammar of objectives, what each measures, and what a mistake is told."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmgen.errors import ConfigError
from llmgen.metrics.slo import aggregate, impossible, meets, parse, parse_all

MS = 1e6


@pytest.mark.parametrize(
    ("text", "metric", "statistic", "operator", "limit", "klass"),
    [
        ("ttft_p95<800ms", "ttft", "p95", "<", 800 * MS, None),
        ("ttft_from_due_p99 <= 1.5s", "ttft_from_due", "p99", "<=", 1500 * MS, None),
        ("class:long e2e_mean<2m", "e2e", "mean", "<", 120e9, "long"),
        ("ttft<500ms", "ttft", None, "<", 500 * MS, None),
        ("ttft_from_due<500ms", "ttft_from_due", None, "<", 500 * MS, None),
        ("itl_p999<250us", "itl", "p999", "<", 250e3, None),
        ("chunk_gap_max<1s", "chunk_gap", "max", "<", 1e9, None),
        ("goodput>=0.99", "goodput", None, ">=", 0.99, None),
        ("goodput>=99%", "goodput", None, ">=", 0.99, None),
        ("error_rate <= 1.5%", "error_rate", None, "<=", 0.015, None),
        ("output_tokens_per_s>1000", "output_tokens_per_s", None, ">", 1000, None),
        ("  class:a-b.c   tpot_p50   <  40ms ", "tpot", "p50", "<", 40 * MS, "a-b.c"),
    ],
)
def test_grammar(text: str, metric: str, statistic: str | None, operator: str, limit: float, klass: str | None) -> None:
    slo = parse(text)
    assert (slo.metric, slo.statistic, slo.operator, slo.klass) == (metric, statistic, operator, klass)
    assert slo.limit == pytest.approx(limit)
    assert slo.per_request is (metric in ("ttft", "ttft_from_due") and statistic is None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ttft_p95", "quote it .* the shell took <"),
        ("class:a ttft_p95", "quote it"),
        ("ttft_p95=800ms", "operators are"),
        ("ttft_p95==800ms", "operators are"),
        ("ttft_p95<", "expected"),
        ("", "expected"),
        ("<800ms", "expected"),
        ("ttfb_p95<800ms", "unknown metric 'ttfb_p95'.*ttft"),
        ("ttft_p42<800ms", "unknown metric"),
        ("goodput_p95>0.9", "unknown metric"),
        ("ttft_p95<800", "Give a unit: 800ms or 800s"),
        ("ttft_p95<fast", "not a duration"),
        ("ttft_p95<-5ms", "not a duration"),
        ("ttft_p95<5%", "not a duration"),
        ("goodput>=99", "at most 1; did you mean 99%"),
        ("goodput>=99ms", "not a share"),
        ("requests_per_s>5%", "not a plain number"),
    ],
)
def test_mistakes_are_told(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse(text)
    assert repr(text) in str(caught.value)


def test_classes() -> None:
    slos = parse_all(["class:b ttft<1s", "e2e<9s"], {"a": ["ttft<2s"], "b": []})
    assert [(slo.klass, slo.metric) for slo in slos] == [("b", "ttft"), (None, "e2e"), ("a", "ttft")]
    with pytest.raises(ConfigError, match=r"no class 'c'; classes: a, b"):
        parse_all(["class:c ttft<1s"], {"a": [], "b": []})
    with pytest.raises(ConfigError, match="stands at class 'a'"):
        parse_all([], {"a": ["class:b ttft<1s"]})


def test_metrics_that_cannot_exist_without_streaming() -> None:
    for text in ("ttft<1s", "tpot_p50<1s", "itl_p99<1s", "stall<1s", "ttfo<1s", "chunk_gap_p50<1s"):
        message = impossible(parse(text), {"default": False})
        assert message is not None
        assert text in message
        assert impossible(parse(text), {"default": False, "other": True}) is None
    assert impossible(parse("class:a ttft<1s"), {"a": False, "b": True}) is not None
    for text in ("e2e<1s", "error_rate<1%", "e2e_from_due_p50<1s", "goodput>0.5"):
        assert impossible(parse(text), {"default": False}) is None


def test_failed_requests_are_infinite_in_aggregates() -> None:
    values = np.arange(1, 100, dtype=np.int64)  # 99 of them, and one that failed
    assert aggregate("p50", values, None, 1) == 50.5
    assert aggregate("p95", values, None, 1) == np.quantile(np.append(values, 1e18), 0.95)
    for name in ("max", "mean", "p999"):
        assert aggregate(name, values, None, 1) == math.inf
    assert aggregate("min", values, None, 1) == 1
    assert aggregate("p50", values[:0], None, 1) == math.inf
    assert aggregate("p50", values[:0], None, 0) is None
    assert aggregate("max", values, None, 0) == 99
    assert aggregate("mean", values, None, 0) == 50


def test_weights_of_aggregates() -> None:
    values, weights = np.array([1.0, 2.0]), np.array([3, 1])
    assert aggregate("mean", values, weights, 0) == 1.25
    assert aggregate("p50", values, weights, 0) == 1


def test_a_good_request_keeps_every_limit() -> None:
    values = {"ttft": np.array([1.0, 9.0, 1.0, np.nan]), "tpot": np.array([1.0, 1.0, np.nan, 1.0])}
    limits = [parse("ttft<5us"), parse("tpot<=1us")]
    scaled = {name: column * 1000 for name, column in values.items()}
    ok = np.array([True, True, True, False])
    assert meets(limits, scaled.__getitem__, ok).tolist() == [True, False, True, False]
    assert meets([], scaled.__getitem__, ok).tolist() == ok.tolist()
