"""Presets are objectives of the grammar, and known only by their full name."""

from __future__ import annotations

import pytest

from llmgen.config import RunConfig, Target
from llmgen.errors import ConfigError
from llmgen.metrics.presets import expand, names
from llmgen.metrics.slo import parse
from llmgen.validation import complete, validate


def test_limits_are_those_of_mlperf() -> None:
    assert expand(["mlperf:llama2-70b:server"]) == ("ttft_from_due_p99<=2000ms", "tpot_p99<=200ms")
    assert expand(["mlperf:llama2-70b:interactive"]) == ("ttft_from_due_p99<=450ms", "tpot_p99<=40ms")
    assert names()["mlperf:deepseek-r1:interactive"] == (1500, 15)
    assert "mlperf:mixtral-8x7b:interactive" not in names()


@pytest.mark.parametrize("name", names())
def test_every_preset_parses(name: str) -> None:
    for objective in expand([name]):
        assert parse(objective).statistic == "p99"


def test_unknown_presets_name_the_known() -> None:
    with pytest.raises(ConfigError, match=r"'mlperf:gpt-2:server': unknown; known: mlperf:llama2-70b:server"):
        expand(["mlperf:gpt-2:server"])


def test_a_run_gets_the_objectives() -> None:
    config = RunConfig(
        target=Target(urls=("http://h",)), slo=("error_rate<1%",), slo_presets=("mlperf:llama3.1-8b:server",)
    )
    done, notes = complete(config)
    assert done.slo == ("error_rate<1%", "ttft_from_due_p99<=2000ms", "tpot_p99<=100ms")
    assert any("mlperf:llama3.1-8b:server" in note for note in notes)
    validate(done)
    again, _ = complete(done)
    assert again.slo == done.slo
