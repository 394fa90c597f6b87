"""Comparisons: what is known to have changed is found, what has not is not, and the rest is said to be open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fabricate import MS, event_rows, request_rows, run_info, write_run
from llmgen.columns import Status
from llmgen.errors import ConfigError
from llmgen.metrics.comparison import Change, Side, compare, different, fingerprint, parse_rule
from llmgen.metrics.figures import Summary
from llmgen.metrics.measurements import Measurements
from llmgen.metrics.summary import encode, summary_of
from llmgen.records import open_run


def side(
    path: Path, *, slower: float = 1.0, seed: int = 1, count: int = 3000, failed: int = 0, slo: Any = (), **config: Any
) -> Side:
    """TTFT is exponential around 100 ms times `slower`; requests overlap."""
    rng = np.random.default_rng(seed)
    rows = request_rows(count, every_ms=20)
    wait = (rng.gamma(4, 25, count) * slower * MS).astype(np.int64)
    for name in ("first_token", "first_visible", "first_event", "last_token", "end"):
        rows[name] += wait
    if failed:
        rows["status"][rng.choice(count, failed, replace=False)] = Status.http_5xx
    told = run_info(count, every_ms=20)
    told["config"] |= {"slo": list(slo), **config}
    m = Measurements(open_run(write_run(path, rows, event_rows(rows), told)))
    return Side(path.name, summary_of(m), m)


def by_metric(changes: tuple[Change, ...]) -> dict[str, Change]:
    return {change.metric: change for change in changes}


def test_a_slower_server_is_worse(tmp_path: Path) -> None:
    found = by_metric(compare(side(tmp_path / "a"), side(tmp_path / "b", slower=1.3, seed=2)).changes)
    change = found["ttft_p50"]
    assert change.verdict == "worse"
    assert change.relative_ci95 is not None
    assert change.ci95 is not None
    low, high = change.relative_ci95
    # (50 + 1.3 x median) / (50 + median), median of gamma(4) x 25 is 91.8
    assert low < (50 + 1.3 * 91.8) / (50 + 91.8) - 1 < high
    assert high - low < 0.1
    assert change.ci95[0] < change.difference < change.ci95[1]  # type: ignore[operator]
    assert found["tpot_p50"].verdict == "no evidence"
    assert found["tpot_p50"].within_margin
    assert found["error_rate"].verdict == "no evidence"


def test_a_faster_server_is_better(tmp_path: Path) -> None:
    found = by_metric(compare(side(tmp_path / "a"), side(tmp_path / "b", slower=0.7, seed=2)).changes)
    assert {found[f"ttft_{p}"].verdict for p in ("p50", "p90", "p99")} == {"better"}


def test_the_same_server_twice_shows_nothing(tmp_path: Path) -> None:
    verdicts = []
    base = side(tmp_path / "base")
    for seed in range(2, 12):
        found = compare(base, side(tmp_path / str(seed), seed=seed)).changes
        verdicts += [change.verdict for change in found]
    assert len(verdicts) == 10 * 21
    assert sum(verdict != "no evidence" for verdict in verdicts) <= 4  # 5 % of intervals miss, few of them by 5 %


def test_a_small_change_is_within_the_margin(tmp_path: Path) -> None:
    found = by_metric(compare(side(tmp_path / "a"), side(tmp_path / "b", slower=1.02, seed=1)).changes)
    assert found["ttft_p50"].verdict == "no evidence"
    wide = by_metric(compare(side(tmp_path / "c"), side(tmp_path / "d", slower=1.02, seed=1), margin=0.5).changes)
    assert wide["ttft_p50"].within_margin


def test_a_short_run_gives_no_evidence(tmp_path: Path) -> None:
    rule = parse_rule("ttft_p95:5%")
    found = compare(side(tmp_path / "a", count=20), side(tmp_path / "b", slower=3, count=20), [rule])
    assert found.rules[0].ci95 is None
    assert not found.regressed
    assert any("ttft_p95:5%: cannot be judged, too few values" in note for note in found.notes)


def test_a_committed_summary_is_a_base(tmp_path: Path) -> None:
    base = side(tmp_path / "a")
    stored = msgspec.json.decode(encode(base.summary), type=Summary)
    found = by_metric(compare(Side("base", stored), side(tmp_path / "b", slower=1.3, seed=2)).changes)
    full = by_metric(compare(base, side(tmp_path / "b", slower=1.3, seed=2)).changes)
    for name in ("ttft_p50", "ttft_p90", "ttft_p99"):
        assert found[name].verdict == "worse"
        assert found[name].difference == full[name].difference
        a, b = found[name].ci95, full[name].ci95
        assert a is not None
        assert b is not None
        assert a[1] - a[0] == pytest.approx(b[1] - b[0], rel=0.25)


def test_errors_and_goodput(tmp_path: Path) -> None:
    base = side(tmp_path / "a", failed=15, slo=["ttft<1s"])
    run = side(tmp_path / "b", failed=150, seed=1, slo=["ttft<1s"])
    found = by_metric(compare(base, run).changes)
    assert (found["error_rate"].base, found["error_rate"].run) == (0.005, 0.05)
    assert found["error_rate"].verdict == "worse"
    assert found["goodput"].verdict == "worse"
    again = by_metric(compare(run, base).changes)
    assert again["goodput"].verdict == "better"


# -- rules ------------------------------------------------------------------------------------------------------------


def test_rules_fail_beyond_their_margin(tmp_path: Path) -> None:
    base, run = side(tmp_path / "a"), side(tmp_path / "b", slower=1.3, seed=2)
    rules = [
        parse_rule(text) for text in ("ttft_p95:5%", "ttft_p95:60%", "ttft_p50:10ms", "tpot_p99:1%", "error_rate:1%")
    ]
    found = compare(base, run, rules)
    assert [change.regressed for change in found.rules] == [True, False, True, False, False]
    assert found.regressed
    assert not compare(run, base, rules).regressed


@pytest.mark.parametrize(
    ("text", "metric", "statistic", "margin", "absolute"),
    [
        ("ttft_p95:5%", "ttft", "p95", 0.05, False),
        ("e2e_p99:200ms", "e2e", "p99", 200, True),
        ("error_rate:1%", "error_rate", None, 0.01, True),
        ("output_tokens_per_s:2.5%", "output_tokens_per_s", None, 0.025, False),
    ],
)
def test_rules_are_read(text: str, metric: str, statistic: str | None, margin: float, absolute: bool) -> None:
    rule = parse_rule(text)
    assert (rule.metric, rule.statistic, rule.absolute) == (metric, statistic, absolute)
    assert rule.margin == pytest.approx(margin)
    assert parse_rule(f"class:chat {text}").klass == "chat"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("ttft_p95", "write METRIC:MARGIN"),
        ("ttft_p95:5", "write METRIC:MARGIN"),
        ("ttft:5%", "name a statistic, like ttft_p95"),
        ("speed_p95:5%", "unknown metric"),
        ("error_rate:5ms", "is a percentage"),
        ("ttft_p95:1.2.3%", "ttft_p95:1.2.3%"),
    ],
)
def test_wrong_rules_say_what_would_be_right(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        parse_rule(text)


def test_a_rule_for_a_class(tmp_path: Path) -> None:
    sides = []
    for number, slower in enumerate((1.0, 1.5)):
        rows = request_rows(3000, every_ms=20)
        rows["klass"] = np.arange(3000) % 2
        wait = (np.random.default_rng(number).gamma(4, 25, 3000) * MS).astype(np.int64)
        wait[1::2] = (wait[1::2] * slower).astype(np.int64)
        for name in ("first_token", "first_visible", "last_token", "end"):
            rows[name] += wait
        told = run_info(3000, every_ms=20, classes=[{"name": "a", "slo": []}, {"name": "b", "slo": []}])
        m = Measurements(open_run(write_run(tmp_path / str(number), rows, event_rows(rows), told)))
        sides.append(Side(str(number), summary_of(m), m))
    rules = [parse_rule("class:a ttft_p50:5%"), parse_rule("class:b ttft_p50:5%"), parse_rule("class:c ttft_p50:5%")]
    found = compare(sides[0], sides[1], rules)
    assert [change.regressed for change in found.rules] == [False, True, False]
    assert any("class:c ttft_p50:5%: cannot be judged" in note for note in found.notes)


# -- what is not the same ---------------------------------------------------------------------------------------------


def test_fingerprints() -> None:
    info = {
        "config": {
            "load": {"rate": 5.0, "stages": []},
            "workload": {"input": 128, "mix": {"chat": {"weight": 3}}},
            "target": {"api": "chat", "urls": ["http://secret"]},
            "seed": 3,
        }
    }
    assert fingerprint(info) == {
        "load.rate": "5.0",
        "workload.input": "128",
        "workload.mix.chat.weight": "3",
        "target.api": "chat",
        "seed": "3",
    }
    assert fingerprint({}) == {}


def test_different_workloads_are_named(tmp_path: Path) -> None:
    a = side(tmp_path / "a", load={"rate": 5.0}, workload={"input": 128})
    b = side(tmp_path / "b", load={"rate": 7.0}, workload={"input": 128, "output": 9})
    assert different(a.summary, b.summary) == {"load.rate": ("5.0", "7.0"), "workload.output": ("–", "9")}
    assert compare(a, a).different == {}


def test_objectives_that_changed(tmp_path: Path) -> None:
    base = side(tmp_path / "a", slo=["ttft_p50<160ms", "e2e_p99<9s"])
    run = side(tmp_path / "b", slower=1.3, slo=["ttft_p50<160ms", "e2e_p99<9s", "tpot_p99<1s"])
    found = compare(base, run)
    assert found.slo == ("ttft_p50<160ms: met → missed", "tpot_p99<1s: not asked → met")
    assert found.regressed
    assert not compare(run, base).regressed


def test_an_unusable_side_is_said(tmp_path: Path) -> None:
    base = side(tmp_path / "a")
    bad = msgspec.structs.replace(base.summary.verdict, status="invalid", reasons=("clock",))
    run = Side("b", msgspec.structs.replace(base.summary, verdict=bad), base.m)
    assert "the run is invalid: clock" in compare(base, run).notes
