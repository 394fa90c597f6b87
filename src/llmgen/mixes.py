"""Ready-made mixes by name: plain data, as a configuration would hold it. docs/workloads.md tells where each number
comes from, and which were chosen here because nothing is published."""

from __future__ import annotations

from typing import Any, Final

MIXES: Final[dict[str, dict[str, dict[str, Any]]]] = {
    # Azure LLM inference trace 2023, conversation (Splitwise, ISCA'24): means and standard deviations of its lengths.
    "chat": {"chat": {"input": "lognormal:1155,1109", "output": "lognormal:211,163"}},
    # Chosen here: articles of a few pages, answers of a paragraph.
    "summarise": {"summarise": {"input": "lognormal:4000,2500", "output": "normal:180,50"}},
    # Chosen here: a document in, a small JSON object out.
    "extract": {
        "extract": {
            "input": "lognormal:1500,900",
            "output": "lognormal:80,40",
            "body": {"temperature": 0, "response_format": {"type": "json_object"}},
        }
    },
    # Azure LLM inference trace 2023, code; the long class is chosen here: whole functions instead of completions.
    "codegen": {
        "complete": {
            "weight": 9,
            "input": "lognormal:2048,1974",
            "output": "lognormal:28,60",
            "body": {"temperature": 0},
        },
        "write": {"weight": 1, "input": "lognormal:2048,1974", "output": "lognormal:500,350"},
    },
    # Mooncake tool and agent trace (FAST'25): mean lengths 8,596 and 182; 59 % of it found in the cache, which a shared
    # beginning (system prompt and tools) of 5,000 tokens gives; spread and pool chosen here.
    "agent": {
        "agent": {
            "input": "lognormal:8596,4000",
            "output": "lognormal:182,150",
            "prefix": {"tokens": 5000, "pool": 4},
        }
    },
    # RAGPulse (arXiv 2511.12979): mean lengths 2,944 and 283; spread and the shared system prompt chosen here.
    "rag": {
        "rag": {
            "input": "lognormal:2944,900",
            "output": "lognormal:283,180",
            "prefix": {"tokens": 400, "pool": 2},
        }
    },
}
