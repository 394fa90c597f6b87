"""Bodies built for many requests at once are the frame filled for each."""

import json

import numpy as np
import pytest

from llmgen.dialects import Ask, Frame, Slot, get
from llmgen.plan import SOURCE_SEGMENT, SOURCE_STATIC, StaticBytes
from llmgen.workload.bodies import BodyBuilder
from llmgen.workload.mix import Draws
from llmgen.workload.prompts import POOL_WORDS, SyntheticPrompts

TAILED = Frame((b'{"inputs":"', Slot.prompt, b'","parameters":{"n":', Slot.output, b',"m":', Slot.output, b"}}"))
BARE = Frame((b"[", Slot.output, b",", Slot.output, b',"', Slot.prompt, b'"]'))


def draws(frame, planned_input, planned_output):
    frame, planned_input, planned_output = (np.array(x, np.int64) for x in (frame, planned_input, planned_output))
    return Draws(np.zeros(len(frame), np.uint16), frame, planned_input, planned_output)


class Written:
    """A builder and what its spans point into."""

    def __init__(self, frames, tmp_path):
        static = StaticBytes()
        self.frames = frames
        self.prompts = SyntheticPrompts(1, static)
        self.builder = BodyBuilder(frames, self.prompts, static)
        static.write(tmp_path / "static.bin")
        self.static = (tmp_path / "static.bin").read_bytes()

    def bodies(self, first, drawn):
        built = self.builder.build(first, drawn)
        sources = {SOURCE_STATIC: self.static, SOURCE_SEGMENT: built.own_bytes.tobytes()}
        found = []
        for start, count, size in zip(built.first_span, built.span_count, built.size, strict=True):
            spans = built.spans[start : start + count]
            body = b"".join(sources[int(s["source"])][int(s["offset"]) : int(s["offset"] + s["size"])] for s in spans)
            assert len(body) == size
            assert np.all(spans["size"] > 0)
            found.append(body)
        assert built.span_count.sum() == len(built.spans)
        return found

    def expected(self, first, drawn):
        """One request at a time, by the frame."""
        found = []
        for row in range(len(drawn.frame)):
            words = np.array([drawn.planned_input[row] - 1])
            spans, _ = self.prompts.text(first + row, words)
            text = b"".join(self.static[int(s["offset"]) : int(s["offset"] + s["size"])] for s in spans)
            prompt = self.prompts.beginnings(first + row, 1).tobytes() + text
            assert len(prompt.split()) == drawn.planned_input[row]
            found.append(self.frames[drawn.frame[row]].fill(prompt, int(drawn.planned_output[row])))
        return found


@pytest.fixture
def written(tmp_path):
    chat, completions = get("chat"), get("completions")
    frames = [
        chat.frame(Ask("m")),
        chat.frame(Ask("other", stream=False, exact_output=True, overrides={"temperature": 0.5})),
        completions.frame(Ask("m", overrides={"max_tokens": None})),
        TAILED,
        BARE,
    ]
    return Written(frames, tmp_path)


def test_every_frame_and_number_of_digits(written):
    outputs = [1, 9, 10, 99, 100, 4096, 99_999, 100_000, 4_194_304]
    count = 5 * len(outputs)
    frame = np.repeat(np.arange(5), len(outputs))
    planned_output = np.tile(outputs, 5)
    planned_output[frame == 2] = -1
    shuffled = np.random.default_rng(1).permutation(count)
    drawn = draws(frame[shuffled], 1 + np.arange(count), planned_output[shuffled])
    bodies = written.bodies(100, drawn)
    assert bodies == written.expected(100, drawn)
    for body, which, output in zip(bodies, drawn.frame, drawn.planned_output, strict=True):
        if which < 2:
            assert json.loads(body)["max_tokens"] == output
        elif which == 3:
            assert json.loads(body)["parameters"] == {"n": output, "m": output}


@pytest.mark.parametrize("words", [[1], [1, 1, 1], [2, 3], [1, POOL_WORDS + 1, 2], [POOL_WORDS + 2, 1], [70_000, 5]])
def test_short_and_very_long_prompts(written, words):
    drawn = draws([0] * len(words), words, [7] * len(words))
    assert written.bodies(0, drawn) == written.expected(0, drawn)


def test_one_kind_of_request(written):
    drawn = draws([1] * 500, [20] * 500, [128] * 500)
    assert written.bodies(3, drawn) == written.expected(3, drawn)


def test_memory_is_reused_for_smaller_and_larger_blocks(written):
    for count in (10, 3, 200, 1):
        drawn = draws(np.arange(count) % 4, 1 + np.arange(count) % 9, 5 + np.arange(count))
        drawn.planned_output[drawn.frame == 2] = -1
        assert written.bodies(count, drawn) == written.expected(count, drawn)
