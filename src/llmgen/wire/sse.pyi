from collections.abc import Iterable
from typing import NamedTuple, final

from _typeshed import ReadableBuffer

class Error(ValueError):
    events: list[Event]
    def __init__(self, message: str, events: Iterable[Event] = ...) -> None: ...

class Event(NamedTuple):
    type: str
    data: str
    id: str = ""
    retry: int | None = None
    t_ns: int = 0

@final
class Parser:
    def __init__(self, max_event_bytes: int = ...) -> None: ...
    def feed(self, data: ReadableBuffer, t_ns: int = 0) -> list[Event]: ...
    def close(self) -> bool: ...
