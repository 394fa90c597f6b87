"""JUnit XML: one test an objective, whatever stands in its text."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from fabricate import event_rows, request_rows, run_info, write_run
from llmgen import cli
from llmgen.errors import ConfigError
from llmgen.metrics.summary import summarise
from llmgen.records import open_run
from llmgen.report import junit

HOSTILE = ']]></system-out><script>"\x1b[31m\0\ufffe\ud800&'


def suite(text: str) -> ElementTree.Element:
    root = ElementTree.fromstring(text)
    found = root.find("testsuite")
    assert found is not None
    return found


def test_objectives_are_tests(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = request_rows(50)
    info = run_info(50, classes=[{"name": "chat", "slo": ["e2e_p50<1ms"], "stream": True}])
    info["config"]["slo"] = ["ttft_p95<800ms", "tpot<1ms", "goodput>=0.9"]
    write_run(tmp_path / "run", rows, event_rows(rows), info)
    file = tmp_path / "junit.xml"
    assert cli.call(["report", str(tmp_path / "run"), "--junit", str(file)]) == 0
    found = suite(file.read_text())
    cases = {case.get("name"): case for case in found}
    assert found.attrib["tests"] == "5"
    assert (found.attrib["failures"], found.attrib["errors"], found.attrib["skipped"]) == ("2", "0", "1")
    assert cases["verdict"].find("failure") is None
    assert cases["ttft_p95<800ms"].find("failure") is None
    failure = cases["e2e_p50<1ms"].find("failure")
    assert failure is not None
    assert "measured 91.0 ms" in str(failure.get("message"))
    assert cases["e2e_p50<1ms"].get("classname") == "llmgen.slo.chat"
    assert cases["tpot<1ms"].find("skipped") is not None


def test_an_unusable_run_is_an_error(tmp_path: Path) -> None:
    rows = request_rows(5)
    told = run_info(5, state="incomplete", reasons=[HOSTILE.replace("\ud800", "")])  # JSON holds no lone surrogate
    run = write_run(tmp_path / "run", rows, event_rows(rows), told)
    text = junit.render("s", junit.cases_of(summarise(open_run(run))))
    error = suite(text).find("testcase/error")
    assert error is not None
    assert "incomplete" in str(error.get("message"))


def test_hostile_text_stays_text() -> None:
    text = junit.render(HOSTILE, [junit.Case(group=HOSTILE, name=HOSTILE, outcome="failure", message=HOSTILE)])
    text.encode()  # no lone surrogate
    (case,) = suite(text)
    assert str(case.get("name")).startswith("]]></system-out><script>")
    assert not {"\0", "\x1b", "\ufffe"} & set(text)


def test_a_place_that_cannot_be_written() -> None:
    with pytest.raises(ConfigError, match=r"--junit '/none/x.xml'"):
        junit.write(Path("/none/x.xml"), "")
