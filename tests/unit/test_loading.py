"""Which answers say that a model is still being loaded, in the shapes that servers have for it."""

from __future__ import annotations

import pytest

from llmgen.loading import loading, words


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (503, b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}'),  # llama.cpp
        (503, b'{"error":"Model org/name-7B is currently loading","estimated_time":20.0}'),  # Hugging Face
        (400, b'{"error":{"message":"This model is cold and not ready for inference","code":"cold"}}'),
        (503, b'{"detail":"The engine is still starting, try again later"}'),
        (503, b'{"message": "model is not yet loaded"}'),
        (503, b"<html><body><h1>503</h1>The server is not ready</body></html>"),
    ],
)
def test_a_loading_server_is_recognised(status: int, body: bytes) -> None:
    assert loading(status, body) == words(body)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b'{"error":{"message":"Loading model"}}'),
        (503, b'{"error":{"message":"The engine is currently overloaded, please try again later"}}'),
        (503, b'{"error":"Model is overloaded","error_type":"overloaded"}'),  # TGI
        (503, b"no healthy upstream"),
        (429, b'{"error":{"message":"queue full while loading model"}}'),
        (404, b'{"error":{"message":"The model `x` does not exist"}}'),
        (500, b'{"error":{"message":"failed to load model: out of memory; loading model x"}}'),
        (503, b""),
        (None, b""),
        (503, b"\xff\xfe{{{"),
        (503, b'{"error":{"error":{"error":{"error":"Loading model"}}}}' * 200),
    ],
)
def test_other_refusals_are_not(status: int | None, body: bytes) -> None:
    assert loading(status, body) is None


def test_words_of_an_error() -> None:
    assert words(b'{"error": {"message": "Loading  model\\n now"}}') == "Loading model now"
    assert words("<p>a</p> <b>b</b>") == "a b"
    assert words("[1, 2]") == "[1, 2]"
    assert words('"text"') == "text"
    assert words("[" * 100_000) == "[" * 4096
