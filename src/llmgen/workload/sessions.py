"""Conversations of several turns: `workload.sessions`.

Sessions begin when the load's arrivals say; a turn follows its former one's end after a think time, which the core
does. Turns of a session are adjacent rows of one segment. A turn's prompt is the JSON list of all messages so far: each
message's spans lie once in one array in the order of the rows, and a body is a contiguous run of it, from the session's
first message to the turn's own. What the server answered stands there as a span that the core fills.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llmgen.config import RunConfig
from llmgen.config import Sessions as SessionsConfig
from llmgen.dialects import Dialect
from llmgen.draws import generator, normals, uniforms
from llmgen.durations import parse_duration
from llmgen.errors import ConfigError
from llmgen.plan import DYNAMIC, SOURCE_ANSWER, SOURCE_STATIC, SPAN_DTYPE, Spans, StaticBytes
from llmgen.workload.lengths import MAX_LENGTH, Length, parse_length
from llmgen.workload.mix import Draws, Mix, RequestClass
from llmgen.workload.prompts import POOL_WORDS, Ints, Parts, SyntheticPrompts, interleaved, places

KEY: Final = "workload.sessions"
NS: Final = 1_000_000_000
# A turn's body has some five spans a former turn, so that a session has 5 * 256^2 / 2 of them, 2.6 MB.
MAX_TURNS: Final = 256
MAX_THINK_S: Final = 86_400.0
HISTORIES: Final = ("real", "recorded", "none")
ROLES: Final = ("user", "tool")
THINK_FORMS: Final = "a duration like 2s, or uniform:A,B, normal:M,S, lognormal:M,S, exponential:M of durations"
_OPEN: Final = b'[{"role":"user","content":"'
_CLOSE: Final = b'"}]'


@dataclass(frozen=True)
class Think:
    """A parsed distribution of think times: `seconds` maps uniform or normal deviates to seconds."""

    deviate: str  # none | uniform | normal
    seconds: Callable[[NDArray[np.float64]], NDArray[np.float64]]


def parse_think(value: str | float, key: str = f"{KEY}.think") -> Think:
    """The distribution that stands at `key`. ConfigError with key, value and cure."""
    text = str(value).strip()
    name, colon, arguments = text.partition(":")
    texts = arguments.split(",") if colon else [text]
    if colon and len(texts) != {"uniform": 2, "normal": 2, "lognormal": 2, "exponential": 1}.get(name):
        raise ConfigError(f"{key}={text!r}: unknown; write {THINK_FORMS}")
    try:
        numbers = [parse_duration(one) for one in texts]
    except ValueError:
        raise ConfigError(f"{key}={text!r}: no durations; write {THINK_FORMS}") from None
    if max(numbers) > MAX_THINK_S:
        raise ConfigError(f"{key}={text!r}: must be at most {MAX_THINK_S:g} s")
    a, b = numbers[0], numbers[-1]
    if not colon:
        return Think("none", lambda d: np.full(len(d), a))
    if name == "uniform":
        if a > b:
            raise ConfigError(f"{key}={text!r}: the shortest is above the longest; write uniform:{texts[1]},{texts[0]}")
        return Think("uniform", lambda u: a + (b - a) * u)
    if name == "normal":
        return Think("normal", lambda z: np.clip(a + b * z, 0, MAX_THINK_S))
    if name == "exponential":
        return Think("uniform", lambda u: np.minimum(-a * np.log1p(-u), MAX_THINK_S))
    if a == 0:
        raise ConfigError(f"{key}={text!r}: the mean must be above 0")
    variance = float(np.log1p((b / a) ** 2))  # of the logarithm
    mu, sigma = float(np.log(a)) - variance / 2, variance**0.5
    return Think("normal", lambda z: np.minimum(np.exp(np.minimum(mu + sigma * z, 700.0)), MAX_THINK_S))


def check_sessions(config: RunConfig, dialect: Dialect) -> None:
    """ConfigError for sessions that cannot be held as configured; nothing without sessions."""
    sessions, workload, load = config.workload.sessions, config.workload, config.load
    if sessions is None:
        return
    if dialect.prompt_field != "messages":
        raise ConfigError(
            f"{KEY}: target.api={dialect.name!r} takes no list of messages; use chat, messages or ollama (--api)"
        )
    if load.trace is not None:
        raise ConfigError(f"{KEY}: a trace brings its own requests; leave one out")
    if load.normalize:
        raise ConfigError(f"{KEY}: load.normalize counts requests, and sessions have several; leave it out")
    for name in ("prefix", "data", "lengths", "correlation"):
        if getattr(workload, name) or any(getattr(klass, name) for klass in workload.mix.values()):
            raise ConfigError(f"{KEY}: does not go with {name}; leave one out (what is shared: {KEY}.system)")
    if sessions.history not in HISTORIES:
        raise ConfigError(f"{KEY}.history={sessions.history!r}: unknown; use {', '.join(HISTORIES)}")
    if sessions.role not in ROLES:
        raise ConfigError(f"{KEY}.role={sessions.role!r}: unknown; use {' or '.join(ROLES)}")
    if sessions.role == "tool" and (dialect.name != "chat" or sessions.history == "none"):
        raise ConfigError(f"{KEY}.role='tool': needs target.api chat and a history")
    if not 0 <= sessions.system <= MAX_LENGTH:
        raise ConfigError(f"{KEY}.system={sessions.system}: must be from 0 to {MAX_LENGTH}")
    parse_length(sessions.turns, f"{KEY}.turns")
    parse_think(sessions.think)
    _own_lengths(sessions)


def _own_lengths(sessions: SessionsConfig) -> dict[str, Length | None]:
    told = {"first_input": sessions.first_input, "input": sessions.input, "output": sessions.output}
    return {name: None if value is None else parse_length(value, f"{KEY}.{name}") for name, value in told.items()}


@dataclass(frozen=True)
class SessionRows:
    """What makes turns of rows, beside what was drawn of them; arrays (rows,), turns of a session adjacent."""

    session: Ints
    turn: Ints
    think: Ints  # ns between the end of the turn before and this one's due; 0 for first turns
    begin: Ints  # due time of the session's first turn, ns
    input: Ints  # tokens of this turn's own message
    answer: Ints  # tokens that its answer is planned to have, 0 if that is not known

    @property
    def due(self) -> Ints:
        """For the plan: of first turns; DYNAMIC for those that follow."""
        return np.where(self.turn == 0, self.begin, DYNAMIC)

    def expected_due(self, ttft_s: float, itl_s: float) -> Ints:
        """When turns are due, ns, if every answer takes as long as these say."""
        service = np.rint((ttft_s + itl_s * np.maximum(self.answer - 1, 0)) * NS).astype(np.int64)
        before = np.concatenate([[0], service[:-1]]) * (self.turn > 0) + self.think
        return self.begin + within(before, self.turn)


def within(values: Ints, turn: Ints) -> Ints:
    """Sums of `values` from the first turn of each row's session up to and with the row."""
    upto = np.cumsum(values)
    first = np.arange(len(turn)) - turn
    return np.asarray(upto - (upto[first] - values[first]))


class SessionDraws:
    """Draws turns, think times and lengths, keyed by (seed, purpose, number of the session or of the row)."""

    def __init__(self, config: RunConfig, classes: list[RequestClass], mix: Mix, template_tokens: int) -> None:
        sessions = config.workload.sessions
        assert sessions is not None
        self._config, self._classes, self._mix, self._seed = sessions, classes, mix, config.seed
        self._template = template_tokens
        self._turns = parse_length(sessions.turns, f"{KEY}.turns")
        self._think = parse_think(sessions.think)
        self._lengths = _own_lengths(sessions)
        self.begun = 0  # sessions so far
        self.rows = 0

    def sessions_for(self, rows: int) -> int:
        """So many sessions as make about `rows` rows; fewer if they are long, for the sake of their spans."""
        mean = min(self._turns.mean, float(MAX_TURNS))
        return max(1, int(rows / (mean * max(1.0, mean / 8))))

    def draw(self, begin: Ints, most: int | None) -> tuple[Draws, SessionRows]:
        """The rows of sessions that begin then, `most` at most: the last one may be cut short."""
        count, first = len(begin), self.rows
        turns = np.minimum(
            self._turns.values(self._deviates("turns", self._turns.deviate, self.begun, count)), MAX_TURNS
        )
        drawn = self._mix.draw(self.begun, count)
        number = np.repeat(np.arange(count), turns)
        turn = np.arange(len(number)) - np.repeat(np.cumsum(turns) - turns, turns)
        if most is not None:
            number, turn = number[:most], turn[:most]
        rows, klass, frame = len(number), drawn.klass[number], drawn.frame[number]
        think = self._think.seconds(self._deviates("think", self._think.deviate, first, rows))
        inputs = np.where(turn == 0, self._drawn("first_input", klass, rows), self._drawn("input", klass, rows))
        outputs = self._drawn("output", klass, rows)
        for place, fixed in enumerate(self._mix.frames):
            if not fixed.asks_output:
                outputs[frame == place] = fixed.output
        answers = np.maximum(outputs, 0)
        whole = inputs
        if self._config.history != "none":
            whole = within(inputs + answers, turn) - answers
        found = SessionRows(
            session=self.begun + number,
            turn=turn,
            think=np.where(turn == 0, 0, np.rint(think * NS)).astype(np.int64),
            begin=begin[number],
            input=inputs,
            answer=answers,
        )
        self.begun += int(number[-1]) + 1 if rows else 0
        self.rows += rows
        return Draws(klass, frame, whole + self._config.system + self._template, outputs), found

    def _drawn(self, what: str, klass: NDArray[np.uint16], count: int) -> Ints:
        """Lengths of one kind: the sessions' own distribution, else that of each row's class."""
        found = np.empty(count, np.int64)
        own = self._lengths[what]
        for number, one in enumerate(self._classes):
            length = own or (one.output if what == "output" else one.input)
            rows = np.flatnonzero(klass == number)
            found[rows] = length.values(self._deviates(what, length.deviate, self.rows, count)[rows])
        return found

    def _deviates(self, what: str, kind: str, first: int, count: int) -> NDArray[np.float64]:
        if kind == "none":
            return np.zeros(count)
        source = uniforms if kind == "uniform" else normals
        return source(self._seed, f"session {what} {kind}", first, count)


class SessionPrompts:
    """Puts what all sessions share into the static bytes; then makes the lists of messages of rows."""

    def __init__(self, config: RunConfig, dialect: Dialect, prompts: SyntheticPrompts, static: StaticBytes) -> None:
        sessions = config.workload.sessions
        assert sessions is not None
        self._prompts, self._history = prompts, sessions.history
        opening = _OPEN
        if sessions.system:
            text = _system_text(prompts, sessions.system)
            # Anthropic's API has no system message: there the first message of the user begins with it.
            between = b" " if dialect.name == "messages" else b'"},{"role":"user","content":"'
            role = b"user" if dialect.name == "messages" else b"system"
            opening = b'[{"role":"%s","content":"' % role + text + between
        self._open, self._close = _static(static, opening), _static(static, _CLOSE)
        self._said = _static(static, b'"},{"role":"assistant","content":"')
        # What stands between an answer and the next message; behind a call of a tool by the number of the turn.
        replies = [b'"},{"role":"user","content":"']
        if sessions.role == "tool":
            replies = [_tool_reply(turn) for turn in range(MAX_TURNS)]
        self._replies = np.concatenate([_static(static, one) for one in replies])

    def build(self, first: int, rows: SessionRows) -> Parts:
        """The value of the field that takes the messages, of rows first, first + 1 …"""
        count, turn = len(rows.turn), rows.turn
        starts = self._prompts.starts(first, count)
        index = np.arange(first, first + count)
        own = self._prompts.opened(index, starts, rows.input, spaced=False)
        once = np.ones(count, np.int64)
        opens, closes = np.repeat(self._open, count), np.repeat(self._close, count)
        begin = np.cumsum(own.counts) - own.counts
        flat, ends, origin = own.spans, begin + own.counts, begin
        if self._history != "none":
            answers, answer_counts = self._answers(first, rows)
            reply = self._replies[np.minimum(turn, len(self._replies) - 1)]
            said = np.repeat(self._said, count)
            parts = [(own.spans, own.counts), (said, once), (answers, answer_counts), (reply, once)]
            flat, counts = interleaved(parts)
            begin = np.cumsum(counts) - counts
            ends, origin = begin + own.counts, begin[np.arange(count) - turn]
        body = flat[places(origin, ends - origin)]
        spans, counts = interleaved([(opens, once), (body, ends - origin), (closes, once)])
        return Parts(spans, counts, own.own)

    def _answers(self, first: int, rows: SessionRows) -> tuple[Spans, Ints]:
        """What stands for each row's answer: the real one, or words of the pool in the number that was planned."""
        if self._history == "recorded":
            starts = uniforms(self._prompts.seed, "session answer", first, len(rows.turn)) * POOL_WORDS
            return self._prompts.text_from(starts.astype(np.int64), rows.answer)
        spans = np.zeros(len(rows.turn), SPAN_DTYPE)
        spans["offset"], spans["source"] = rows.turn, SOURCE_ANSWER
        return spans, np.ones(len(spans), np.int64)


def _static(static: StaticBytes, data: bytes) -> Spans:
    return np.array([(static.add(data), len(data), SOURCE_STATIC)], SPAN_DTYPE)


def _tool_reply(turn: int) -> bytes:
    """Makes the answer of a turn a call of a tool and begins the tool's result. Ids of nine letters and digits: the
    templates of some models take no others."""
    return (
        b'","tool_calls":[{"id":"call%05d","type":"function","function":{"name":"step","arguments":"{}"}}]},'
        b'{"role":"tool","tool_call_id":"call%05d","content":"' % (turn, turn)
    )


def _system_text(prompts: SyntheticPrompts, tokens: int) -> bytes:
    """Exactly so many words, the same in every session."""
    vocabulary = prompts.vocabulary
    opening = min(tokens, vocabulary.head_words)
    head = vocabulary.beginnings(prompts.seed, np.zeros(1, np.int64), "session system")[0, 1:].tobytes().decode()
    chosen = generator(prompts.seed, "session system", 0).integers(0, len(vocabulary.words), tokens - opening)
    return " ".join([*head.split(" ")[:opening], *(vocabulary.words[i] for i in chosen)]).encode()
