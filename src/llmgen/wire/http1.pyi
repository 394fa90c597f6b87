from typing import Literal, TypeAlias, final

from _typeshed import ReadableBuffer

_Fields: TypeAlias = list[tuple[bytes, bytes]]
_Event: TypeAlias = (
    tuple[Literal["head"], int, _Fields]
    | tuple[Literal["data"], bytes]
    | tuple[Literal["trailers"], _Fields]
    | tuple[Literal["end"], bool]
)

class Error(Exception):
    events: list[_Event]
    def __init__(self, reason: str, events: list[_Event]) -> None: ...

@final
class Parser:
    def __init__(self, *, method: bytes = b"GET", max_head_bytes: int = 65536) -> None: ...
    def feed(self, data: ReadableBuffer) -> list[_Event]: ...
    def eof(self) -> list[_Event]: ...
