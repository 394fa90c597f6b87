"""What a search found, in the terminal and as a page."""

from __future__ import annotations

import json
import re

import msgspec
import pytest

from llmgen.errors import RecordError
from llmgen.metrics.capacity import Conclusion, Plan, Point, Share, conclude
from llmgen.report.search import headline, read_conclusion, render
from llmgen.report.search_page import render_page

HOSTILE = "\x1b[31m<script>alert(1)</script>"


def point(run: int, rate: float, good: int, n: int, **told: object) -> Point:
    share = Share(name="ttft<500ms", target=0.99, good=good, n=n, effective=float(n))
    latencies = {"ttft_p50_ms": 20.0, "ttft_p99_ms": 90.0, "e2e_p50_ms": 400.0, "requests_per_s": rate}
    return Point(run=run, rate=rate, shares=(share,), **{**latencies, **told})  # type: ignore[arg-type]


def found(**told: object) -> Conclusion:
    points = [
        point(1, 20, 480, 480),
        point(2, 80, 1900, 1920, client="suspect", reasons=("late by 3 ms",), growing=True, growth_per_s=2.0),
        point(3, 40, 960, 960),
    ]
    return msgspec.structs.replace(conclude(points, Plan()), **told)


def test_the_capacity_and_the_rates_that_were_tried() -> None:
    text = render("chat", found(), [], width=80)
    assert text.startswith("SEARCH chat  CAPACITY 40.0 REQ/S\n")
    assert "99 % of the requests keep ttft<500ms" in text
    assert "40.0 req/s is the largest rate tried that meets them (95 %" in text
    assert "80.0 req/s misses them" in text
    assert re.search(r"40\.0 req/s +1 +100 +99\.7–100 +40\.0 +20\.0 +90\.0 +400 +meets", text)
    assert re.search(r"80\.0 req/s +1 +99\.0 .*misses", text)
    assert "the server, or this client, which is suspect in the runs that fail: late by 3 ms" in " ".join(text.split())
    assert "in flight grew by 2.00 a second at 80.0 req/s" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("points", "title", "told"),
    [
        ([point(1, 5, 60, 120), point(2, 5, 60, 120)], "NO RATE MEETS THE OBJECTIVES", "below 5.00 req/s, the lowest"),
        ([point(1, 1, 24, 24)] * 3, "UNDECIDED", "needs 268 requests in its window to prove the target, 268 s at 1.00"),
        ([point(1, 50, 1200, 1200)], "CAPACITY AT LEAST 50.0 REQ/S", "no rate missed the objectives yet"),
        (
            [point(1, 50, 1200, 1200), *[point(2, 200, 9, 99, client="invalid", reasons=("cpu",), workers=3)] * 2],
            "CAPACITY AT LEAST 50.0 REQ/S",
            "this client, not the server: cpu; about 3 workers would be enough",
        ),
        ([point(1, 50, 9, 99, client="invalid", reasons=("cpu",))] * 2, "THE CLIENT IS THE LIMIT", "no evidence"),
    ],
)
def test_the_other_outcomes(points: list[Point], title: str, told: str) -> None:
    conclusion = conclude(points, Plan(runs=len(points)))
    assert headline(conclusion) == title
    assert told in " ".join(render("x", conclusion, [], width=80).split())


def test_one_that_was_interrupted_says_so() -> None:
    assert "unfinished: CAPACITY 40.0 REQ/S so far" in render("x", found(), [], finished=False)
    assert "unfinished" in render_page("x", found(), finished=False)


def test_the_page_stands_alone_and_is_harmless() -> None:
    points = (*found().points, point(4, 81, 1, 99, client="invalid", reasons=(HOSTILE,), unmet=(HOSTILE,)))
    conclusion = conclude(points, Plan())
    made = render_page(HOSTILE, conclusion)
    assert "<script>alert" not in made
    assert "\x1b" not in made
    assert not re.search(r'(?:src|href)="(?!#|data:)', made.partition("<script>")[0])
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', made, re.S)[1])  # type: ignore[index]
    assert set(figures) == {"curve", "attainment"}
    curve = figures["curve"]
    assert [one["name"] for one in curve["data"]] == ["TTFT p50", "TTFT p99", "E2E p50"]
    assert curve["data"][0]["x"] == [20, 40, 80, 81]
    assert curve["layout"]["shapes"][0]["x0"] == conclusion.knee == 81
    assert figures["attainment"]["layout"]["shapes"][-1]["x0"] == conclusion.capacity
    assert "\x1b" not in render(HOSTILE, conclusion, [])


def test_it_is_read_back_from_suite_json() -> None:
    told = json.loads(msgspec.json.encode(found()))
    assert read_conclusion(told) == found()
    with pytest.raises(RecordError, match=r"suite\.json"):
        read_conclusion({"outcome": "found"})
