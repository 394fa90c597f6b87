"""What servers answer while they load their model: the same request succeeds later, so it is no fault of the load.

llama.cpp answers 503 {"error": {"message": "Loading model", "type": "unavailable_error"}}, to all but the question for
its models; Hugging Face's endpoints 503 {"error": "Model … is currently loading", "estimated_time": 20.0}; others say
that a model is cold, or that the server is starting. vLLM and TGI do not listen before they can serve; SGLang's /health
is a 503 without a word until then.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

STATUSES: Final = frozenset({400, 409, 424, 425, 500, 502, 503, 504})
MOST_CHARACTERS: Final = 4096
SAYS_SO: Final = re.compile(
    r"\bloading\b.{0,40}\bmodel|\bmodel\b.{0,200}\b(loading|starting|warming up|not (yet )?(loaded|ready)|is cold)\b"
    r"|\b(server|engine)\b.{0,60}\b(is starting|still starting|not (yet )?ready|initiali[sz]ing|warming up)\b",
    re.IGNORECASE | re.DOTALL,
)
FAILED: Final = re.compile(r"\b(fail(ed|ure)?|error|cannot|could not|unable)\b.{0,40}\bload", re.IGNORECASE)
TEXT_KEYS: Final = ("error", "message", "detail", "title", "error_description")


def loading(status: int | None, body: bytes | str) -> str | None:
    """The server's words, if an answer says that the model is not loaded yet; else None."""
    if status not in STATUSES:
        return None
    said = words(body)
    return said if SAYS_SO.search(said) and not FAILED.search(said) else None


def words(body: bytes | str) -> str:
    """The message in an error's body, as the usual APIs write it; else the body's text without tags."""
    text = (body.decode("utf-8", "replace") if isinstance(body, bytes) else body)[:MOST_CHARACTERS]
    try:
        found = _message(json.loads(text))
    except (ValueError, RecursionError):
        found = None
    return " ".join((found if found is not None else re.sub(r"<[^>]*>", " ", text)).split())


def _message(document: Any, depth: int = 0) -> str | None:
    if isinstance(document, str):
        return document
    if not isinstance(document, dict) or depth > 2:
        return None
    for key in TEXT_KEYS:
        found = _message(document.get(key), depth + 1)
        if found:
            return found
    return None
