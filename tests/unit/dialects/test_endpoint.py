"""The path that requests are sent to."""

import pytest

from llmgen.dialects import endpoint_path
from llmgen.errors import ConfigError

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("url_path", "expected"),
    [
        ("", CHAT),
        ("/", CHAT),
        ("/v1", CHAT),
        ("/v1/", CHAT),
        ("/openai/v1", "/openai/v1/chat/completions"),
        ("/v1/chat/completions", CHAT),
        ("/generate", "/generate"),
        ("/v1beta", "/v1beta"),
        ("/notv1", "/notv1"),
        ("?key=1", CHAT + "?key=1"),
        ("/v1?a=1&b=2", CHAT + "?a=1&b=2"),
        ("/a b/ü", "/a%20b/%C3%BC"),
        ("/a%20b", "/a%20b"),
        ("/x#fragment", "/x"),
    ],
)
def test_url(url_path, expected):
    assert endpoint_path(url_path, CHAT) == expected


def test_override_and_query():
    azure = "/openai/deployments/d/chat/completions"
    assert endpoint_path("/v1?x=1", CHAT, azure, {"api-version": "2024-10-21"}) == azure + "?api-version=2024-10-21"
    assert endpoint_path("", CHAT, "generate") == "/generate"
    assert endpoint_path("", CHAT, "/v1") == "/v1"  # as it is
    assert endpoint_path("/x?a=1", CHAT, None, {"b": "c d&"}) == "/x?a=1&b=c+d%26"


@pytest.mark.parametrize("path", ["/a\r\nX: y", "/\x00", "/\x7f"])
def test_no_control_character_reaches_a_request_line(path):
    with pytest.raises(ConfigError, match="control character"):
        endpoint_path(path, CHAT)
    with pytest.raises(ConfigError, match="control character"):
        endpoint_path("", CHAT, path)
