"""Prompts of one's own: messages, ShareGPT conversations, lines of text, columns of CSV and Parquet.

    messages   JSON lines {"messages": [{"role": …, "content": …}, …]} or {"prompt": "…"}; an answer length may stand in
               "max_tokens" or "output_tokens"
    sharegpt   one JSON array of {"conversations": [{"from": "human" | "gpt", "value": "…"}, …]}: what comes before the
               first answer is the prompt, the answer's words are the length asked for
    text       one prompt a line
    csv        a column of prompts, perhaps one of answer lengths
    parquet    likewise (extra `parquet`); a column of messages works, too

Each prompt lies once in static.bin. Lengths are words, or tokens where a local tokenizer is given.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from llmgen.config import Data
from llmgen.decoding import closest
from llmgen.draws import generator
from llmgen.errors import ConfigError
from llmgen.plan import SOURCE_SEGMENT, SOURCE_STATIC, SPAN_DTYPE, StaticBytes
from llmgen.workload.prompts import Parts, SyntheticPrompts, interleaved

Ints = NDArray[np.int64]
Count = Callable[[str], int]

SUFFIXES: Final = {
    ".jsonl": "messages",
    ".ndjson": "messages",
    ".json": "sharegpt",
    ".txt": "text",
    ".csv": "csv",
    ".parquet": "parquet",
}
PROMPT_COLUMNS: Final = ("prompt", "question", "text", "text_input", "input", "messages")
ROLES: Final = {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "system": "system"}
_SPACE: Final = re.compile(r"[ \t\r\n]*")
CHUNK_CHARS: Final = 1 << 20
MAX_NUMBER_CHARS: Final = 400  # no double is written longer
MAX_RECORD_CHARS: Final = 64 << 20
MAX_BYTES: Final = 4 << 30  # of all prompts: the disk that a plan may take
MAX_OUTPUT: Final = 1 << 22
FIELD_CHARS: Final = 16 << 20  # csv's own limit is 128 KB


@dataclass(frozen=True)
class Record:
    """One prompt: text, or messages as an API takes them; and the answer length that comes with it, if one does."""

    prompt: str | list[Any]
    output: int | None = None

    @property
    def text(self) -> str:
        """All text of it, for counting and for APIs that take no messages."""
        return self.prompt if isinstance(self.prompt, str) else "\n\n".join(_texts(self.prompt))


def _texts(messages: list[Any]) -> Iterator[str]:
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, str):
            yield content
        elif isinstance(content, list):
            for part in content:
                if isinstance(part, dict) and isinstance(part.get("text"), str):
                    yield part["text"]


class _Source:
    """Names the file and the record in errors."""

    def __init__(self, data: Data, key: str) -> None:
        self.path = Path(data.file).expanduser()
        self.data = data
        self.key = key

    def refuse(self, where: str, why: str) -> ConfigError:
        return ConfigError(f"{self.key}.file={self.data.file!r}: {where}: {why}")


def records(data: Data, key: str) -> Iterator[Record]:
    """The file's records, at most `limit`. ConfigError naming the record that is broken and what was expected."""
    source = _Source(data, key)
    kind = format_of(data, key)
    if not source.path.is_file():
        raise ConfigError(f"{key}.file={data.file!r}: no such file")
    try:
        for number, record in enumerate(_READERS[kind](source)):
            if data.limit is not None and number >= data.limit:
                return
            yield record
    except UnicodeDecodeError as error:
        raise ConfigError(f"{key}.file={data.file!r}: is not UTF-8: {error}") from None
    except OSError as error:
        raise ConfigError(f"{key}.file={data.file!r}: cannot be read: {error.strerror or error}") from None


def format_of(data: Data, key: str) -> str:
    """The format that is named, or that the file's name tells. ConfigError."""
    if data.limit is not None and data.limit < 1:
        raise ConfigError(f"{key}.limit={data.limit}: must be at least 1")
    if data.order not in ("sequential", "shuffled"):
        raise ConfigError(f"{key}.order={data.order!r}: unknown; write sequential or shuffled")
    if data.format in _READERS:
        return data.format
    if data.format != "auto":
        raise ConfigError(f"{key}.format={data.format!r}: unknown; {closest(data.format, ['auto', *_READERS])}")
    kind = SUFFIXES.get(Path(data.file).suffix.lower())
    if kind is None:
        raise ConfigError(
            f"{key}.file={data.file!r}: its name does not tell what it holds; name it with {key}.format "
            f"(--data-format): {', '.join(_READERS)}"
        )
    return kind


def _messages(source: _Source) -> Iterator[Record]:
    with source.path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise source.refuse(where, f"no JSON: {error}") from None
            if not isinstance(row, dict):
                raise source.refuse(where, 'expected {"messages": […]} or {"prompt": "…"}')
            prompt = row.get("messages", row.get("prompt"))
            output = row.get("output_tokens", row.get("max_tokens"))
            yield _record(prompt, output, where, source)


def _record(prompt: Any, output: Any, where: str, source: _Source) -> Record:
    if isinstance(prompt, list):
        for message in prompt:
            if not isinstance(message, dict) or not isinstance(message.get("role"), str) or "content" not in message:
                raise source.refuse(where, 'a message must be {"role": "user", "content": "…"}')
    elif not isinstance(prompt, str):
        raise source.refuse(where, f"its prompt is {type(prompt).__name__}, not text and no list of messages")
    if not prompt:
        raise source.refuse(where, "its prompt is empty")
    return Record(prompt, _output(output, where, source))


def _output(value: Any, where: str, source: _Source) -> int | None:
    if value is None or value == "":
        return None
    try:
        number = int(value)
    except (ValueError, TypeError, OverflowError):
        number = 0
    if isinstance(value, bool) or not 1 <= number <= MAX_OUTPUT:
        raise source.refuse(where, f"its answer length is {str(value)[:40]!r}, not a whole number above 0")
    return number


def _sharegpt(source: _Source) -> Iterator[Record]:
    """Conversations that begin with an answer, or have none, are passed over."""
    with source.path.open(encoding="utf-8") as file:
        for number, item in enumerate(array_items(file, source), 1):
            turns = item.get("conversations") if isinstance(item, dict) else None
            if not isinstance(turns, list):
                raise source.refuse(
                    f"record {number}", 'expected {"conversations": [{"from": "human", "value": "…"}, …]}'
                )
            messages: list[dict[str, str]] = []
            for turn in turns:
                if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
                    raise source.refuse(f"record {number}", 'a turn must be {"from": "human" or "gpt", "value": "…"}')
                role = ROLES.get(str(turn.get("from")), "user")
                if role == "assistant":
                    if messages and messages[-1]["content"]:
                        words = min(max(1, len(turn["value"].split())), MAX_OUTPUT)
                        yield Record(messages, words)
                    break
                messages.append({"role": role, "content": turn["value"]})


def array_items(file: IO[str], source: _Source) -> Iterator[Any]:
    """The items of one JSON array, one at a time: a file of any size needs the memory of one of them."""
    decoder = json.JSONDecoder()
    held, at, number, ended, opened = "", 0, 0, False, False
    while True:
        at = _SPACE.match(held, at).end()  # type: ignore[union-attr]  # an empty match is one
        if at < len(held):
            if not opened:
                if held[at] != "[":
                    raise source.refuse("its beginning", "no JSON array of conversations")
                opened, at = True, at + 1
                continue
            if held[at] == "]":
                return
            try:
                item, end = decoder.raw_decode(held, at)
            except (ValueError, RecursionError) as error:
                if ended or len(held) - at > MAX_RECORD_CHARS:
                    raise source.refuse(f"record {number + 1}", f"no JSON: {error}") from None
            else:
                end = _SPACE.match(held, end).end()  # type: ignore[union-attr]
                if held[end : end + 1] in (",", "]"):
                    number += 1
                    yield item
                    at = end + (held[end] == ",")
                    continue
                # "2" may be the beginning of "2.5": only more of the file tells.
                if end < len(held) and (ended or len(held) - end > MAX_NUMBER_CHARS):
                    raise source.refuse(f"record {number + 1}", "not followed by a comma or the array's end")
        if ended:
            raise source.refuse(f"record {number + 1}", "the array ends in the middle of the file")
        # At least doubling, so that a long record is not parsed again for every chunk.
        chunk = file.read(max(CHUNK_CHARS, len(held) - at))
        ended = not chunk
        held, at = held[at:] + chunk, 0


def _text(source: _Source) -> Iterator[Record]:
    with source.path.open(encoding="utf-8") as file:
        for line in file:
            text = line.strip()
            if text:
                yield Record(text)


def _csv(source: _Source) -> Iterator[Record]:
    limit = csv.field_size_limit(FIELD_CHARS)
    try:
        with source.path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            names = list(rows.fieldnames or ())
            column, output = _columns(names, source)
            for number, row in enumerate(rows, 1):
                yield _record(row[column], row[output] if output else None, f"row {number}", source)
    except csv.Error as error:
        raise source.refuse("a row", f"no CSV: {error}") from None
    finally:
        csv.field_size_limit(limit)


def _columns(names: list[str], source: _Source) -> tuple[str, str | None]:
    """The columns of prompts and of answer lengths."""
    column, output = source.data.column, source.data.output_column
    for key, name in (("column", column), ("output_column", output)):
        if name is not None and name not in names:
            raise ConfigError(f"{source.key}.{key}={name!r}: no such column; {closest(name, names)}")
    if column is None:
        found = [name for name in PROMPT_COLUMNS if name in names] or (names if len(names) == 1 else [])
        if not found:
            raise ConfigError(f"{source.key}.column: which one holds the prompts? There are {', '.join(names)[:200]}")
        column = found[0]
    return column, output


def _parquet(source: _Source) -> Iterator[Record]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError:
        raise ConfigError(f"{source.key}.file: reading Parquet needs pyarrow; pip install 'llmgen[parquet]'") from None
    try:
        file = parquet.ParquetFile(source.path)
        column, output = _columns(file.schema_arrow.names, source)
        number = 0
        for batch in file.iter_batches(batch_size=1024, columns=[column, output] if output else [column]):
            outputs = batch.column(output).to_pylist() if output else [None] * batch.num_rows
            for prompt, length in zip(batch.column(column).to_pylist(), outputs, strict=True):
                number += 1
                yield _record(prompt, length, f"row {number}", source)
    except ArrowInvalid as error:
        raise source.refuse("the file", f"no Parquet: {error}") from None


_READERS: Final[dict[str, Callable[[_Source], Iterator[Record]]]] = {
    "messages": _messages,
    "sharegpt": _sharegpt,
    "text": _text,
    "csv": _csv,
    "parquet": _parquet,
}


class Dataset:
    """The prompts of one class, in static.bin as the values of the body's prompt field.

    `messages`: whether the API takes messages; else the prompt is one text. `system`: whether one of them may be the
    system's.
    """

    def __init__(
        self,
        data: Data,
        key: str,
        prompts: SyntheticPrompts,
        static: StaticBytes,
        *,
        messages: bool,
        system: bool,
        count: Count | None,
    ) -> None:
        self._prompts, self._data = prompts, data
        self._cut: list[tuple[int, int, int, int]] = []  # offset and size up to the text, and from there on
        lengths, outputs = [], []
        total = 0
        for number, record in enumerate(records(data, key), 1):
            before, after = _value(record, messages)
            roles = [m["role"] for m in record.prompt] if isinstance(record.prompt, list) else []
            if messages and not system and "system" in roles:
                raise ConfigError(
                    f"{key}.file={data.file!r}: record {number} has a system message, which this API takes in a field "
                    "of its own; take it out and add it with --body"
                )
            if data.unique and messages and not before.endswith(b'"'):
                raise ConfigError(
                    f"{key}.unique: record {number} begins with a list of parts, before which no word can be put"
                )
            self._cut.append((static.add(before), len(before), static.add(after), len(after)))
            lengths.append(count(record.text) if count else len(record.text.split()))
            outputs.append(record.output or -1)
            total += len(before) + len(after)
            if total > MAX_BYTES:
                raise ConfigError(
                    f"{key}.file={data.file!r}: more than {MAX_BYTES >> 30} GB of prompts; set {key}.limit"
                )
        if not self._cut:
            raise ConfigError(f"{key}.file={data.file!r}: holds no prompt")
        self._table = np.array(self._cut, np.int64)
        self._lengths = np.maximum(np.array(lengths, np.int64), 1)
        self._outputs = np.array(outputs, np.int64)

    def __len__(self) -> int:
        return len(self._table)

    @property
    def mean_input(self) -> float:
        return float(self._lengths.mean())

    def chosen(self, index: Ints) -> Ints:
        """The records of these requests: one after the other, again from the start, or each round shuffled."""
        size = len(self)
        place = index % size
        if self._data.order == "sequential":
            return np.asarray(place)
        found = np.empty(len(index), np.int64)
        rounds = index // size
        for number in np.unique(rounds).tolist():
            mine = rounds == number
            found[mine] = generator(self._prompts.seed, "data order", int(number)).permutation(size)[place[mine]]
        return found

    def lengths(self, index: Ints) -> tuple[Ints, Ints]:
        """Input lengths and the answer lengths that come with the records, -1 where none does."""
        chosen = self.chosen(index)
        extra = self._prompts.vocabulary.head_words if self._data.unique else 0
        return self._lengths[chosen] + extra, self._outputs[chosen]

    def build(self, first: int, rows: Ints, lengths: Ints) -> Parts:
        """The prompts of requests first + rows, as JSON values."""
        table = self._table[self.chosen(first + rows)]
        ones = np.ones(len(rows), np.int64)
        before, after = np.empty(len(rows), SPAN_DTYPE), np.empty(len(rows), SPAN_DTYPE)
        before["offset"], before["size"], before["source"] = table[:, 0], table[:, 1], SOURCE_STATIC
        after["offset"], after["size"], after["source"] = table[:, 2], table[:, 3], SOURCE_STATIC
        if not self._data.unique:
            return Parts(*interleaved([(before, ones), (after, ones)]), np.empty(0, np.uint8))
        # The space stands behind the word here: what follows is the user's text.
        own = np.roll(self._prompts.vocabulary.beginnings(self._prompts.seed, first + rows), -1, axis=1)
        word = np.empty(len(rows), SPAN_DTYPE)
        word["offset"], word["size"] = np.arange(len(rows)) * own.shape[1], own.shape[1]
        word["source"] = SOURCE_SEGMENT
        return Parts(*interleaved([(before, ones), (word, ones), (after, ones)]), own.ravel())


def _value(record: Record, messages: bool) -> tuple[bytes, bytes]:
    """The JSON value of a prompt, cut where its first text begins."""
    if not messages:
        return b'"', _json(record.text)[1:]
    listed = [{"role": "user", "content": record.prompt}] if isinstance(record.prompt, str) else record.prompt
    first = listed[0]
    if isinstance(first.get("content"), str):
        # The first message's content is put last in it, so that the cut is easy to find.
        content = _json(first["content"])
        rest = {name: value for name, value in first.items() if name != "content"}
        head = b"[" + _json(rest)[:-1] + b',"content":"'
        tail = content[1:] + b"}" + b"".join(b"," + _json(message) for message in listed[1:]) + b"]"
        return head, tail
    return b"[", b",".join(_json(message) for message in listed) + b"]"


def _json(value: Any) -> bytes:
    # A lone surrogate, which JSON text may hold as an escape, is written as one again.
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()
