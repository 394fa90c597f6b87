"""Bodies of a production log, sent again with what the configuration lays over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from llmgen.config import RunConfig
from llmgen.dialects import Dialect
from llmgen.dialects.frame import compose, merge
from llmgen.plan import SOURCE_SEGMENT, SPAN_DTYPE
from llmgen.workload.bodies import Bodies
from llmgen.workload.mix import Draws, RequestClass


class LogBodies:
    """Lays over each logged body: whether it is streamed, the model if one is configured, and `body:`."""

    def __init__(self, config: RunConfig, dialect: Dialect, classes: Sequence[RequestClass]) -> None:
        self._patches = []
        mix, workload = config.workload.mix, config.workload
        for one in classes:
            for model in one.models:
                patch: dict[str, Any] = {
                    "stream": one.stream,
                    "stream_options": {"include_usage": True} if one.stream else None,
                }
                named = one.name in mix and mix[one.name].model is not None
                if model is not None and (config.target.model is not None or named):
                    patch["model"] = model
                own = mix[one.name].body if one.name in mix else {}
                self._patches.append(compose(patch, compose(workload.body, own)))

    def build(self, logged: Sequence[bytes], draws: Draws) -> Bodies:
        """One span a body; `draws.frame` tells whose patch it gets."""
        bodies = [
            msgspec.json.encode(merge(msgspec.json.decode(body), self._patches[frame]))
            for body, frame in zip(logged, draws.frame.tolist(), strict=True)
        ]
        size = np.array([len(body) for body in bodies], np.int64)
        spans = np.empty(len(bodies), SPAN_DTYPE)
        spans["offset"], spans["size"], spans["source"] = np.cumsum(size) - size, size, SOURCE_SEGMENT
        own = np.frombuffer(b"".join(bodies), np.uint8)
        return Bodies(spans, np.arange(len(bodies)), np.ones(len(bodies), np.int64), size, own)
