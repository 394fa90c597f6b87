"""`llmgen selfbench`: what this client can do on this machine, and how true it is.

`measure` runs loads of known size against an embedded server on other cores, each a whole run of `llmgen.run`, and
holds what they reported against what the server logged.
"""

from __future__ import annotations

from llmgen.selfbench.figures import SelfBench
from llmgen.selfbench.measure import FULL, QUICK, Effort, measure

__all__ = ["FULL", "QUICK", "Effort", "SelfBench", "measure"]
