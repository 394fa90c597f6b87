"""What the documents say about the command line and the configuration is what the program does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmgen.cli import COMMANDS as ALL_COMMANDS
from llmgen.cli.run import run_command
from llmgen.config import FLAGS, load_config
from llmgen.metrics.comparison import parse_rule
from llmgen.validation import validate

COMMANDS = {command.name: command for command in ALL_COMMANDS}
DOCS = Path(__file__).parent.parent / "docs"


def documented() -> dict[str, str]:
    rows = re.findall(r"^\| `([\w.]+)` \| `(--[\w-]+)` \|", (DOCS / "configuration.md").read_text(), re.MULTILINE)
    assert rows
    return dict(rows)


def test_every_key_with_a_flag_is_documented() -> None:
    assert documented() == dict(FLAGS)


def test_every_flag_with_a_key_is_an_option() -> None:
    options = {param.opts[0] for param in run_command.params if param.opts[0].startswith("--")}
    of_the_display = {"--progress", "--quiet", "--json", "--log-json", "--metrics-as", "--junit", "--listen-metrics"}
    assert options == set(FLAGS.values()) | of_the_display


@pytest.mark.parametrize("document", ["configuration.md", "contract.md", "dialects.md", "matrix.md", "telemetry.md"])
def test_the_examples_load(document: str, tmp_path: Path) -> None:
    examples = re.findall(r"```yaml\n(.*?)```", (DOCS / document).read_text(), re.DOTALL)
    assert examples
    for number, example in enumerate(examples):
        path = tmp_path / f"{number}.yaml"
        path.write_text(example)
        load_config(path)


def test_the_metric_dictionary_is_what_the_docstrings_say() -> None:
    done = subprocess.run(
        [sys.executable, str(DOCS.parent / "scripts" / "docs-metrics"), "--check"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_page_about_ci_says_what_the_program_does(tmp_path: Path) -> None:
    text = (DOCS / "ci.md").read_text()
    example = re.search(r"```yaml\n(schema.*?)```", text, re.DOTALL)
    assert example is not None
    (tmp_path / "gate.yaml").write_text(example[1])
    config = load_config(tmp_path / "gate.yaml")
    validate(config)
    assert [parse_rule(rule).expression for rule in config.regression] == list(config.regression)
    for line in re.findall(r"^(?:    - run: )?(llmgen .*?)(?:  +#.*)?$", text, re.MULTILINE):
        command, *options = line.split()[1:]
        known = {option for param in COMMANDS[command].params for option in param.opts}
        assert {option for option in options if option.startswith("--")} <= known, line
