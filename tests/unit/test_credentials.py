"""Credentials: where they come from, and where they must not stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmgen.config import Target
from llmgen.credentials import is_secret_name, refuse_literal_secret, resolve_headers, resolve_value
from llmgen.errors import ConfigError


@pytest.mark.parametrize(
    "name", ["Authorization", "proxy-authorization", "api-key", "x-api-key", "x-goog-api-key", "cookie", "key", "token"]
)
def test_names_that_carry_credentials(name: str) -> None:
    assert is_secret_name(name)
    with pytest.raises(ConfigError, match="env:VARIABLE") as caught:
        refuse_literal_secret(name, "s3cret")
    assert "s3cret" not in str(caught.value)
    refuse_literal_secret(name, "env:KEY")
    refuse_literal_secret(name, "@file")


@pytest.mark.parametrize("name", ["accept", "x-tenant", "keyboard", "user-agent"])
def test_names_that_do_not(name: str) -> None:
    assert not is_secret_name(name)
    refuse_literal_secret(name, "anything")


def test_values_are_read_where_they_are(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("from-file\n")
    assert resolve_value("k", "as it is", {}) == "as it is"
    assert resolve_value("k", "env:KEY", {"KEY": "from-env"}) == "from-env"
    assert resolve_value("k", f"@{file}", {}) == "from-file"


def test_a_line_break_inside_a_secret_is_refused_without_showing_it(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("first\nsecond\n")
    for value, environ in ((f"@{file}", {}), ("env:KEY", {"KEY": "first\nsecond"})):
        with pytest.raises(ConfigError, match="line break") as caught:
            resolve_value("target.headers.api-key", value, environ)
        assert "second" not in str(caught.value)


def test_the_openai_key_is_sent_unless_something_else_authenticates() -> None:
    environ = {"OPENAI_API_KEY": "o", "MINE": "m"}
    assert resolve_headers(Target(), {}) == {}
    assert resolve_headers(Target(), environ) == {"authorization": "Bearer o"}
    assert resolve_headers(Target(api_key_env="MINE"), environ) == {"authorization": "Bearer m"}
    assert resolve_headers(Target(headers={"api-key": "env:MINE"}), environ) == {"api-key": "m"}
    assert resolve_headers(Target(api_key_command="print-key"), environ) == {}
    assert resolve_headers(Target(headers={"x-tenant": "blue"}), environ) == {
        "x-tenant": "blue",
        "authorization": "Bearer o",
    }
