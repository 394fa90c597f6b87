"""llmgen: an open-loop load generator for LLM inference endpoints."""
