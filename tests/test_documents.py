"""What the documents say about the command line and the configuration is what the program does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llmgen.cli.run import run_command
from llmgen.config import FLAGS, load_config

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
