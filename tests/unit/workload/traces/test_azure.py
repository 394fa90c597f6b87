"""The Azure reader: the real files, both forms of time, and every way a row can be broken."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from llmgen.config import Trace
from llmgen.errors import ConfigError
from llmgen.workload import traces
from llmgen.workload.traces import azure

DATA = Path(__file__).parents[5] / "shared" / "data"
HEADER = b"TIMESTAMP,ContextTokens,GeneratedTokens\r\n"


def read(path, trace_format="azure"):
    blocks = list(traces.read(Trace(file=str(path), format=trace_format)))
    return tuple(np.concatenate([getattr(b, name) for b in blocks]) for name in ("t_ns", "input", "output"))


def written(tmp_path, rows, header=HEADER):
    path = tmp_path / "trace.csv"
    path.write_bytes(header + rows)
    return path


# Rows, span, rate, CV of gaps, and lengths as mean, p50, p90, p99, max.
REAL = {
    "code": (8_819, 3_436, 2.57, 13.15, (2_048, 1_469, 5_194, 7_436, 7_437), (27.9, 13, 55, 252, 1_899)),
    "conv": (19_366, 3_502, 5.53, 1.09, (1_155, 1_020, 2_735, 4_142, 14_050), (211, 129, 424, 601, 1_000)),
}


@pytest.mark.parametrize("name", REAL)
def test_the_real_files_are_as_published(name):
    path = DATA / f"azure_llm_2023_{name}.csv"
    if not path.is_file():
        pytest.skip(f"{path.name} is not here")
    rows, span, rate, cv, inputs, outputs = REAL[name]
    t_ns, planned_input, planned_output = read(path)
    assert len(t_ns) == rows
    assert t_ns[-1] / 1e9 == pytest.approx(span, abs=0.5)
    assert rows / (t_ns[-1] / 1e9) == pytest.approx(rate, abs=0.005)
    gaps = np.diff(t_ns)
    assert gaps.min() > 0
    assert gaps.std() / gaps.mean() == pytest.approx(cv, abs=0.006)
    for lengths, expected in ((planned_input, inputs), (planned_output, outputs)):
        mean, *percentiles = expected
        assert lengths.mean() == pytest.approx(mean, abs=0.5)
        assert np.percentile(lengths, [50, 90, 99, 100], method="inverted_cdf").tolist() == percentiles


@pytest.mark.parametrize("name", REAL)
def test_every_row_of_the_real_files_is_the_row(name):
    """Against the standard library's own reading of a time, row by row."""
    path = DATA / f"azure_llm_2023_{name}.csv"
    if not path.is_file():
        pytest.skip(f"{path.name} is not here")
    expected = []
    for line in path.read_text().splitlines()[1:]:
        stamp, planned_input, planned_output = line.split(",")
        whole, _, ticks = stamp.partition(".")
        seconds = int(datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp())
        expected.append((seconds * 10**9 + int(ticks) * 100, int(planned_input), int(planned_output)))
    times, inputs, outputs = (np.array(column) for column in zip(*expected, strict=True))
    t_ns, planned_input, planned_output = read(path)
    np.testing.assert_array_equal(t_ns, times - times[0])
    np.testing.assert_array_equal(planned_input, inputs)
    np.testing.assert_array_equal(planned_output, outputs)


def test_the_form_of_2023(tmp_path):
    rows = b"2023-11-16 23:59:59.9999999,10,20\r\n2023-11-17 00:00:00.0000001,30,4"  # no newline at the end
    t_ns, planned_input, planned_output = read(written(tmp_path, rows))
    assert t_ns.tolist() == [0, 200]
    assert planned_input.tolist() == [10, 30]
    assert planned_output.tolist() == [20, 4]


def test_the_form_of_2024(tmp_path):
    rows = (
        b"2024-02-29 23:59:59.000001+00:00,1,2\n2024-03-01 00:00:00+00:00,3,4\n2024-03-01 02:00:00.5+02:00,5,6\n"
        b"2024-02-29 19:30:01-04:30,7,8\n2024-03-01T00:00:02Z,9,0\n"
    )
    t_ns, planned_input, planned_output = read(written(tmp_path, rows, HEADER.replace(b"\r", b"")))
    assert t_ns.tolist() == [0, 999_999_000, 1_499_999_000, 1_999_999_000, 2_999_999_000]
    assert planned_input.tolist() == [1, 3, 5, 7, 9]
    assert planned_output.tolist() == [2, 4, 6, 8, 0]


def test_both_ways_of_decoding_agree(tmp_path):
    """By columns, and the same rows row by row."""
    line = b"2024-05-%02d 0%d:00:%02d.%06d+00:00,%d,%d\n"
    text = b"".join(line % (1 + i // 100, i // 20 % 5, i % 20 * 3, i, i * 7, i) for i in range(1000))
    by_columns = azure._by_columns(text)
    by_rows = azure._by_rows(text, azure._Place(tmp_path))
    for fast, slow in zip(by_columns, by_rows, strict=True):
        np.testing.assert_array_equal(fast, slow)
    mixed = text.replace(b".000500+00:00", b"+00:00").replace(b".000700+00:00", b".7Z")
    assert len(mixed) == len(text) - 7 - 10
    for fast, slow in zip(azure._by_columns(mixed), azure._by_rows(mixed, azure._Place(tmp_path)), strict=True):
        np.testing.assert_array_equal(fast, slow)
    for real in ("code", "conv"):
        path = DATA / f"azure_llm_2023_{real}.csv"
        if path.is_file():
            text = path.read_bytes()[len(HEADER) :] + b"\n"
            for fast, slow in zip(azure._by_columns(text), azure._by_rows(text, azure._Place(path)), strict=True):
                np.testing.assert_array_equal(fast, slow)


def test_blocks_of_any_size_give_the_same_rows(tmp_path, monkeypatch):
    rows = b"".join(b"2023-11-16 18:15:%02d.%07d,%d,%d\r\n" % (i // 10, i, i * i, i) for i in range(500))
    path = written(tmp_path, rows.rstrip())
    whole = read(path)
    for size in (1, 7, 40, 64, 1000):
        monkeypatch.setattr(azure, "READ_BYTES", size)
        blocks = list(traces.read(Trace(file=str(path), format="azure")))
        assert len(blocks) > 1
        for column, name in zip(whole, ("t_ns", "input", "output"), strict=True):
            np.testing.assert_array_equal(np.concatenate([getattr(b, name) for b in blocks]), column)


def test_blank_lines_and_a_byte_order_mark_are_forgiven_at_the_ends(tmp_path):
    path = written(tmp_path, b"2023-11-16 18:15:46.6805900,374,44\r\n\r\n\n", b"\xef\xbb\xbf" + HEADER)
    assert read(path)[1].tolist() == [374]


GOOD = b"2023-11-16 18:15:46.6805900,374,44\r\n"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"2023-11-16 18:15:46.6805900,374", "not of the form"),
        (b"2023-11-16 18:15:46.6805900,374,44,1", "not of the form"),
        (b"2023-11-16 18:15:46.6805900,,44", "not of the form"),
        (b"2023-11-16 18:15:46.6805900,374,", "not of the form"),
        (b"2023-11-16 18:15:46.6805900,-1,44", "not of the form"),
        (b"2023-11-16 18:15:46.6805900,37x,44", "not of the form"),
        (b"2023-11-16 18:15:46.6805900,3.5,44", "not of the form"),
        (b"2023-11-16 18:15:46.6805900,12345678,44", "not of the form"),
        (b"2023-11-16 18:15:46.,374,44", "not of the form"),
        (b"2023-11-16 18:15:46.6805900+1,374,44", "not of the form"),
        (b"2023-1-16 18:15:46.6805900,374,44", "not of the form"),
        (b"16/11/2023 18:15:46.680590,374,44", "not of the form"),
        (b"2023-11-16 18:15:4\xff.6805900,374,44", "not of the form"),
        (b"2023-02-29 18:15:46.6805900,374,44", "no such day"),
        (b"2023-13-01 18:15:46.6805900,374,44", "no such day"),
        (b"2023-11-16 24:15:46.6805900,374,44", "no such time"),
        (b"2023-11-16 18:60:46.6805900,374,44", "no such time"),
        (b"2023-11-16 18:15:60.6805900,374,44", "no such time"),
        (b"2023-11-16 18:15:46.6805899,374,44", "earlier than the row before"),
        (b"", "blank"),
    ],
)
@pytest.mark.parametrize("before", [1, 3000])
def test_a_broken_row_is_named(tmp_path, monkeypatch, line, why, before):
    monkeypatch.setattr(azure, "READ_BYTES", 4096)
    path = written(tmp_path, GOOD * before + line + b"\r\n" + GOOD)
    with pytest.raises(ConfigError) as caught:
        read(path)
    message = str(caught.value)
    assert f"row {before + 1} (line {before + 2})" in message
    assert why in message
    assert "expected YYYY-MM-DD HH:MM:SS" in message
    assert "trace.csv" in message


def test_a_broken_last_row_without_newline_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"row 2 \(line 3\).*'2023-11-16 18:15:47'"):
        read(written(tmp_path, GOOD + b"2023-11-16 18:15:47"))


def test_a_huge_line_is_refused_without_reading_it_all(tmp_path):
    with pytest.raises(ConfigError, match=r"row 2 .*longer than 4096 bytes"):
        read(written(tmp_path, GOOD + b"9" * (3 << 20)))


@pytest.mark.parametrize(
    "header", [b"", b"a,b\n", b"\x00" * 10_000, b"TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n"]
)
def test_another_header_is_refused(tmp_path, header):
    with pytest.raises(ConfigError, match=r"header is .*TIMESTAMP,ContextTokens,GeneratedTokens"):
        read(written(tmp_path, b"", header))


@pytest.mark.parametrize("rows", [b"", b"\r\n\r\n"])
def test_a_trace_without_rows_is_refused(tmp_path, rows):
    with pytest.raises(ConfigError, match="no rows"):
        read(written(tmp_path, rows))


def test_unknown_format_and_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"load\.trace\.format='azur'.*azure"):
        traces.read(Trace(file="x", format="azur"))
    with pytest.raises(ConfigError, match=r"load\.trace\.file='/no/such'.*no such file"):
        traces.read(Trace(file="/no/such", format="azure"))
