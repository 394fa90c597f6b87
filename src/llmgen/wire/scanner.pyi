from collections.abc import Sequence
from typing import final

from _typeshed import ReadableBuffer

from llmgen.wire.found import Found as Found
from llmgen.wire.found import Kind as Kind
from llmgen.wire.rules import Rule
from llmgen.wire.trie import Rules as Rules

class Error(ValueError): ...

@final
class Scanner:
    @property
    def hits(self) -> int: ...
    def __init__(
        self, dialect: str = "chat", rules: Rules | Sequence[Rule] | None = None, *, remember: bool = False
    ) -> None: ...
    def scan(self, data: ReadableBuffer | str) -> Found: ...
