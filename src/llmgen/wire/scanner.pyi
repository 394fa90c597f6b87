import enum
from collections.abc import Sequence
from typing import Any, NamedTuple, final

from _typeshed import ReadableBuffer

from llmgen.wire.rules import Rule

class Error(ValueError): ...

class Kind(enum.IntFlag):
    text = 1
    reasoning = 2
    tool = 4
    role = 8
    finish = 16
    usage = 32
    error = 64

class Found(NamedTuple):
    kind: Kind
    text: str | None
    usage: dict[str, int] | None
    finish: str | None
    error: Any
    done: bool = False
    token_ids: int | None = None

@final
class Rules:
    dialect: str
    rules: tuple[Rule, ...]
    def __init__(self, dialect: str = "chat", rules: Sequence[Rule] | None = None) -> None: ...

@final
class Scanner:
    def __init__(
        self, dialect: str = "chat", rules: Rules | Sequence[Rule] | None = None, *, remember: bool = False
    ) -> None: ...
    def scan(self, data: ReadableBuffer | str) -> Found: ...
    @property
    def hit(self) -> bool: ...
