"""From a target's URL to the path that requests are sent to (docs/contract.md, `--url`, `--path`, `--query`)."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, urlencode

from llmgen.errors import ConfigError

# What RFC 3986 lets stand in a path or query; "%" because the user's own escapes are kept.
_KEPT = "/:@!$&'()*+,;=~-._%"


def endpoint_path(url_path: str, path: str, override: str | None = None, query: Mapping[str, str] | None = None) -> str:
    """Request target (RFC 9112, 3.2.1) for a URL's path (with its query, if it has one) and a dialect's `path`.

    No path: the dialect's. Ending in its version (/v1): the endpoint is appended. Anything else is a full endpoint and
    is used as it is. `override` replaces path and query of the URL. `query` is appended.
    """
    if override is not None:
        url_path = override if override.startswith("/") else "/" + override
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in url_path):
        raise ConfigError(f"target path {url_path!r}: holds a control character; write it percent-encoded")
    base, _, own_query = url_path.partition("#")[0].partition("?")
    if override is None:
        version, _, endpoint = path.lstrip("/").partition("/")
        if base in ("", "/"):
            base = path
        elif base.rstrip("/").endswith("/" + version):
            base = f"{base.rstrip('/')}/{endpoint}"
    parts = [quote(own_query, safe=_KEPT + "?")] if own_query else []
    if query:
        parts.append(urlencode(query))
    return quote(base, safe=_KEPT) + ("?" + "&".join(parts) if parts else "")
