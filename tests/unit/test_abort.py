"""When a run stops by itself: the grammar of `--abort-on`."""

from __future__ import annotations

import pytest

from llmgen.abort import AbortRule, parse
from llmgen.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "metric", "limit", "span"),
    [
        ("error_rate>50% for 10s", "error_rate", 0.5, 10.0),
        ("error_rate > 0.25", "error_rate", 0.25, 0.0),
        (" in_flight>=2000 for 1m30s ", "in_flight", 2000.0, 90.0),
    ],
)
def test_rules(text: str, metric: str, limit: float, span: float) -> None:
    assert parse(text) == AbortRule(text, metric, limit, span)


WRONG = ["", "error_rate", "error_rate for 10s", "errors>5", "error_rate>1.2.3", "error_rate>.", "in_flight>5 for x"]


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_rule_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"client\.abort_on=.*error_rate>50% for 10s"):
        parse(text)
