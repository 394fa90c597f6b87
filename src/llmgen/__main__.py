"""``python -m llmgen`` is the command ``llmgen``."""

from llmgen.cli import main

if __name__ == "__main__":
    main()
