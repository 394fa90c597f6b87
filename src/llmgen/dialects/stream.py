"""How an API says that a streamed answer is complete."""

from __future__ import annotations

import enum


class End(enum.Flag):
    """Any one of a dialect's signs makes a stream complete; a stream that closes without one is `stream_cut`."""

    done = 1  # the marker ``data: [DONE]``
    finish = 2  # an event with a finish reason
