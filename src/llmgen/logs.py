"""What the controller says while it works: plain lines, or with `--log-json` one JSON object a line."""

from __future__ import annotations

import json
import logging
import time
from typing import Final

log: Final = logging.getLogger("llmgen")


def set_up_log(as_json: bool, quiet: bool) -> None:
    handler = logging.StreamHandler()
    if as_json:
        handler.setFormatter(JsonLines())
    else:
        handler.setFormatter(logging.Formatter("llmgen: %(message)s"))
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(logging.WARNING if quiet and not as_json else logging.INFO)


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, message, and what was given as `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        row = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
        }
        return json.dumps({**row, "message": record.getMessage(), **getattr(record, "fields", {})})
