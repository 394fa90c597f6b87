from typing import TypedDict

class Asked(TypedDict):
    max_tokens: int
    min_tokens: int
    input_tokens: int
    stream: bool
    include_usage: bool
    continuous_usage: bool
    ignore_eos: bool
    model: bytes

def read(data: bytes, chat: bool = True) -> Asked | int: ...
