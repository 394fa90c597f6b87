"""What the commands' options have in common: the types of their values, and help in sections."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from typing import Any

import click

from llmgen.credentials import refuse_literal_secret
from llmgen.decoding import Marker, no_duplicates
from llmgen.errors import ConfigError


class Value(click.ParamType[Any]):
    """A value that a configuration file could hold at the same place, read by the same code."""

    def __init__(self, name: str, marker: Marker) -> None:
        self.name = name
        self._marker = marker

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._marker.read(value)
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


class Auto(click.ParamType[Any]):
    """A whole number, or ``auto``, which is None in the configuration."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        # click hands a default through here, too
        if value is None or value == "auto":
            return AUTO
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r}: write a whole number or auto", param, ctx)


AUTO = object()  # None would look like an option that was not given


class Json(click.ParamType[dict[str, Any]]):
    """A JSON object."""

    name = "JSON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            found = json.loads(value, object_pairs_hook=no_duplicates)
        except ValueError as error:
            self.fail(f"{value!r} is not JSON: {error}", param, ctx)
        if not isinstance(found, dict):
            self.fail(f"{value!r} must be an object, like '{{\"temperature\": 0}}'", param, ctx)
        return found


def pairs(_: click.Context, param: click.Parameter, items: Iterable[str]) -> dict[str, str]:
    """Callback of a repeatable NAME=VALUE option."""
    result: dict[str, str] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not name.strip():
            raise click.BadParameter(f"{item!r}: write NAME=VALUE", param=param)
        result[name.strip()] = value
    return result


def listed(_: click.Context, param: click.Parameter, items: Iterable[str]) -> tuple[str, ...]:
    """Callback of a repeatable option whose values may also stand in one, with commas between them."""
    return tuple(part.strip() for item in items for part in item.split(","))


def pages(_: click.Context, param: click.Parameter, items: Iterable[str]) -> tuple[dict[str, str], ...]:
    """Callback of a repeatable option of metrics pages: a list of telemetry as in a file."""
    return tuple({"url": item} for item in items)


def numbers(ctx: click.Context, param: click.Parameter, items: Iterable[str]) -> dict[str, float]:
    """Callback of a repeatable NAME=NUMBER option."""
    result: dict[str, float] = {}
    for name, value in pairs(ctx, param, items).items():
        try:
            result[name] = float(value)
        except ValueError:
            raise click.BadParameter(f"{name}={value!r}: write a number", param=param) from None
    return result


def headers(_: click.Context, param: click.Parameter, items: Iterable[str]) -> dict[str, str]:
    """Callback of the repeatable ``--header 'Name: value'``. Refuses credentials that stand there in full."""
    result: dict[str, str] = {}
    for item in items:
        name, colon, value = item.partition(":")
        if not colon or not name.strip():
            # What is there may be a credential: it is not shown.
            raise click.BadParameter("write 'Name: value', 'Name: env:VARIABLE' or 'Name: @file'", param=param)
        name, value = name.strip(), value.strip()
        try:
            refuse_literal_secret(name, value)
        except ConfigError as error:
            raise click.BadParameter(str(error), param=param) from None
        result[name] = value
    return result


class SectionedOption(click.Option):
    """An option that stands under a heading of its own in the help."""

    def __init__(self, *args: Any, section: str = "Other", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class SectionedCommand(click.Command):
    """A command whose help lists its options under their sections, in the order in which they were declared."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        last = ""
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                last = getattr(param, "section", last)  # --help comes last, and closes the last section
                sections.setdefault(last, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                # The flags of one section are aligned; a long one gets a line of its own.
                formatter.write_dl(records, col_max=34)


def use_color() -> bool:
    """Whether stdout takes colours: a terminal, and nobody asked for none (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
