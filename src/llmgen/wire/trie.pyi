from collections.abc import Sequence
from typing import final

from llmgen.wire.rules import Rule

@final
class Rules:
    dialect: str
    rules: tuple[Rule, ...]
    def __init__(self, dialect: str = "chat", rules: Sequence[Rule] | None = None) -> None: ...
