"""Exact lengths: only words that are one token each, found with as few questions as may be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmgen.config import Load, Prefix, RunConfig, Target, Workload
from llmgen.errors import ConfigError
from llmgen.plan import PlanReader
from llmgen.planning import PlanBuilder
from llmgen.workload import tokenizers
from llmgen.workload.vocabulary import Vocabulary, exact
from llmgen.workload.words import COMMON_WORDS


class Counter:
    """Counts a word as one token, or two if it is among `split`; adds a constant; knows how often it was asked."""

    def __init__(self, split: set[str], constant: int = 0) -> None:
        self.split, self.constant, self.asked = split, constant, 0

    def __call__(self, text: str) -> int:
        self.asked += 1
        return self.constant + sum(1 + (word in self.split) for word in text.split())


@pytest.mark.parametrize("constant", [0, 1, 7])
def test_words_of_two_tokens_are_left_out(constant: int) -> None:
    split = set(COMMON_WORDS[5::9])
    count = Counter(split, constant)
    found = exact(count, template_tokens=3)
    assert set(found.words) == set(COMMON_WORDS) - split
    assert set(found.heads) <= set(found.words)
    assert (found.exact, found.template_tokens) == (True, 3)
    assert len(found.heads) in (64, 128)
    assert count.asked < 900


def test_beginnings_are_unique_and_of_one_size() -> None:
    found = exact(Counter(set()), 0)
    index = np.arange(200_000)
    made = found.beginnings(1, index)
    assert made.shape == (200_000, 1 + found.head_bytes)
    assert len(np.unique(np.ascontiguousarray(made).view(f"S{made.shape[1]}"))) == 200_000
    text = made[5].tobytes().decode()
    assert text.startswith(" ")
    assert len(text.split()) == found.head_words
    assert set(text.split()) <= set(found.heads)


def test_a_tokenizer_that_no_words_fit() -> None:
    with pytest.raises(ConfigError, match="only 3 of our"):
        exact(Counter(set(COMMON_WORDS[3:])), 0)
    with pytest.raises(ConfigError, match="counts no word as one token"):
        exact(lambda text: 2 * len(text), 0)

    def merging(text: str) -> int:  # long texts are shorter than their words
        words = len(text.split())
        return words - (words > 100)

    with pytest.raises(ConfigError, match="together; lengths can only be approximate"):
        exact(merging, 0)


def test_words_are_the_default() -> None:
    assert tokenizers.load(None, 5) == tokenizers.Tokens(Vocabulary(template_tokens=5))
    with pytest.raises(ConfigError, match="calibrated with the server"):
        tokenizers.load("server", None)
    with pytest.raises(ConfigError, match="no such file"):
        tokenizers.load("/no/such/tokenizer", None)


# -- a tokenizer of Hugging Face's kind --------------------------------------------------------------------------------

hf = pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE trained on some words of ours only, so that the others fall into several tokens."""
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer = hf.Tokenizer(hf.models.BPE())
    tokenizer.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = hf.decoders.ByteLevel()
    known = COMMON_WORDS[::2]
    text = " ".join(known) + "\n" + "\n".join(known)
    trainer = hf.trainers.BpeTrainer(
        vocab_size=3000, special_tokens=["<s>", "<|user|>", "<|end|>"], show_progress=False,
        initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator([text] * 50, trainer)
    tokenizer.save(str(path / "tokenizer.json"))
    settings = {
        "bos_token": {"content": "<s>"},
        "chat_template": "{{ bos_token }}{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|user|>{% endif %}",
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return path


def count_with(folder: Path, text: str) -> int:
    return len(hf.Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids)


def test_a_local_tokenizer_and_its_template(folder: Path) -> None:
    found = tokenizers.load(str(folder), None)
    assert found.vocabulary.exact
    assert found.vocabulary.template_tokens == 4
    assert 100 < len(found.vocabulary.words) < len(COMMON_WORDS)
    assert found.count is not None
    assert found.count(" ".join(found.vocabulary.words[:50])) == 50
    assert tokenizers.load(str(folder / "tokenizer.json"), 9).vocabulary.template_tokens == 9


def test_broken_files_are_refused(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="cannot be read as a tokenizer"):
        tokenizers.load(str(tmp_path), None)
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ raise_exception('no') }}"}))
    with pytest.raises(ConfigError, match=r"chat template cannot be used: no; set workload\.template_tokens"):
        tokenizers.load(str(tmp_path), None)


@pytest.mark.parametrize(
    "workload",
    [
        {"input": "uniform:1,300"},
        {"input": "uniform:1,300", "prefix": Prefix(tokens=70, pool=3)},
        {"input": 40_000},
    ],
)
def test_prompts_are_as_many_tokens_as_planned(tmp_path: Path, folder: Path, workload: dict[str, Any]) -> None:
    requests = 60 if workload["input"] != 40_000 else 3
    config = RunConfig(
        target=Target(model="m"),
        load=Load(requests=requests),
        workload=Workload(tokenizer=str(folder), **workload),
    )
    PlanBuilder(config, tmp_path / "plan", 1).write_all()
    beginnings = set()
    for row, body in PlanReader(tmp_path / "plan").bodies():
        text = json.loads(body)["messages"][0]["content"]
        assert count_with(folder, text) + 4 == row["planned_input"]
        beginnings.add(text)
    assert len(beginnings) >= requests * 0.9  # the shortest have no room for one of their own
