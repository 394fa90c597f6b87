"""telemetry.jsonl and telemetry.npz: the same from both, whole lines only, damage said."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from llmgen.errors import RecordError
from llmgen.telemetry import store
from llmgen.telemetry.prometheus import Reading


def written(directory: Path) -> None:
    writer = store.Writer(directory)
    writer.source(0, "http://n:1/metrics", 0.5)
    writer.source(1, "gpu:local", 1.0)
    writer.reading(0, 100, 7, Reading({"running": 3.0, "ttft.sum": 0.25}, {}, "vllm"))
    buckets = {"ttft": {0.1: 4.0, math.inf: 9.0}}
    writer.reading(0, 200, 8, Reading({"running": 4.0, "waiting": 1.0}, buckets, "vllm"), ["start", "window_start"])
    writer.failure(0, 300, 9, "no answer in time")
    writer.reading(1, 150, 1, Reading({"gpu_util[0]": 0.5}, {}, "nvml"))
    writer.reading(0, 400, 8, Reading({"running": 1e300, "ttft.sum": 2.0**53}, {}, "vllm"))
    writer.close()


def check(sources: list[store.Source]) -> None:
    one, gpu = sources
    assert (one.url, one.every_s, one.family) == ("http://n:1/metrics", 0.5, "vllm")
    assert one.keys == ["running", "ttft.sum", "waiting"]
    assert one.t.tolist() == [100, 200, 400]
    assert one.took.tolist() == [7, 8, 8]
    assert one.column("running").tolist() == [3.0, 4.0, 1e300]  # type: ignore[union-attr]
    assert one.column("ttft.sum")[[0, 2]].tolist() == [0.25, 2.0**53]  # type: ignore[index]
    assert np.isnan(one.column("ttft.sum")[1])  # type: ignore[index]
    assert np.isnan(one.column("waiting")[[0, 2]]).all()  # type: ignore[index]
    assert one.column("preemptions") is None
    assert one.edges == {"start": 1, "window_start": 1}
    bounds, counts = one.buckets["window_start"]["ttft"]
    assert bounds.tolist() == [0.1, math.inf]
    assert counts.tolist() == [4, 9]
    assert one.failed == [(300, "no answer in time")]
    assert (gpu.url, gpu.family, gpu.column("gpu_util[0]").tolist()) == ("gpu:local", "nvml", [0.5])  # type: ignore[union-attr]


def test_both_files_say_the_same(tmp_path: Path) -> None:
    written(tmp_path)
    check(store.read(tmp_path))
    store.finish(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [store.FINAL]
    check(store.read(tmp_path))


def test_a_run_without_telemetry_has_none(tmp_path: Path) -> None:
    assert store.read(tmp_path) == []
    store.finish(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_length_of_a_crashed_file_is_readable(tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / store.LIVE
    whole = path.read_bytes()
    seen = []
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        seen.append(sum(len(source.t) for source in store.read(tmp_path)))
    assert seen == sorted(seen)
    assert seen[-1] == 4


def test_lines_that_mean_nothing_are_left_out(tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / store.LIVE
    other = {"t": 1, "took": 1}
    odd: list[object] = [[], {}, None, {"source": 9, "v": [], **other}, {"source": 0, "v": [1], **other}]
    lines = path.read_bytes() + b"\xff\xfe\n" + b"".join(json.dumps(one).encode() + b"\n" for one in odd)
    path.write_bytes(lines)
    check(store.read(tmp_path))


def test_a_line_is_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[bytes] = []
    real = os.write

    def write(descriptor: int, data: bytes) -> int:
        pieces.append(data)
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    written(tmp_path)
    assert all(piece.endswith(b"\n") and piece.count(b"\n") == 1 for piece in pieces)


def test_a_full_disk_ends_the_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = store.Writer(tmp_path)
    writer.source(0, "u", 1.0)
    writer.reading(0, 1, 1, Reading({"running": 1.0}, {}, "vllm"))
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    writer.reading(0, 2, 1, Reading({"running": 2.0}, {}, "vllm"))
    monkeypatch.setattr(os, "write", real)
    writer.reading(0, 3, 1, Reading({"running": 3.0}, {}, "vllm"))
    writer.close()
    assert writer.full is not None
    assert writer.full.errno == errno.ENOSPC
    assert store.read(tmp_path)[0].t.tolist() == [1]


def test_a_cut_write_costs_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = store.Writer(tmp_path)
    writer.source(0, "u", 1.0)
    writer.reading(0, 1, 1, Reading({"running": 1.0}, {}, "vllm"))
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:9] if len(data) > 9 else data))
    writer.reading(0, 2, 1, Reading({"running": 2.0}, {}, "vllm"))
    monkeypatch.setattr(os, "write", real)
    writer.reading(0, 3, 1, Reading({"running": 3.0}, {}, "vllm"))
    writer.close()
    assert store.read(tmp_path)[0].t.tolist() == [1, 3]


def test_a_conversion_that_fails_leaves_the_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="No space"):
        store.finish(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [store.LIVE]
    check(store.read(tmp_path))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no", b"\x93NUMPY\x01\x00"])
def test_a_damaged_file_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / store.FINAL).write_bytes(content)
    with pytest.raises(RecordError, match=r"telemetry\.npz"):
        store.read(tmp_path)


def test_every_cut_of_the_final_file_is_said(tmp_path: Path) -> None:
    written(tmp_path)
    store.finish(tmp_path)
    path = tmp_path / store.FINAL
    whole = path.read_bytes()
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        with pytest.raises(RecordError):
            store.read(tmp_path)


def test_a_file_of_a_newer_llmgen_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "VERSION", 2)
    written(tmp_path)
    store.finish(tmp_path)
    monkeypatch.setattr(store, "VERSION", 1)
    with pytest.raises(RecordError, match="newer llmgen"):
        store.read(tmp_path)
