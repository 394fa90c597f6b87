"""`llmgen check`: this machine, the target and the load between them, before a run; every fault with its cure.

Sends little: a connection to each address, a question for the models, one short request to each target, and to the
first one the shortest and the longest request of each class.
"""

from __future__ import annotations

from typing import Final

from llmgen.checks import endpoint, load, local, ranges, warm
from llmgen.checks.findings import Check, Level, Report, report
from llmgen.config import RunConfig
from llmgen.logs import set_up_log
from llmgen.metrics.verdict import thresholds
from llmgen.preflight import Look
from llmgen.preparing import endpoint_paths, request_headers
from llmgen.validation import complete, validate

__all__ = ["Check", "Level", "Report", "check"]

MOST_TARGETS: Final = 4  # of a cluster that get a request; the others are only looked at


def check(config: RunConfig) -> Report:
    """All checks; without a target those of this machine only. ConfigError for a configuration that cannot work."""
    set_up_log(as_json=False, quiet=True)
    limits = thresholds(config.verdict)
    if not config.target.urls:
        return report(local.look(config, limits))
    config, _ = complete(config)
    validate(config)
    checks = local.look(config, limits)
    headers = request_headers(config)
    targets, named = endpoint.names(config)
    checks.append(named)
    looks: list[Look | None] = []
    first: warm.Warm | None = None
    for number, (one, path) in enumerate(zip(targets, endpoint_paths(config), strict=False)):
        found, seen = endpoint.look(one, path, config, headers)
        looks.append(seen)
        if number < MOST_TARGETS and all(check.level is not Level.fail for check in found):
            answered, times = warm.ask(config, number)
            found += answered
            first = first or times
        checks += [of_target(check, one.url) for check in found] if len(targets) > 1 else found
    checks += load.look(config, targets, looks, first)
    if first is not None and all(check.level is not Level.fail for check in checks):
        checks += ranges.look(config)
    return report(checks)


def of_target(check: Check, url: str) -> Check:
    """One of several targets: its group says which."""
    return Check(
        group=f"{check.group} {url}",
        name=check.name,
        level=check.level,
        found=check.found,
        cure=check.cure,
        exit_code=check.exit_code,
        data=check.data,
    )
