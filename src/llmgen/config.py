"""The configuration of a run: frozen structs that refuse unknown keys.

`load_config` reads YAML, TOML or JSON; the flags of `llmgen run` are merged over it by `cli`. Durations are seconds
(float) once decoded; in files and flags they are written ``250ms 60s 5m 1h`` or as a number of seconds.
"""

from __future__ import annotations

from typing import Any

import msgspec

CONFIG_SCHEMA = "llmgen.config/1"


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the load goes. Several urls are one cluster."""

    urls: tuple[str, ...] = ()
    api: str = "chat"
    model: str | None = None  # None: first of /v1/models; "a:3,b:1" is a weighted list
    path: str | None = None
    query: dict[str, str] = {}
    headers: dict[str, str] = {}  # a value may be "env:NAME" or "@file"
    api_key_env: str | None = None  # None: OPENAI_API_KEY if set
    api_key_command: str | None = None
    http: str = "auto"  # auto | 1.1 | 2
    balance: str = "round-robin"  # round-robin | random | least-in-flight
    connect_to: str | None = None  # HOST:PORT
    insecure: bool = False
    ca: str | None = None
    cert: str | None = None
    key: str | None = None


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A piece of the rate over time: constant at `rate`, or linear from the previous rate (or `rate`) to `to`."""

    rate: float | None = None
    to: float | None = None
    duration: float = msgspec.field(name="for")


class Trace(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    file: str
    format: str = "azure"
    scale: float = 1.0  # times are divided by it
    jitter: str | None = None


class Load(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When requests are due."""

    arrival: str = "poisson"  # constant poisson gamma:CV weibull:SHAPE closed
    rate: float | None = None  # requests/s; inf: all at once
    rate_to: float | None = None  # linear ramp from rate to this one over the duration ("A..B")
    concurrency: int | None = None  # implies closed
    stages: tuple[Stage, ...] = ()
    trace: Trace | None = None
    duration: float | None = None
    requests: int | None = None
    warmup: float | str = 0.0  # seconds, or "10%"
    cooldown: float | str = 0.0
    drain: float = 30.0


class Klass(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One class of requests of a mix. Lengths: a number or a distribution like "lognormal:6000,2000"."""

    weight: float = 1.0
    input: str | int | None = None
    output: str | int | None = None
    body: dict[str, Any] = {}
    stream: bool | None = None
    model: str | None = None
    slo: tuple[str, ...] = ()


class Workload(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is sent. Without a mix there is one class, `default`."""

    input: str | int = 128
    output: str | int = 128
    body: dict[str, Any] = {}
    stream: bool = True
    exact_output: bool = False
    max_tokens_field: str | None = None
    mix: dict[str, Klass] = {}


class Timeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    connect: float = 10.0
    first_token: float = 120.0
    idle: float = 60.0
    total: float = 600.0  # counts from due


class Client(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How this machine offers the load."""

    workers: int | None = None  # None: auto
    connections: int | None = None  # limit over all workers; None: as needed
    streams_per_connection: int | None = None
    preconnect: int = 0
    timeouts: Timeouts = Timeouts()
    stamps: str = "kernel"  # kernel | user
    spin: float = 0.0  # seconds
    pin: bool = True
    http2_engine: str = "native"  # native | h2
    traceparent: bool = False
    abort_on: str | None = None


class Telemetry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    url: str


class Prices(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    gpu_hour: float | None = None
    gpus: int | None = None
    input_per_million: float | None = None
    cached_per_million: float | None = None
    output_per_million: float | None = None


class RunConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that one run needs (docs/contract.md, "Configuration")."""

    schema: str = CONFIG_SCHEMA
    name: str | None = None
    tags: dict[str, str] = {}
    note: str | None = None
    seed: int = 1
    out: str = "runs"
    record: str = "events"  # events | requests
    keep_bodies: bool = False
    target: Target = Target()
    load: Load = Load()
    workload: Workload = Workload()
    client: Client = Client()
    slo: tuple[str, ...] = ()
    regression: tuple[str, ...] = ()
    telemetry: tuple[Telemetry, ...] = ()
    prices: Prices | None = None
