"""JUnit XML of a run or a comparison: what a CI system shows as tests, one for each objective."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from llmgen.errors import ConfigError
from llmgen.metrics.figures import SloResult, Summary
from llmgen.report.escaping import plain
from llmgen.report.text import MEANS, measured_text


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One test: passed without an outcome. `failure` is the service's fault, `error` ours."""

    group: str
    name: str
    outcome: Literal["passed", "failure", "error", "skipped"] = "passed"
    message: str = ""


def cases_of(summary: Summary) -> list[Case]:
    """The verdict and every objective of a run."""
    verdict = summary.verdict
    told = "; ".join(verdict.reasons) or MEANS[verdict.status]
    bad = verdict.status in ("invalid", "incomplete")
    found = [
        Case(
            group="llmgen.run",
            name="verdict",
            outcome="error" if bad else "passed",
            message=f"{verdict.status}: {told}",
        )
    ]
    if summary.requests.scheduled and not summary.requests.succeeded:
        failed = ", ".join(f"{name} {count}" for name, count in summary.requests.failed.items())
        found.append(Case(group="llmgen.run", name="some request succeeds", outcome="failure", message=failed))
    results = [*summary.slo, *(result for group in summary.classes.values() for result in group.slo)]
    return found + [_objective(result) for result in results]


def _objective(result: SloResult) -> Case:
    outcomes = {True: "passed", False: "failure", None: "skipped"}
    group = "llmgen.slo" if result.klass is None else f"llmgen.slo.{result.klass}"
    message = f"measured {measured_text(result)}"
    if result.met is None:
        message += "; the goodput objective judges"
    return Case(group=group, name=result.expression, outcome=outcomes[result.met], message=message)  # type: ignore[arg-type]


def render(suite: str, cases: Iterable[Case], seconds: float = 0.0) -> str:
    """The XML document. Characters that XML cannot hold are escaped as on a terminal."""
    cases = list(cases)
    counts = {outcome: sum(case.outcome == outcome for case in cases) for outcome in ("failure", "error", "skipped")}
    root = ElementTree.Element("testsuites")
    node = ElementTree.SubElement(
        root,
        "testsuite",
        name=plain(suite),
        tests=str(len(cases)),
        failures=str(counts["failure"]),
        errors=str(counts["error"]),
        skipped=str(counts["skipped"]),
        time=f"{seconds:.3f}",
    )
    for case in cases:
        test = ElementTree.SubElement(node, "testcase", classname=plain(case.group), name=plain(case.name))
        if case.outcome == "passed":
            if case.message:
                ElementTree.SubElement(test, "system-out").text = plain(case.message)
        else:
            ElementTree.SubElement(test, case.outcome, message=plain(case.message)).text = plain(case.message)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def write(path: Path, text: str) -> None:
    """Writes the document. Raises ConfigError where it cannot be written."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--junit {str(path)!r}: cannot be written: {error.strerror}") from None
