"""Turns plain values of a file into configuration structs, with errors that help.

msgspec would refuse the same input, but it stops at ``Expected `float`, got `str` - at `$.load.rate` ``; here every
error names the key in full, the value, and what would be right.
"""

from __future__ import annotations

import difflib
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Final

import msgspec

from llmgen.durations import HINT, parse_duration
from llmgen.errors import ConfigError


def wrong(key: str, value: object, what: str) -> ConfigError:
    """The error for `value` at `key`: ``load.rate=-3: must be above 0``. Values of headers are never shown."""
    return ConfigError(f"{key}: {what}" if key.startswith("target.headers") else f"{key}={show(value)}: {what}")


def show(value: object) -> str:
    """A value as an error shows it: short, on one line."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def closest(word: str, known: Iterable[str]) -> str:
    """A hint at what was meant, and all that is known: ``did you mean "rate"? known: …``."""
    names = sorted(known)
    near = difflib.get_close_matches(word.lower(), names, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + "known: " + ", ".join(names)


def no_duplicates(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A dict of `pairs`. Raises ValueError for a key that comes twice, of which parsers keep the last silently."""
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key} is there twice in one mapping")
        result[key] = value
    return result


class Marker:
    """What an annotated field accepts beyond its type: `read` returns the decoded value or raises ValueError."""

    def __init__(self, read: Callable[[Any], Any]) -> None:
        self.read = read


def _read_seconds(value: Any) -> float:
    if not isinstance(value, (int, float, str)):
        raise ValueError(HINT)
    return parse_duration(value)


def _read_cut(value: Any) -> float | str:
    if not (isinstance(value, str) and value.strip().endswith("%")):
        return _read_seconds(value)
    text = value.strip()
    try:
        percent = float(text[:-1])
    except ValueError:
        percent = math.nan
    if not 0 <= percent < 100:
        raise ValueError("a percentage is between 0% and 100%, like 10%")
    return text


def _read_rate(value: Any) -> float:
    hint = "write requests per second like 10 or 0.5, a ramp like 10..40, or inf for all at once"
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(hint)
    try:
        rate = float(value)
    except ValueError:
        raise ValueError(hint) from None
    if math.isnan(rate):
        raise ValueError(hint)
    return rate


def _read_protocol(value: Any) -> str:
    # YAML and TOML read `http: 1.1` and `http: 2` as numbers.
    text = f"{value:g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else value
    if text not in ("auto", "1.1", "2"):
        raise ValueError("write auto, 1.1 or 2")
    return str(text)


def _read_places(value: Any) -> tuple[str, ...]:
    places = (value,) if isinstance(value, str) else value
    if not isinstance(places, (list, tuple)) or not all(isinstance(place, str) and place for place in places):
        raise ValueError("write a place like choices.*.text, or a list of them")
    return tuple(places)


Seconds: Final = Marker(_read_seconds)
Cut: Final = Marker(_read_cut)  # seconds, or a percentage as text
Rate: Final = Marker(_read_rate)
Protocol: Final = Marker(_read_protocol)
Places: Final = Marker(_read_places)  # one place in a JSON document, or several


def decode(tree: Any, kind: type[msgspec.Struct]) -> Any:
    """A `kind` from dicts, lists, strings and numbers. Raises ConfigError for the first key that does not fit."""
    return _struct(tree, kind, "")


def _struct(value: Any, kind: type[msgspec.Struct], key: str) -> Any:
    if not isinstance(value, Mapping):
        raise wrong(key, value, "must be a mapping of keys")
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    arguments = {}
    for name, item in value.items():
        if name not in fields:
            raise ConfigError(f"{_join(key, str(name))}: unknown key; {closest(str(name), fields)}")
        field = fields[name]
        arguments[field.name] = _value(item, hints[field.name], _join(key, name))
    for field in fields.values():
        if field.required and field.name not in arguments:
            raise ConfigError(f"{_join(key, field.encode_name)}: missing; it is required here")
    return kind(**arguments)


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _value(value: Any, hint: Any, key: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        if value is None and type(None) in typing.get_args(arguments[0]):
            return None
        try:
            return arguments[1].read(value)
        except ValueError as error:
            raise wrong(key, value, str(error)) from None
    if origin in (types.UnionType, typing.Union):
        return _union(value, arguments, key)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise wrong(key, value, "must be a list in square brackets")
        return tuple(_value(item, arguments[0], f"{key}[{index}]") for index, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise wrong(key, value, "must be a mapping of keys")
        return {_name(name, key): _value(item, arguments[1], _join(key, str(name))) for name, item in value.items()}
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return _struct(value, hint, key)
    return _scalar(value, hint, key)


def _name(name: Any, key: str) -> str:
    if not isinstance(name, str):
        raise ConfigError(f"{key}: the key {show(name)} must be text; write it in quotes")
    return name


def _union(value: Any, kinds: tuple[Any, ...], key: str) -> Any:
    rest = [kind for kind in kinds if kind is not type(None)]
    if value is None and len(rest) < len(kinds):
        return None
    if len(rest) == 1:
        return _value(value, rest[0], key)
    for kind in rest:
        if type(value) is kind:
            return value
    raise wrong(key, value, f"must be {' or '.join(_WORDS[kind] for kind in rest)}")


_WORDS: Final[Mapping[Any, str]] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _scalar(value: Any, kind: Any, key: str) -> Any:
    if kind is Any or type(value) is kind:
        if kind is float and math.isnan(value):
            raise wrong(key, value, "is no number to work with")
        return value
    if kind is float and type(value) is int:
        return float(value)
    if kind is str and value is not None:
        # Conversion would lose what was written: `1.10` is the number 1.1, `no` is false.
        raise wrong(key, value, "must be text; write it in quotes")
    raise wrong(key, value, f"must be {_WORDS[kind]}")
