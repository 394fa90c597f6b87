"""`llmgen plan`: what it tells is what the plan then holds; what it refuses is refused before anything is sent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llmgen import cli
from llmgen.config import Client, Data, Klass, Load, Prices, RunConfig, Stage, Target, Trace, Workload
from llmgen.errors import ConfigError
from llmgen.plan import PlanReader
from llmgen.planning import PlanBuilder
from llmgen.preview import preview, refuse_expensive
from llmgen.preview.page import write_page
from llmgen.preview.text import BARS, render, sparkline

MIX = {"a": Klass(weight=3, input="lognormal:200,100", output="uniform:1,99"), "b": Klass(output=7, stream=False)}


def config(**parts: object) -> RunConfig:
    return RunConfig(target=Target(urls=("http://h",), model="m"), **parts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "load",
    [
        Load(rate=200, requests=5000),
        Load(arrival="gamma:3", stages=(Stage(rate=20, duration=30), Stage(to=90, duration=30))),
        Load(rate=float("inf"), requests=100),
    ],
)
def test_it_tells_what_the_plan_holds(tmp_path: Path, load: Load) -> None:
    made = config(load=load, workload=Workload(mix=MIX))
    found = preview(made, ttft_s=0.3, itl_s=0.01)
    PlanBuilder(made, tmp_path, 1).write_all()
    rows = PlanReader(tmp_path).all_rows()
    assert found.requests == len(rows)
    assert found.input_tokens == rows["planned_input"].sum()
    assert found.output_tokens == rows["planned_output"].sum()
    for number, one in enumerate(found.classes):
        mine = rows[rows["klass"] == number]
        assert one.requests == len(mine)
        for lengths, name in ((one.input, "planned_input"), (one.output, "planned_output")):
            assert lengths is not None
            assert lengths.mean == pytest.approx(mine[name].mean())
            expected = np.percentile(mine[name], [50, 90, 99, 100], method="inverted_cdf")
            assert [lengths.p50, lengths.p90, lengths.p99, lengths.max] == expected.tolist()
    starts = rows["due"] / 1e9
    ends = starts + 0.3 + 0.01 * (rows["planned_output"] - 1)
    flight = [np.count_nonzero((starts <= t) & (ends >= t)) for t in starts]
    peak = found.service.peak_in_flight
    assert max(flight) <= peak <= 1.25 * max(flight) + 5  # counted in bins of 0.1 s, so rather more than less
    if found.arrivals is not None and load.rate != float("inf"):
        assert sum(found.arrivals.per_second) == len(rows)
        assert found.arrivals.peak_1s == np.bincount(rows["due"] // 10**9).max()
        gaps = np.diff(rows["due"])
        assert found.arrivals.cv == pytest.approx(gaps.std() / gaps.mean(), rel=1e-6)


def test_a_poisson_load_is_told_as_one() -> None:
    found = preview(config(load=Load(rate=50, duration=400)))
    assert found.arrivals is not None
    assert found.arrivals.cv == pytest.approx(1.0, abs=0.03)
    assert found.arrivals.dispersion_1s == pytest.approx(1.0, abs=0.2)
    assert found.arrivals.rate_per_s == pytest.approx(50, rel=0.03)
    assert found.span_s == 400


def test_a_closed_loop_has_no_times() -> None:
    found = preview(config(load=Load(concurrency=8, duration=60), workload=Workload(mix=MIX)))
    assert found.arrivals is None
    assert found.endless
    assert found.needs.connections == 8
    assert found.cost is None
    text = render(found)
    assert "endless" in text
    assert "in flight" not in text


def test_own_data_tells_its_lengths(tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_text("one two\nthree\n")
    found = preview(config(load=Load(requests=4), workload=Workload(data=Data(file=str(tmp_path / "d.txt")))))
    assert found.input_tokens == 6


def test_a_broken_row_is_found_without_a_server(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"timestamp":0,"input_length":1,"output_length":1}\nx\n')
    with pytest.raises(ConfigError, match="row 2"):
        preview(config(load=Load(trace=Trace(file=str(tmp_path / "t.jsonl")))))


def test_a_looped_trace_needs_an_end(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"timestamp":0,"input_length":1,"output_length":1}\n' * 2)
    trace = Trace(file=str(tmp_path / "t.jsonl"), loop=True)
    with pytest.raises(ConfigError, match=r"load\.trace\.loop: needs an end"):
        preview(config(load=Load(trace=trace)))
    assert preview(config(load=Load(trace=trace, requests=1001))).requests == 1001


# -- cost --------------------------------------------------------------------------------------------------------------


def test_cost_of_tokens_and_of_gpus() -> None:
    load, workload = Load(arrival="constant", rate=10, duration=360), Workload(input=1000, output=500)
    prices = Prices(input_per_million=2.0, output_per_million=10.0, gpu_hour=3.0, gpus=4)
    found = preview(config(load=load, workload=workload, prices=prices))
    assert found.cost is not None
    assert found.cost.tokens == pytest.approx(3.6 * 2 + 1.8 * 10)
    assert found.cost.gpus == pytest.approx(1.2)
    assert found.cost.total == pytest.approx(25.2 + 1.2)
    assert preview(config(load=load, workload=workload)).cost is None


def test_a_run_that_would_cost_too_much_is_refused() -> None:
    load = Load(arrival="constant", rate=10, duration=100)
    prices = {"input_per_million": 1.0, "output_per_million": 1.0}
    refuse_expensive(config(load=load))
    refuse_expensive(config(load=load, prices=Prices(**prices, max_cost=1.0)))
    with pytest.raises(ConfigError, match=r"prices\.max_cost=0\.2: the run would cost up to 0\.26 \(1,000 requests"):
        refuse_expensive(config(load=load, prices=Prices(**prices, max_cost=0.2)))
    with pytest.raises(ConfigError, match="prices are missing"):
        refuse_expensive(config(load=load, prices=Prices(max_cost=1.0)))
    with pytest.raises(ConfigError, match="has no end of its own"):
        refuse_expensive(config(load=Load(concurrency=2, duration=5), prices=Prices(**prices, max_cost=1.0)))


# -- shown -------------------------------------------------------------------------------------------------------------


def test_the_sparkline_is_the_rate() -> None:
    assert sparkline([0, 1, 2, 4, 8], 5) == "▁▁▂▄█"
    assert sparkline([]) == ""
    assert sparkline([0, 0]) == "▁▁"
    ramp = sparkline(list(range(1000)), 60)
    assert len(ramp) == 60
    assert [BARS.index(bar) for bar in ramp] == sorted(BARS.index(bar) for bar in ramp)


def test_the_text_warns_of_what_this_machine_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmgen import machine

    monkeypatch.setattr(machine, "ephemeral_ports", lambda: 50)
    monkeypatch.setattr(machine, "usable_cores", lambda: 1)
    found = preview(config(load=Load(rate=2000, duration=2), workload=Workload(output=200)))
    text = render(found)
    assert "more connections than ports" in text
    assert f"{found.needs.workers_wanted} workers would be enough, there are 1 cores" in text
    limited = config(load=Load(rate=2000, duration=2), client=Client(connections=20))
    assert preview(limited).needs.connections == 20


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "load.json"
    file.write_text(json.dumps({"name": "n<b>", "load": {"rate": 5, "duration": "20s"}, "workload": {"mix": "chat"}}))
    page = tmp_path / "page.html"
    assert cli.call(["plan", str(file), "--rate", "50", "--assume-ttft", "1s", "--html", str(page), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "llmgen.preview/1"
    assert found["requests"] == pytest.approx(1000, abs=150)
    assert found["service"]["ttft_s"] == 1.0
    assert "n&lt;b&gt;" in page.read_text()
    assert "<b>" not in page.read_text().replace("n&lt;b&gt;", "").split("<script")[0]
    assert cli.call(["plan", "--mix", "agent", "--duration", "10s"]) == 0
    out = capsys.readouterr().out
    assert "no rate given: 1 request/s" in out
    assert "agent" in out
    assert cli.call(["plan", "--mix", "agnt"]) == 2
    assert "did you mean 'agent'" in capsys.readouterr().err


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--html"):
        write_page(preview(config(load=Load(requests=1))), tmp_path / "no" / "page.html")
