"""What llmgen costs, and against what: see README.md beside this file."""
