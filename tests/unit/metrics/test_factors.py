"""What factors change: differences and intervals by hand, against scipy, and over seeds; streamed pairs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from fabricate import request_rows
from llmgen.columns import Status
from llmgen.metrics.factors import (
    FIGURES,
    CellRun,
    compare_streamed,
    effects,
    mean_interval,
    student_inside,
    student_quantile,
)

FACTORS = {"a": ["0", "1"], "b": ["x", "y", "z"]}


def runs(value, repeat=3, figure="ttft_p50"):
    """Every cell of FACTORS `repeat` times; value(a, b, repeat)."""
    cells = list(itertools.product(*FACTORS.values()))
    return [
        CellRun(cell=cells.index((a, b)), repeat=r, levels={"a": a, "b": b}, figures={figure: value(a, b, r)})
        for (a, b), r in itertools.product(cells, range(repeat))
    ]


def effect(found, factor, level):
    (one,) = [one for one in found if (one.factor, one.level) == (factor, level)]
    return one


def test_an_additive_effect_without_noise_is_told_exactly():
    shift = {"x": 0.0, "y": 7.0, "z": -2.0}
    found = effects(runs(lambda a, b, r: 100 + 5 * int(a) + shift[b] + 3 * r), FACTORS)
    assert len(found) == 3
    one = effect(found, "a", "1")
    assert (one.base, one.pairs, one.difference, one.ci95) == ("0", 9, 5.0, (5.0, 5.0))
    assert (one.smallest, one.largest, one.clear, one.unit) == (5.0, 5.0, True, "ms")
    assert one.base_mean == pytest.approx(100 + 5 / 3 + 3)
    assert effect(found, "b", "y").difference == 7.0
    assert effect(found, "b", "z").difference == -2.0


def test_an_interaction_is_no_noise_but_told():
    found = effects(runs(lambda a, b, r: 10.0 if (a, b) == ("1", "z") else 1.0), FACTORS)
    one = effect(found, "a", "1")
    assert (one.difference, one.ci95) == (3.0, (3.0, 3.0))
    assert (one.smallest, one.largest) == (0.0, 9.0)


def test_one_repeat_has_no_interval():
    one = effect(effects(runs(lambda a, b, r: float(a), repeat=1), FACTORS), "a", "1")
    assert (one.difference, one.ci95, one.clear, one.pairs) == (1.0, None, None, 3)


def test_runs_and_figures_that_are_missing_are_left_out():
    whole = runs(lambda a, b, r: 5.0 * int(a) + r)
    broken = [one for one in whole if not (one.cell == 0 and one.repeat == 0)]
    assert effect(effects(broken, FACTORS), "a", "1").pairs == 8
    nothing = [CellRun(cell=one.cell, repeat=one.repeat, levels=one.levels, figures={"goodput": None}) for one in whole]
    assert effects(nothing, FACTORS) == []
    assert effects([], FACTORS) == []


def test_every_figure_is_judged_by_itself():
    found = effects(runs(lambda a, b, r: 1.0, figure="output_tokens_per_s"), {"a": ["0", "1"]})
    assert [one.figure for one in found] == ["output_tokens_per_s"]
    assert set(FIGURES) >= {"ttft_p50", "cost_per_thousand_requests", "tokens_per_event", "in_flight"}


def test_one_group_is_the_textbook_interval():
    data = np.array([4.1, 5.0, 3.2, 4.4])
    mean, interval = mean_interval([data])
    wanted = stats.t.interval(0.95, 3, data.mean(), stats.sem(data))
    assert mean == pytest.approx(data.mean())
    assert interval == pytest.approx(wanted)


def test_the_interval_covers_in_19_of_20():
    """Groups of unequal means and sizes, the same variance: the pooled interval holds its confidence."""
    random = np.random.default_rng(5)
    centres, sizes = [0.0, 10.0, -3.0], [3, 2, 4]
    inside = 0
    for _ in range(4000):
        groups = [random.normal(centre, 2.0, size) for centre, size in zip(centres, sizes, strict=True)]
        _, interval = mean_interval(groups)
        inside += interval[0] <= np.mean(centres) <= interval[1]
    assert 0.938 < inside / 4000 < 0.962  # 3.5 standard errors about 0.95


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 6, 9, 20, 101])
def test_student_against_scipy(freedom):
    for t in (0.0, 0.3, 1.0, 2.5, 40.0):
        assert student_inside(t, freedom) == pytest.approx(2 * stats.t.cdf(t, freedom) - 1, abs=1e-12)
    for probability in (0.5, 0.9, 0.975, 0.999):
        wanted = stats.t.ppf(probability, freedom)
        assert student_quantile(probability, freedom) == pytest.approx(wanted, rel=1e-9, abs=1e-9)


# -- the same bodies streamed and not --------------------------------------------------------------------------------

MS = 1_000_000


def rows(e2e_ms, *, ttft_ms=None, output=8, status=Status.ok):
    found = request_rows(len(e2e_ms))
    found["send"] = 1_000 * MS
    found["end"] = found["send"] + np.array(e2e_ms) * MS
    found["first_token"] = -1 if ttft_ms is None else found["send"] + ttft_ms * MS
    found["status"], found["output_tokens"] = status, output
    found["planned_input"], found["planned_output"], found["klass"] = 16, 8, 0
    found["index"] = np.arange(len(found))
    return found


def test_pairs_by_index():
    streamed = rows([100, 110, 120, 130], ttft_ms=20)
    whole = rows([105, 117, 121, 133])[::-1]  # in any order
    found = compare_streamed([(streamed, whole)], {"load.rate": "5"})
    assert found is not None
    assert (found.pairs, found.ttft_p50_ms, found.streamed_e2e_p50_ms, found.whole_e2e_p50_ms) == (4, 20, 115, 119)
    assert found.difference_p50_ms == 4
    assert found.ci95 == (1, 7)
    assert found.same_output == 1.0
    assert found.levels == {"load.rate": "5"}


def test_only_pairs_that_succeeded_and_were_planned_alike_count():
    streamed, whole = rows([100] * 5, ttft_ms=1), rows([101] * 5, output=7)
    streamed["status"][0] = Status.reset
    whole["status"][1] = Status.http_5xx
    whole["planned_output"][2] = 9
    found = compare_streamed([(streamed, whole), (streamed[3:], whole[3:])], {})
    assert found is not None
    assert found.pairs == 2 + 2
    assert found.same_output == 0.0
    assert compare_streamed([(streamed[:1], whole)], {}) is None


def test_untold_outputs_are_not_compared():
    found = compare_streamed([(rows([1.0], ttft_ms=1, output=-1), rows([1.0], output=3))], {})
    assert found is not None
    assert found.same_output is None
    assert not math.isnan(found.difference_p50_ms)
