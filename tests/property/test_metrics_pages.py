"""Metrics pages of any text: nothing raises, what is remembered reads as what was parsed, sums are the parser's own."""

from __future__ import annotations

import math

from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from llmgen.telemetry.prometheus import Page

NAMES = st.sampled_from(
    ["vllm:num_requests_running", "vllm:num_preemptions_total", "vllm:time_to_first_token_seconds_bucket",
     "vllm:time_to_first_token_seconds_sum", "tgi_request_success", "DCGM_FI_DEV_GPU_TEMP", "node_cpu_seconds_total",
     "process_start_time_seconds", "something_else"]
)  # fmt: skip
PIECES = st.sampled_from(
    ["{", "}", '"', "=", ",", " ", "\\", "\\n", "\n", "#", "# TYPE ", "# HELP ", " counter", " histogram", 'le="',
     'gpu="0"', 'engine="1"', "1", "-3.5e7", "NaN", "+Inf", "\x00", "é", "\t", "\r", "\u2028", "\x1c"]
)  # fmt: skip
VALUES = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(st.lists(NAMES | PIECES | st.text(max_size=5), max_size=40).map("".join))
def test_no_text_raises_and_memory_changes_nothing(text: str) -> None:
    reader = Page()
    first = reader.read(text, buckets=True)
    again = reader.read(text, buckets=True)
    assert first == again == Page().read(text, buckets=True)
    assert all(math.isfinite(value) for value in first.values.values())


@given(st.binary(max_size=300))
def test_no_bytes_raise(data: bytes) -> None:
    Page().read(data.decode("utf-8", "replace"), buckets=True)


LABEL = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=6)


@given(st.dictionaries(st.tuples(LABEL, LABEL), VALUES, max_size=12))
@example({("a\u2028b", "\x85"): 1.0})
def test_engines_and_models_are_added_as_the_parser_reads_them(samples: dict[tuple[str, str], float]) -> None:
    def escaped(text: str) -> str:
        return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    text = "# TYPE vllm:num_requests_running gauge\n" + "".join(
        f'vllm:num_requests_running{{engine="{escaped(engine)}",model_name="{escaped(model)}"}} {value!r}\n'
        for (engine, model), value in samples.items()
    )
    told = [one.value for family in text_string_to_metric_families(text) for one in family.samples]
    assert len(told) == len(samples)
    reader = Page()
    for _ in range(2):
        values = reader.read(text).values
        assert values == ({"running": math.fsum(told)} if told else {})
