"""The configuration of a run: frozen structs that refuse unknown keys.

`load_config` reads YAML, TOML or JSON; `merge` lays the flags of `llmgen run` over it; `validation` refuses what cannot
work; `redact` is what run.json may show.
Durations are seconds (float) once decoded; in files and flags they are written ``250ms 60s 5m 1h`` or as seconds.
"""

from __future__ import annotations

import copy
import json
import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit, urlunsplit

import msgspec

from llmgen.credentials import is_reference, is_secret_name
from llmgen.decoding import Cut, Places, Protocol, Rate, Seconds, closest, decode, no_duplicates, wrong
from llmgen.errors import ConfigError
from llmgen.flags import FLAGS as FLAGS  # which key has which flag is part of the configuration
from llmgen.mixes import MIXES

CONFIG_SCHEMA: Final = "llmgen.config/1"


class CustomUsage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the answers of an API of one's own tell token counts."""

    input: Annotated[tuple[str, ...], Places] = ()
    output: Annotated[tuple[str, ...], Places] = ()
    reasoning: Annotated[tuple[str, ...], Places] = ()
    cached: Annotated[tuple[str, ...], Places] = ()


class CustomApi(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An API of one's own (docs/dialects.md): a body as a template, and places in its answers, one or several each."""

    path: str = "/"
    body: dict[str, Any]
    framing: str = "sse"  # sse | ndjson
    text: Annotated[tuple[str, ...], Places] = ()
    reasoning: Annotated[tuple[str, ...], Places] = ()
    tool: Annotated[tuple[str, ...], Places] = ()
    finish: Annotated[tuple[str, ...], Places] = ()
    done: Annotated[tuple[str, ...], Places] = ()  # true or any text: the answer is over; "[DONE]": that marker
    error: Annotated[tuple[str, ...], Places] = ("error",)
    token_ids: Annotated[tuple[str, ...], Places] = ()
    usage: CustomUsage = CustomUsage()


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the load goes. Several urls are one cluster."""

    urls: tuple[str, ...] = ()
    weights: tuple[int, ...] = ()  # shares of the urls, in their order; (): equal
    api: str = "chat"
    custom: CustomApi | None = None  # with it, api is custom
    model: str | None = None  # None: first of /v1/models; "a:3,b:1" is a weighted list
    path: str | None = None
    query: dict[str, str] = {}
    headers: dict[str, str] = {}  # a value may be "env:NAME" or "@file"
    api_key_env: str | None = None  # None: OPENAI_API_KEY if set
    api_key_command: str | None = None
    http: Annotated[str, Protocol] = "auto"  # auto | 1.1 | 2
    balance: str = "round-robin"  # round-robin | random | least-in-flight
    sticky: bool = True  # all turns of a session go to the target of its first
    connect_to: str | None = None  # HOST:PORT
    insecure: bool = False
    ca: str | None = None
    cert: str | None = None
    key: str | None = None


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A piece of the rate over time: constant at `rate`, or linear from the previous rate (or `rate`) to `to`.

    With `steps` the way to `to` is a staircase; `spike` holds a multiple of the rate before, which comes back after it;
    `sine` swings around the rate by this share of it, once a `period`; `file` holds rows of seconds and rate.
    """

    rate: float | None = None
    to: float | None = None
    steps: int | None = None
    spike: float | None = None
    sine: float | None = None
    period: Annotated[float | None, Seconds] = None
    file: str | None = None
    duration: Annotated[float, Seconds] = msgspec.field(name="for")


class Trace(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arrivals and lengths of a recorded workload."""

    file: str  # or a folder (ServeGen)
    format: str = "auto"
    scale: float = 1.0  # times are divided by it
    rate_scale: float = 1.0  # so many times as many requests in the same time
    jitter: str | None = None  # uniform:quantum | uniform:T | none
    window: str | None = None  # "A..B" of the trace's own time
    loop: bool = False
    turns: str = "after"  # later turns wait for the answers before them; timed: they go by their times alone
    order: str = "auto"  # require | sort
    zero_output: str = "auto"  # keep | drop
    unit: str | None = None  # of times: s ms us ns
    block_size: int | None = None  # tokens a hash id stands for
    columns: dict[str, str] = {}  # of a generic file: time, input, output, session, class, model → its column
    classes: dict[str, str | None] = {}  # the trace's class → class of the mix; null leaves the rows out; "*": others
    models: dict[str, str] = {}  # the trace's model → model to ask for


class Load(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When requests are due."""

    arrival: str = "poisson"  # constant poisson gamma:CV weibull:SHAPE closed
    rate: Annotated[float | None, Rate] = None  # requests/s; inf: all at once
    rate_to: float | None = None  # linear ramp from rate to this one over the duration ("A..B")
    concurrency: int | None = None  # implies closed
    stages: tuple[Stage, ...] = ()
    trace: Trace | None = None
    duration: Annotated[float | None, Seconds] = None
    requests: int | None = None
    warmup: Annotated[float | str, Cut] = 0.0  # seconds, or "10%"
    cooldown: Annotated[float | str, Cut] = 0.0
    drain: Annotated[float, Seconds] = 30.0
    normalize: bool = False  # scale the schedule so that exactly rate * duration requests come


class Prefix(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Prompts begin with one of `pool` shared texts of `tokens` tokens, which their length includes."""

    tokens: int
    pool: int = 1


class Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Prompts from a file instead of made ones."""

    file: str
    format: str = "auto"  # messages | sharegpt | text | csv | parquet
    column: str | None = None  # of csv and parquet: the prompt's
    output_column: str | None = None  # and that of the answer's length, if there is one
    order: str = "sequential"  # or shuffled
    limit: int | None = None  # read so many records at most
    unique: bool = False  # put a word before each prompt that no other request has


class Sessions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Conversations of several turns; lengths that are not given are those of the workload and its classes."""

    turns: str | int = 4
    think: str | float = "lognormal:5s,3s"  # between an answer's end and the next turn's due time
    history: str = "real"  # real | recorded | none: what stands for the former answers
    first_input: str | int | None = None
    input: str | int | None = None  # of the messages of later turns
    output: str | int | None = None
    system: int = 0  # tokens that all sessions begin with
    role: str = "user"  # or tool: later turns bring a tool's results


class Klass(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One class of requests of a mix. Lengths: a number or a distribution like "lognormal:6000,2000"."""

    weight: float = 1.0
    input: str | int | None = None
    output: str | int | None = None
    lengths: str | None = None  # "pairs:FILE": input and output drawn together
    correlation: float | None = None  # of the logarithms of lognormal lengths, or of normal ones
    prefix: Prefix | None = None
    data: Data | None = None
    tools: tuple[dict[str, Any], ...] = ()
    body: dict[str, Any] = {}
    stream: bool | None = None
    model: str | None = None
    slo: tuple[str, ...] = ()


class Workload(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is sent. Without a mix there is one class, `default`."""

    input: str | int = 128
    output: str | int = 128
    lengths: str | None = None
    correlation: float | None = None
    prefix: Prefix | None = None
    data: Data | None = None
    tools: tuple[dict[str, Any], ...] = ()
    tokenizer: str | None = None  # None: words; "server": calibrated through /tokenize; else a file or folder
    template_tokens: int | None = None  # what the chat template adds to a prompt; None: what the tokenizer tells
    body: dict[str, Any] = {}
    stream: bool = True
    exact_output: bool = False
    continuous_usage: bool = False  # chat and completions on vLLM and SGLang: the tokens so far in every event
    max_tokens_field: str | None = None
    sessions: Sessions | None = None
    mix: dict[str, Klass] = {}


class Timeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long a request waits for what, in seconds."""

    connect: Annotated[float, Seconds] = 10.0
    first_token: Annotated[float, Seconds] = 120.0
    idle: Annotated[float, Seconds] = 60.0
    total: Annotated[float, Seconds] = 600.0  # counts from due


class Client(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How this machine offers the load."""

    workers: int | None = None  # None: auto
    connections: int | None = None  # limit over all workers; None: as needed
    streams_per_connection: int | None = None
    preconnect: int = 0
    source_addresses: tuple[str, ...] = ()  # local addresses to connect from, in turn; none: the system's choice
    timeouts: Timeouts = Timeouts()
    patience: Annotated[float | None, Seconds] = None  # from due; a stream without a first token is abandoned
    stamps: str = "kernel"  # kernel | user
    spin: Annotated[float, Seconds] = 0.0
    pin: bool = True
    http2_engine: str = "native"  # native | h2
    traceparent: bool = False
    resend_unprocessed: bool = False  # what GOAWAY or REFUSED_STREAM left untouched goes out once more, due time kept
    retries: int = 0  # further attempts after a connection error, 429 or 503; latencies count from the first due
    abort_on: str | None = None


class Telemetry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One endpoint that tells the server's own metrics in Prometheus's text format."""

    url: str
    every: Annotated[float, Seconds] = 0.5
    headers: dict[str, str] = {}  # a value may be "env:NAME" or "@file"
    map: dict[str, str] = {}  # series of ours → 'NAME{label="value"} * FACTOR' on this page


class Prices(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Prices of the user, from which costs follow; none is built in."""

    gpu_hour: float | None = None
    gpus: int | None = None
    input_per_million: float | None = None
    cached_per_million: float | None = None
    output_per_million: float | None = None
    max_cost: float | None = None  # a run that would cost more is refused before it starts


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
    matrix: dict[str, Any] = {}  # levels by key: a suite of runs (matrix.py)
    repeat: int | None = None  # runs of each cell; None: 3 with a matrix, else 1
    target: Target = Target()
    load: Load = Load()
    workload: Workload = Workload()
    client: Client = Client()
    slo: tuple[str, ...] = ()
    slo_presets: tuple[str, ...] = ()  # like mlperf:llama2-70b:server; become part of slo
    verdict: dict[str, float] = {}  # thresholds of the verdict on ourselves, over those of metrics/verdict.py
    regression: tuple[str, ...] = ()
    telemetry: tuple[Telemetry, ...] = ()
    gpu: str | None = None  # local: the GPUs of this machine
    prices: Prices | None = None


def load_config(path: str | Path) -> RunConfig:
    """Reads a YAML, TOML or JSON file, by its suffix.

    Checks keys and types; whether the whole can work is `validation.validate`'s question.
    Raises ConfigError that names the file, the full key, the value and what would be right.
    """
    path = Path(path)
    tree = _read(path)
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a configuration is a mapping of keys like target, load and workload")
    schema = tree.get("schema", CONFIG_SCHEMA)
    if schema != CONFIG_SCHEMA:
        raise ConfigError(f"{path}: {wrong('schema', schema, f'not known; this llmgen reads {CONFIG_SCHEMA}')}")
    try:
        return _build(tree)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _read(path: Path) -> Any:
    suffix = path.suffix.lower()
    if suffix not in (".yaml", ".yml", ".toml", ".json"):
        raise ConfigError(f"{path}: unknown kind of file {suffix!r}; the name ends in .yaml, .yml, .toml or .json")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    try:
        if suffix == ".toml":
            return tomllib.loads(text)
        if suffix == ".json":
            return json.loads(text, object_pairs_hook=no_duplicates)
    except ValueError as error:
        raise ConfigError(f"{path}: not valid {suffix[1:].upper()}: {error}") from None
    return _read_yaml(path, text)


def _read_yaml(path: Path, text: str) -> Any:
    try:
        import yaml
    except ImportError:
        raise ConfigError(
            f"{path}: reading YAML needs PyYAML; pip install 'llmgen[yaml]', or write the file as TOML or JSON"
        ) from None

    class Loader(yaml.SafeLoader):
        """SafeLoader keeps the last of two equal keys without a word; this one refuses."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            no_duplicates((repr(key), None) for key in keys)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None


def _build(tree: Mapping[str, Any]) -> RunConfig:
    """RunConfig of a tree of plain values, with what one key implies for another."""
    load = tree.get("load")
    if isinstance(load, Mapping):
        tree = {**tree, "load": _imply(load)}
    workload = tree.get("workload")
    if isinstance(workload, Mapping) and isinstance(workload.get("mix"), str):
        tree = {**tree, "workload": {**workload, "mix": ready_made(workload["mix"])}}
    config: RunConfig = decode(tree, RunConfig)
    return config


def ready_made(name: str) -> dict[str, Any]:
    """The classes of a ready-made mix. ConfigError for an unknown name."""
    if name not in MIXES:
        raise wrong("workload.mix", name, f"no ready-made mix; {closest(name, MIXES)}")
    return copy.deepcopy(MIXES[name])


_RAMP: Final = re.compile(r"\s*([0-9.e+]+)\s*\.\.\s*([0-9.e+]+)\s*")


def _imply(load: Mapping[str, Any]) -> dict[str, Any]:
    load = dict(load)
    ramp = _RAMP.fullmatch(load["rate"]) if isinstance(load.get("rate"), str) else None
    if ramp:
        if load.get("rate_to") is not None:
            raise wrong("load.rate", load["rate"], "names the end of the ramp, and so does load.rate_to; leave one out")
        load["rate"], load["rate_to"] = ramp.group(1), _number(ramp.group(2))
    if load.get("concurrency") is not None:
        arrival = load.setdefault("arrival", "closed")
        if arrival != "closed":
            raise wrong("load.arrival", arrival, "contradicts load.concurrency, which is a closed loop; leave one out")
    return load


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text  # decode says what is wrong with it


# Where the load comes from: a flag of one kind replaces what the file says of the others.
_SOURCES: Final = ("arrival", "rate", "rate_to", "concurrency", "stages", "trace")
# Flags that hold for every class of a mix, too: (section, key) and the key of the class.
_OVER_CLASSES: Final[Mapping[tuple[str, ...], str]] = {
    ("workload", "input"): "input",
    ("workload", "output"): "output",
    ("workload", "stream"): "stream",
    ("workload", "data", "file"): "data",
    ("workload", "prefix", "tokens"): "prefix",
    ("target", "model"): "model",
}
_ADDED: Final = frozenset({("target", "headers"), ("target", "query"), ("tags",), ("verdict",), ("workload", "body")})


def merge(config: RunConfig, flags: Mapping[str, Any]) -> RunConfig:
    """`config` with `flags` laid over it; the keys are dotted ("load.rate"), a value replaces what was there.

    Mappings (headers, query, tags, body) are merged key by key. A flag that says where load comes from (rate,
    concurrency, trace) replaces whatever the file says of that. What is said for the whole workload (lengths,
    streaming, model, body) holds for every class of a mix.
    Raises ConfigError as `load_config` does, and for flags that contradict each other.
    """
    if not flags:
        return config
    tree = plain(config)
    if isinstance(flags.get("workload.mix"), str):
        tree["workload"]["mix"] = plain_mix(flags["workload.mix"])
        flags = {key: value for key, value in flags.items() if key != "workload.mix"}
    load = tree["load"]
    if load["concurrency"] is not None and "load.arrival" not in flags:
        load["arrival"] = "closed"  # a struct made in Python may leave it at its default
    if any(key in flags for key in ("load.rate", "load.concurrency", "load.trace.file")):
        arrival = load["arrival"]
        tree["load"] = {key: value for key, value in load.items() if key not in _SOURCES}
        if arrival != "closed" and "load.rate" in flags and "load.concurrency" not in flags:
            tree["load"]["arrival"] = arrival
    classes: dict[str, dict[str, Any]] = tree["workload"]["mix"]
    for key, value in flags.items():
        parts = tuple(key.split("."))
        _put(tree, parts, value)
        if parts in (("workload", "input"), ("workload", "output")):
            for one in (tree["workload"], *classes.values()):
                one.pop("lengths", None)  # pairs would take the place of both
        for klass in classes.values():
            if parts in _OVER_CLASSES:
                klass.pop(_OVER_CLASSES[parts], None)
            elif parts == ("workload", "body"):
                klass["body"] = _over(klass["body"], value)
    return _build(tree)


def plain_mix(name: str) -> dict[str, Any]:
    """The classes of a ready-made mix with all their keys, as `plain` has them."""
    return {key: msgspec.to_builtins(decode(value, Klass)) for key, value in ready_made(name).items()}


def _put(tree: dict[str, Any], parts: tuple[str, ...], value: Any) -> None:
    inner = tree
    for part in parts[:-1]:
        if inner.get(part) is None:
            inner[part] = {}
        inner = inner[part]
    if parts in _ADDED and isinstance(value, Mapping):
        value = _over(inner.get(parts[-1], {}), value)
    inner[parts[-1]] = value


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`, mappings inside likewise; a null of `above` stays, it removes a field of the body."""
    merged = dict(below)
    for name, value in above.items():
        before = merged.get(name)
        merged[name] = _over(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return merged


def plain(config: RunConfig) -> dict[str, Any]:
    """`config` as dicts, tuples, strings and numbers, with the names of a file; `load_config` would read it back."""
    tree: dict[str, Any] = msgspec.to_builtins(config)
    return tree


HIDDEN: Final = "***"


def redact(config: RunConfig) -> dict[str, Any]:
    """`plain(config)` as run.json may show it: no literal credential, no argument of the command that prints one."""
    tree = plain(config)
    target = tree["target"]
    target["headers"] = {name: _redact_value(name, value) for name, value in target["headers"].items()}
    target["query"] = {name: _redact_value(name, value) for name, value in target["query"].items()}
    target["urls"] = [redact_url(url) for url in target["urls"]]
    if target["api_key_command"]:
        program, *rest = target["api_key_command"].split(None, 1)
        target["api_key_command"] = f"{program} {HIDDEN}" if rest else program
    for source in tree["telemetry"]:
        source["url"] = redact_url(source["url"])
        source["headers"] = {name: _redact_value(name, value) for name, value in source["headers"].items()}
    if tree["load"]["rate"] == math.inf:  # no JSON number
        tree["load"]["rate"] = "inf"
    return tree


def _redact_value(name: str, value: str) -> str:
    return HIDDEN if is_secret_name(name) and not is_reference(value) else value


def redact_url(url: str) -> str:
    """`url` without user, password and the values of query parameters that carry credentials."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return HIDDEN
    host = parts.netloc.rpartition("@")
    query = "&".join(
        f"{name}{equals}{HIDDEN if is_secret_name(name) and value else value}"
        for name, equals, value in (item.partition("=") for item in parts.query.split("&"))
    )
    netloc = f"{HIDDEN}@{host[2]}" if host[1] else parts.netloc
    return urlunsplit(parts._replace(netloc=netloc, query=query))
