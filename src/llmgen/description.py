"""run.json as readers take it: of whatever somebody edited, what has its proper kind; the rest is left out, and named.

Readers may then rely on kinds: a list is a list, a number a number or absent. What is missing stays missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

Check = Callable[[Any], bool]


def _is(*kinds: type) -> Check:
    return lambda value: isinstance(value, kinds) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _list_of(inner: Check) -> Check:
    return lambda value: isinstance(value, list) and all(inner(item) for item in value)


def _mapping_of(inner: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(inner(item) for item in value.values())


def _shaped(**fields: Check) -> Check:
    """A mapping whose fields, where they are there and not null, are of their kind."""

    def check(value: Any) -> bool:
        if not isinstance(value, dict):
            return False
        return all(value.get(name) is None or check(value[name]) for name, check in fields.items())

    return check


def _named(name: str, **fields: Check) -> Check:
    """The same with a text that must be there."""
    shape = _shaped(**fields)
    return lambda value: shape(value) and isinstance(value.get(name), str)


_TEXT: Final = _is(str)
_TEXTS: Final = _list_of(_TEXT)


def _whole(value: Any) -> bool:
    # within int64, as numpy counts ns
    return isinstance(value, int) and not isinstance(value, bool) and -(1 << 63) <= value < 1 << 63


_ANY_MAPPING: Final = _is(dict)

KINDS: Final[Mapping[str, Check]] = {
    "run_id": _TEXT,
    "name": _TEXT,
    "note": _TEXT,
    "state": _TEXT,
    "model": _TEXT,
    "tags": _mapping_of(_TEXT),
    "reasons": _TEXTS,
    "classes": _list_of(_named("name", slo=_TEXTS)),
    "targets": _list_of(_named("url")),
    "workers": _whole,
    "seed": _whole,
    "start_ns": _whole,
    "end_ns": _whole,
    "start_realtime_ns": _whole,
    "window": _shaped(start_ns=_whole, end_ns=_whole),
    "schedule": _shaped(scheduled=_whole, span_ns=_whole, arrival=_TEXT, offered_rate=_number),
    "environment": _ANY_MAPPING,
    "versions": _ANY_MAPPING,
    "clock": _shaped(steps=_whole, steal_pct=_number),
    "workers_detail": _list_of(_shaped(cpu_s=_number, peak_rss_mb=_number, flow_blocked=_number)),
}
CONFIG_KINDS: Final[Mapping[str, Check]] = {
    "record": _TEXT,
    "slo": _TEXTS,
    "regression": _TEXTS,
    "load": _ANY_MAPPING,
    "workload": _ANY_MAPPING,
    "target": _ANY_MAPPING,
    "client": _ANY_MAPPING,
    "verdict": _mapping_of(_number),
    "prices": _mapping_of(lambda value: value is None or _number(value)),
}


def sound(info: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """(run.json without what is not of its kind, a sentence on each that was left out)."""
    kept, odd = _kept(info, KINDS)
    config = kept.get("config")
    if config is not None and not isinstance(config, dict):
        del kept["config"]
        odd.append("config")
    elif config is not None:
        kept["config"], inner = _kept(config, CONFIG_KINDS)
        odd += [f"config.{name}" for name in inner]
    return kept, [f"run.json: {name} is not what it should be; left out" for name in odd]


def _kept(found: Mapping[str, Any], kinds: Mapping[str, Check]) -> tuple[dict[str, Any], list[str]]:
    odd = [name for name, check in kinds.items() if found.get(name) is not None and not check(found[name])]
    return {name: value for name, value in found.items() if name not in odd}, odd
