"""HPACK against an independent implementation (the `hpack` package), on generated header lists, tables and bytes."""

from __future__ import annotations

import hpack as oracle
import hypothesis.strategies as st
import pytest
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman
from hypothesis import given, settings

from llmgen.wire import hpack, huffman
from llmgen.wire.hpack_constants import STATIC_TABLE

Fields = list[tuple[bytes, bytes]]

TOKENS = st.sampled_from(
    [
        b"authorization",
        b"cookie",
        b"content-length",
        b"x-a",
        b"x-b",
        b"date",
        b"server",
        b"x-request-id",
        b"traceparent",
    ]
)
VALUES = st.sampled_from([b"", b"a", b"text/event-stream", b"no-cache", b"12345", b"v" * 200, b"w" * 1000])
FIELD = (
    st.tuples(TOKENS, VALUES)
    | st.sampled_from(STATIC_TABLE)
    | st.tuples(st.binary(max_size=20), st.binary(max_size=60))
    | st.tuples(st.sampled_from([n for n, _ in STATIC_TABLE]), st.text(max_size=30).map(str.encode))
)
LISTS = st.lists(st.lists(FIELD, max_size=12), min_size=1, max_size=6)
SIZES = st.none() | st.sampled_from([0, 1, 33, 64, 100, 256, 1000, 4095, 4096, 8192])


def plain(fields: object) -> Fields:
    return [(bytes(name), bytes(value)) for name, value in fields]  # type: ignore[attr-defined]


def oracle_table(table: object) -> Fields:
    return plain(table.dynamic_entries)  # type: ignore[attr-defined]


@settings(deadline=None)
@given(LISTS, st.lists(SIZES, min_size=6, max_size=6))
def test_what_we_encode_both_decode(lists: list[Fields], sizes: list[int | None]) -> None:
    ours, theirs, e = hpack.Decoder(), oracle.Decoder(), hpack.Encoder()
    for fields, size in zip(lists, sizes, strict=False):
        if size is not None:
            e.max_table_size = ours.max_table_size = theirs.max_allowed_table_size = size
        block = e.encode(fields)
        assert ours.decode(block) == fields
        assert plain(theirs.decode(block, raw=True)) == fields
        assert ours.table == e.table == oracle_table(theirs.header_table)
        assert ours.table_size == e.table_size <= ours.max_table_size


@settings(deadline=None)
@given(LISTS, st.lists(SIZES, min_size=6, max_size=6), st.booleans())
def test_what_they_encode_we_decode(lists: list[Fields], sizes: list[int | None], coded: bool) -> None:
    ours, e = hpack.Decoder(), oracle.Encoder()
    for fields, size in zip(lists, sizes, strict=False):
        if size is not None:
            ours.max_table_size = size
            e.header_table_size = size
        assert ours.decode(e.encode(fields, huffman=coded)) == fields
        assert ours.table == oracle_table(e.header_table)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=4))
def test_any_bytes_mean_the_same_to_both(blocks: list[bytes]) -> None:
    """Fields or error alike, except where we are stricter: we limit integers, and their decoder takes longer ones."""
    ours, theirs = hpack.Decoder(), oracle.Decoder()
    for block in blocks:
        try:
            fields = ours.decode(block)
        except hpack.Error as error:
            if "integer" not in str(error):
                with pytest.raises(oracle.HPACKError):
                    theirs.decode(block, raw=True)
            return
        assert plain(theirs.decode(block, raw=True)) == fields
        assert ours.table == oracle_table(theirs.header_table)


PIECE = st.one_of(
    st.integers(0x80, 0xFF).map(lambda b: bytes([b])),  # indices
    st.sampled_from(
        [b"\x40", b"\x41", b"\x7e", b"\x00", b"\x04", b"\x10", b"\x1f\x2f", b"\x20", b"\x3f\x45", b"\x3f\xe1\x1f"]
    ),
    st.binary(max_size=12).map(lambda s: bytes([len(s)]) + s),  # strings
    st.binary(max_size=12).map(lambda s: bytes([0x80 | len(huffman.encode(s))]) + huffman.encode(s)),
)


@settings(deadline=None, max_examples=500)
@given(st.lists(st.lists(PIECE, max_size=12).map(b"".join), min_size=1, max_size=4))
def test_nearly_valid_blocks_mean_the_same_to_both(blocks: list[bytes]) -> None:
    test_any_bytes_mean_the_same_to_both.hypothesis.inner_test(blocks)  # type: ignore[attr-defined]


@settings(deadline=None)
@given(LISTS, st.integers(0, 2000), st.sampled_from([0, 100, 4096]))
def test_over_the_limit_the_table_stays_in_step(lists: list[Fields], limit: int, size: int) -> None:
    e, d = hpack.Encoder(), hpack.Decoder(max_header_list_size=limit)
    e.max_table_size = d.max_table_size = size
    for fields in lists:
        block = e.encode(fields)
        if sum(len(n) + len(v) + 32 for n, v in fields) <= limit:
            assert d.decode(block) == fields
        else:
            with pytest.raises(hpack.Error) as info:
                d.decode(block)
            assert info.value.over_limit
        assert d.table == e.table


@settings(deadline=None)
@given(LISTS, st.sets(TOKENS))
def test_never_indexed_fields_enter_no_table(lists: list[Fields], never: set[bytes]) -> None:
    e, theirs = hpack.Encoder(), oracle.Decoder()
    secret = never | {b"authorization", b"cookie", b"set-cookie"}
    for fields in lists:
        decoded = theirs.decode(e.encode(fields, never_indexed=never), raw=True)
        for field in decoded:
            if bytes(field[0]) in secret:
                assert isinstance(field, oracle.NeverIndexedHeaderTuple)
    assert not any(name in secret for name, _ in e.table)


@settings(deadline=None)
@given(st.lists(st.tuples(FIELD, st.booleans()), max_size=8))
def test_fields_without_a_table_are_right_on_any_connection(parts: list[tuple[tuple[bytes, bytes], bool]]) -> None:
    block = b"".join(hpack.field(*field, never_indexed=never) for field, never in parts)
    fields = [field for field, _ in parts]
    for limit in (0, 4096):
        d = hpack.Decoder(max_table_size=limit)
        assert d.decode(block) == fields
        assert d.table == []
    assert plain(oracle.Decoder().decode(block, raw=True)) == fields


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_huffman_of_any_text(text: bytes) -> None:
    coded = huffman.encode(text)
    assert coded == HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(text)
    assert huffman.decode(coded) == text


@settings(deadline=None, max_examples=500)
@given(st.binary(max_size=60), st.binary(max_size=8))
def test_huffman_of_any_code(start: bytes, rest: bytes) -> None:
    code = huffman.encode(start) + rest
    try:
        expected = decode_huffman(code)
    except oracle.HPACKDecodingError:
        with pytest.raises(ValueError, match="Huffman"):
            huffman.decode(code)
    else:
        assert huffman.decode(code) == expected
