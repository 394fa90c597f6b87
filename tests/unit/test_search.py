"""What a search takes of a configuration, and what it refuses."""

from __future__ import annotations

import math

import pytest

from llmgen.config import Klass, Load, RunConfig, Stage, Target, Trace, Workload
from llmgen.errors import ConfigError
from llmgen.search import Parameters, prepare

BASE = RunConfig(target=Target(urls=("http://127.0.0.1:1",)), slo=("ttft<1s",))


def with_load(**load: object) -> RunConfig:
    return RunConfig(target=BASE.target, slo=BASE.slo, load=Load(**load))  # type: ignore[arg-type]


def test_what_is_not_said_is_filled_in() -> None:
    config, plan, target = prepare(BASE, Parameters())
    assert (plan.rate_min, plan.rate_max, plan.runs, target) == (1.0, math.inf, 12, 0.99)
    assert (config.load.duration, config.load.warmup, config.load.normalize) == (30.0, "20%", True)
    assert config.slo == ("ttft<1s", "goodput>=0.99")


def test_what_is_said_counts() -> None:
    start = with_load(rate=7.0, duration=10.0, warmup=1.0, arrival="onoff:2s,2s")
    config, plan, _ = prepare(start, Parameters(rate_max=50.0))
    assert (plan.rate_min, plan.rate_max) == (7.0, 50.0)
    assert (config.load.duration, config.load.warmup, config.load.normalize) == (10.0, 1.0, False)
    assert prepare(start, Parameters(rate_min=2.0))[1].rate_min == 2.0


def test_the_target_is_the_flag_or_that_of_the_objectives() -> None:
    asked = RunConfig(target=BASE.target, slo=("ttft<1s", "goodput>=95%", "error_rate<=1%"))
    config, _, target = prepare(asked, Parameters())
    assert (target, config.slo) == (0.95, ("ttft<1s", "error_rate<=1%", "goodput>=0.95"))
    config, _, target = prepare(asked, Parameters(target=0.9))
    assert (target, config.slo) == (0.9, ("ttft<1s", "error_rate<=1%", "goodput>=0.9"))
    assert prepare(RunConfig(target=BASE.target, slo=("ttft_p95<1s",)), Parameters())[0].slo == ("ttft_p95<1s",)
    preset = prepare(RunConfig(target=BASE.target, slo_presets=("mlperf:llama2-70b:server",)), Parameters())
    assert preset[0].slo == ("ttft_from_due_p99<=2000ms", "tpot_p99<=200ms")
    mixed = RunConfig(target=BASE.target, workload=Workload(mix={"chat": Klass(slo=("ttft<1s",))}))
    assert prepare(mixed, Parameters())[0].slo == ("goodput>=0.99",)


@pytest.mark.parametrize(
    ("config", "parameters", "complaint"),
    [
        (RunConfig(target=BASE.target), {}, "no objectives"),
        (with_load(concurrency=4), {}, "closed loop"),
        (with_load(trace=Trace(file="x.csv")), {}, "trace"),
        (with_load(stages=(Stage(rate=1.0, duration=1.0),)), {}, "stages"),
        (with_load(rate=1.0, rate_to=5.0), {}, "ramps"),
        (with_load(requests=10), {}, "--duration"),
        (BASE, {"rate_min": 0.0}, "rate-min"),
        (BASE, {"rate_min": math.inf}, "rate-min"),
        (BASE, {"rate_min": 5.0, "rate_max": 4.0}, "rate-max"),
        (BASE, {"target": 1.0}, "target"),
        (BASE, {"confidence": 0.3}, "confidence"),
        (BASE, {"tolerance": 0.0}, "tolerance"),
        (BASE, {"runs": 1}, "runs"),
    ],
)
def test_what_cannot_be_searched(config: RunConfig, parameters: dict[str, float], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        prepare(config, Parameters(**parameters))  # type: ignore[arg-type]
