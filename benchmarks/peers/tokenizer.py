"""A tokenizer for tools that insist on one: byte-level BPE, trained here on this project's own pages; no network."""

from __future__ import annotations

import json
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
WORDS = 4000
MARKS = ("<s>", "</s>")


def write_tokenizer(folder: Path) -> Path:
    """Writes tokenizer.json and what transformers wants beside it into `folder`, made if absent."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS, special_tokens=list(MARKS), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train(sorted(str(path) for path in DOCS.glob("*.md")), trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": MARKS[0], "eos_token": MARKS[1], "pad_token": MARKS[1], "unk_token": MARKS[0]}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 100_000, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
