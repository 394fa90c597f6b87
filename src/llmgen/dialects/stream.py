"""How an API says that a streamed answer is complete."""

from __future__ import annotations

import enum


class End(enum.Flag):
    """Any one of a dialect's signs makes a stream complete; one that closes without it is `stream_cut`. (= SIGN_)"""

    none = 0
    done = 1  # the marker ``data: [DONE]``, or an event that says itself that the answer is over
    finish = 2  # an event with a finish reason
