"""HPACK: the examples of RFC 7541 appendix C, and each rule of the RFC as bytes."""

from __future__ import annotations

import resource

import pytest

from llmgen.wire import hpack, huffman
from llmgen.wire.hpack_constants import HUFFMAN_CODE_LENGTHS, STATIC_TABLE

Fields = list[tuple[bytes, bytes]]

# Appendix C.3 to C.6: blocks of one connection in order, each with its fields and the dynamic table's size after it.
REQUESTS: list[tuple[Fields, int]] = [
    (
        [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")],
        57,
    ),
    (
        [
            (b":method", b"GET"),
            (b":scheme", b"http"),
            (b":path", b"/"),
            (b":authority", b"www.example.com"),
            (b"cache-control", b"no-cache"),
        ],
        110,
    ),
    (
        [
            (b":method", b"GET"),
            (b":scheme", b"https"),
            (b":path", b"/index.html"),
            (b":authority", b"www.example.com"),
            (b"custom-key", b"custom-value"),
        ],
        164,
    ),
]
RESPONSES: list[tuple[Fields, int]] = [
    (
        [
            (b":status", b"302"),
            (b"cache-control", b"private"),
            (b"date", b"Mon, 21 Oct 2013 20:13:21 GMT"),
            (b"location", b"https://www.example.com"),
        ],
        222,
    ),
    (
        [
            (b":status", b"307"),
            (b"cache-control", b"private"),
            (b"date", b"Mon, 21 Oct 2013 20:13:21 GMT"),
            (b"location", b"https://www.example.com"),
        ],
        222,
    ),
    (
        [
            (b":status", b"200"),
            (b"cache-control", b"private"),
            (b"date", b"Mon, 21 Oct 2013 20:13:22 GMT"),
            (b"location", b"https://www.example.com"),
            (b"content-encoding", b"gzip"),
            (b"set-cookie", b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
        ],
        215,
    ),
]
C3 = [
    "828684410f7777772e6578616d706c652e636f6d",
    "828684be58086e6f2d6361636865",
    "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
]
C4 = [
    "828684418cf1e3c2e5f23a6ba0ab90f4ff",
    "828684be5886a8eb10649cbf",
    "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
]
C5 = [
    "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d54"
    "6e1768747470733a2f2f7777772e6578616d706c652e636f6d",
    "4803333037c1c0bf",
    "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d"
    "4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31",
]
C6 = [
    "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
    "4883640effc1c0bf",
    "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960"
    "d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
]


@pytest.mark.parametrize(
    ("block", "field", "indexed"),
    [
        pytest.param(
            "400a637573746f6d2d6b65790d637573746f6d2d686561646572", (b"custom-key", b"custom-header"), True, id="C.2.1"
        ),
        pytest.param("040c2f73616d706c652f70617468", (b":path", b"/sample/path"), False, id="C.2.2"),
        pytest.param("100870617373776f726406736563726574", (b"password", b"secret"), False, id="C.2.3"),
        pytest.param("82", (b":method", b"GET"), False, id="C.2.4"),
    ],
)
def test_field_representations(block: str, field: tuple[bytes, bytes], indexed: bool) -> None:
    d = hpack.Decoder()
    assert d.decode(bytes.fromhex(block)) == [field]
    assert d.table == ([field] if indexed else [])


@pytest.mark.parametrize(
    ("blocks", "expected", "table_size"),
    [
        pytest.param(C3, REQUESTS, 4096, id="C.3"),
        pytest.param(C4, REQUESTS, 4096, id="C.4"),
        pytest.param(C5, RESPONSES, 256, id="C.5"),
        pytest.param(C6, RESPONSES, 256, id="C.6"),
    ],
)
def test_examples_of_the_rfc(blocks: list[str], expected: list[tuple[Fields, int]], table_size: int) -> None:
    d = hpack.Decoder(max_table_size=table_size)
    for block, (fields, size) in zip(blocks, expected, strict=True):
        assert d.decode(bytes.fromhex(block)) == fields
        assert d.table_size == size


def test_dynamic_table_after_the_examples() -> None:
    d = hpack.Decoder(max_table_size=256)
    for block in C5:
        d.decode(bytes.fromhex(block))
    assert d.table == [RESPONSES[2][0][5], RESPONSES[2][0][4], RESPONSES[2][0][2]]


def test_encoder_writes_the_rfc_s_own_bytes() -> None:
    e = hpack.Encoder()
    for block, (fields, size) in zip(C4, REQUESTS, strict=True):
        assert e.encode(fields).hex() == block
        assert e.table_size == size
    e = hpack.Encoder()
    e.max_table_size = 256
    assert e.encode(RESPONSES[0][0]).hex() == "3fe101" + C6[0]  # the update to 256 comes first
    assert e.encode(RESPONSES[1][0]).hex() == C5[1]  # "307" is as long when coded: plain is less work for both ends


# Integers (5.1). C.1.1 and C.1.2 as sizes and indices: 10 in 5 bits, 1337 in 5 bits.


def test_integers_of_the_rfc() -> None:
    d = hpack.Decoder()
    d.decode(bytes.fromhex("2a"))
    assert d.decode(bytes.fromhex("3f9a0a")) == []  # 1337, below the limit
    long_value = b"x" * 1337
    # A 7-bit prefix: 1337 - 127 = 1210 = 0xba 0x09.
    assert d.decode(b"\x00\x01a\x7f\xba\x09" + long_value) == [(b"a", long_value)]


def test_zero_padded_integer_is_the_same_number() -> None:
    assert hpack.Decoder().decode(b"\x00\x01a\x7f\x80\x80\x80\x80\x00" + b"v" * 127) == [(b"a", b"v" * 127)]


@pytest.mark.parametrize("prefix", [b"\xff", b"\x7f", b"\x3f", b"\x1f", b"\x0f", b"\x00\x7f", b"\x00\xff"])
@pytest.mark.parametrize(
    "octets",
    [
        b"\x80\x80\x80\x80\x80\x00",  # six octets, all padding
        b"\x80\x80\x80\x80\x80\x01",
        b"\xff\xff\xff\xff\x0f",  # above 2**31 - 1
        b"\xff\xff\xff\xff\x7f",
        b"\x80\x80\x80\x80\x10",  # 2**32: would be 0 in 32 bits
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    ],
)
def test_integer_overflow(prefix: bytes, octets: bytes) -> None:
    with pytest.raises(hpack.Error, match="integer"):
        hpack.Decoder().decode(prefix + octets)


@pytest.mark.parametrize("block", [C3[0], C4[0], C5[0], C6[0]])
def test_truncated_anywhere(block: str) -> None:
    """Cut in the middle of a field, a block is an error; cut between fields, it is a shorter list."""
    whole = bytes.fromhex(block)
    fields = hpack.Decoder().decode(whole)
    for cut in range(len(whole)):
        try:
            part = hpack.Decoder().decode(whole[:cut])
        except hpack.Error:
            continue
        assert part == fields[: len(part)]
        assert len(part) < len(fields)


@pytest.mark.parametrize(
    "block",
    ["00", "40", "10", "0001", "000161", "00016105", "0001610561", "04", "0482", "0f", "7f80", "3f", "ff", "3fe1"],
)
def test_truncated(block: str) -> None:
    with pytest.raises(hpack.Error, match="ends in the middle"):
        hpack.Decoder().decode(bytes.fromhex(block))


# Indices (2.3.3).


def test_every_static_entry() -> None:
    assert len(STATIC_TABLE) == 61
    for index, field in enumerate(STATIC_TABLE, 1):
        assert hpack.Decoder().decode(bytes([0x80 | index])) == [field]
        named = hpack.Decoder().decode(
            b"\x0f" + bytes([index - 15]) + b"\x01v" if index >= 15 else bytes([index]) + b"\x01v"
        )
        assert named == [(field[0], b"v")]


@pytest.mark.parametrize(
    "block", ["80", "be", "bf", "ff00", "ff80ffffff07", "7e0161", "0f2f0161", "1f2f0161", "7f80ffffff070161"]
)
def test_index_outside_of_the_tables(block: str) -> None:
    with pytest.raises(hpack.Error, match="index"):
        hpack.Decoder().decode(bytes.fromhex(block))


def test_index_just_beyond_the_dynamic_table() -> None:
    d = hpack.Decoder()
    d.decode(b"\x40\x01a\x01b")
    assert d.decode(b"\xbe") == [(b"a", b"b")]
    with pytest.raises(hpack.Error, match="index"):
        d.decode(b"\xbf")


# Huffman (5.2, appendix B).


def test_huffman_code_is_complete_and_round_trips() -> None:
    assert sum(2.0**-length for length in HUFFMAN_CODE_LENGTHS) == 1.0
    for symbol in range(256):
        for repeat in (1, 2, 3, 7, 8, 9):
            text = bytes([symbol]) * repeat
            assert huffman.decode(huffman.encode(text)) == text
    text = bytes(range(256)) + b"www.example.com" + bytes(reversed(range(256)))
    assert huffman.decode(huffman.encode(text)) == text
    assert huffman.decode(b"") == huffman.encode(b"") == b""


@pytest.mark.parametrize(
    "code",
    [
        b"\xff",  # 8 bits of padding
        b"\x07\xff",  # "0", then 11 bits of ones
        b"\x1f\xff",  # "a", then 11 bits of ones
        b"\xff\xff\xff\xfc",  # EOS
        b"\xff\xff\xff\xff",
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x1f\xff\xff\xff\xff\xff\xff",  # "a", EOS
        b"\x18",  # "a", then padding of zeros
        b"\x1e",  # padding with one zero
        b"\x00\x00\x00\x00\x00\x00\x00\x00\xfe",  # the symbol of 11111110 wants more bits
    ],
)
def test_wrong_huffman_strings(code: bytes) -> None:
    with pytest.raises(ValueError, match="Huffman"):
        huffman.decode(code)
    for block in (
        b"\x00" + bytes([0x80 | len(code)]) + code + b"\x01v",
        b"\x40\x01a" + bytes([0x80 | len(code)]) + code,
    ):
        with pytest.raises(hpack.Error, match="Huffman"):
            hpack.Decoder().decode(block)


def test_seven_bits_of_padding_are_permitted() -> None:
    text = b"00000"  # 25 bits
    assert huffman.encode(text) == b"\x00\x00\x00\x7f"
    assert huffman.decode(huffman.encode(text)) == text


def test_empty_strings() -> None:
    assert hpack.Decoder().decode(b"\x00\x00\x00") == [(b"", b"")]
    assert hpack.Decoder().decode(b"\x40\x80\x80\xbe") == [(b"", b""), (b"", b"")]
    assert hpack.Decoder().decode(b"") == []


# The dynamic table (4).


def test_eviction_while_the_new_entry_s_name_is_evicted() -> None:
    d = hpack.Decoder(max_table_size=80)
    name = b"n" * 20
    d.decode(b"\x40\x14" + name + b"\x0a" + b"1" * 10)  # 62 bytes
    assert d.decode(b"\x7e\x0b" + b"2" * 11) == [(name, b"2" * 11)]  # refers to the entry that it evicts
    assert d.table == [(name, b"2" * 11)]


def test_results_survive_the_eviction_of_their_entry() -> None:
    d = hpack.Decoder(max_table_size=64)
    first = (b"first", b"x" * 20)
    d.decode(b"\x40\x05first\x14" + b"x" * 20)
    block = b"\xbe\x40\x06second\x14" + b"y" * 20 + b"\xbe"
    assert d.decode(block) == [first, (b"second", b"y" * 20), (b"second", b"y" * 20)]


def test_too_large_an_entry_empties_the_table() -> None:
    d = hpack.Decoder(max_table_size=64)
    d.decode(b"\x40\x01a\x01b")
    assert d.decode(b"\x40\x01a\x20" + b"v" * 32) == [(b"a", b"v" * 32)]
    assert (d.table, d.table_size) == ([], 0)
    d.decode(b"\x40\x01a\x1f" + b"v" * 31)  # 64 bytes exactly
    assert d.table_size == 64


def test_table_of_many_small_entries_keeps_order() -> None:
    d = hpack.Decoder()
    kept: Fields = []
    for i in range(1000):
        field = (b"k%d" % i, b"v" * (i % 60))
        d.decode(b"\x40" + bytes([len(field[0])]) + field[0] + bytes([len(field[1])]) + field[1])
        kept.insert(0, field)
        while sum(len(n) + len(v) + 32 for n, v in kept) > 4096:
            kept.pop()
        assert d.table_size == sum(len(n) + len(v) + 32 for n, v in kept)
    assert d.table == kept


def test_table_of_entries_without_bytes() -> None:
    d = hpack.Decoder()
    for _ in range(200):
        d.decode(b"\x40\x00\x00")
    assert d.table == [(b"", b"")] * 128
    d.decode(b"\x40\x01a\x01b")
    assert d.table == [(b"a", b"b")] + [(b"", b"")] * 126


# Size updates (4.2, 6.3; RFC 9113 4.3.1).


def test_size_update_evicts_and_the_table_grows_again() -> None:
    d = hpack.Decoder()
    d.decode(b"\x40\x01a\x01b\x40\x01c\x01d")
    assert d.decode(b"\x3f\x03\xbe") == [(b"c", b"d")]  # 34: room for one
    assert d.table_size == 34
    assert d.decode(b"\x20\x3f\xe1\x1f") == []  # 0, then 4096
    assert d.table == []
    d.decode(b"\x40\x01a\x01b")
    assert d.table_size == 34


def test_size_update_above_the_limit() -> None:
    for block in (b"\x3f\xe2\x1f", b"\x20\x3f\xe2\x1f", b"\x3f\xe0\xff\xff\xff\x07"):
        with pytest.raises(hpack.Error, match="table size"):
            hpack.Decoder().decode(block)
    assert hpack.Decoder().decode(b"\x3f\xe1\x1f") == []  # 4096 itself
    d = hpack.Decoder()
    d.max_table_size = 8192
    assert d.decode(b"\x3f\xe1\x3f") == []


@pytest.mark.parametrize("block", [b"\x82\x20", b"\x40\x01a\x01b\x20", b"\x20\x82\x20", b"\x82\x3f\xe1\x1f\x82"])
def test_size_update_after_a_field(block: bytes) -> None:
    with pytest.raises(hpack.Error, match="table size"):
        hpack.Decoder().decode(block)


def test_lowered_limit_obliges_to_an_update() -> None:
    for block in (b"\x82", b"\x3f\xe1\x1f\x82", b"", b"\x3f\x46\x82"):
        d = hpack.Decoder()
        d.max_table_size = 100
        with pytest.raises(hpack.Error, match="table size"):
            d.decode(block)
    d = hpack.Decoder()
    d.max_table_size = 100
    assert d.decode(b"\x3f\x45\x82") == [(b":method", b"GET")]  # 100
    assert d.decode(b"\x82") == [(b":method", b"GET")]  # once is enough


def test_limit_lowered_and_raised_between_two_blocks() -> None:
    """The smallest size must be signalled, or entries would stay that the peer has forgotten."""
    d = hpack.Decoder()
    d.decode(b"\x40\x01a\x01b")
    d.max_table_size = 0
    d.max_table_size = 50
    d.max_table_size = 4096
    with pytest.raises(hpack.Error, match="table size"):
        d.decode(b"\x3f\xe1\x1f\x82")
    d = hpack.Decoder()
    d.max_table_size = 0
    d.max_table_size = 50
    with pytest.raises(hpack.Error, match="table size"):
        d.decode(b"\x3f\x13\x82")  # 50: not the smallest
    d = hpack.Decoder()
    d.decode(b"\x40\x01a\x01b")
    d.max_table_size = 0
    d.max_table_size = 4096
    assert d.decode(b"\x20\x3f\xe1\x1f\x82") == [(b":method", b"GET")]
    assert d.table == []


def test_limit_that_is_above_the_size_in_use_obliges_to_nothing() -> None:
    d = hpack.Decoder()
    d.decode(b"\x3f\x45")  # the peer uses 100
    d.max_table_size = 200
    assert d.decode(b"\x82") == [(b":method", b"GET")]
    d.max_table_size = 16384
    assert d.decode(b"\x82") == [(b":method", b"GET")]


# The limit of the list (RFC 9113 6.5.2, 10.5.1).


def test_list_limit_counts_32_bytes_a_field() -> None:
    block = b"\x82\x00\x01a\x01b"  # 7 + 3 + 32, then 2 + 32
    assert len(hpack.Decoder(max_header_list_size=76).decode(block)) == 2
    with pytest.raises(hpack.Error, match="header list") as info:
        hpack.Decoder(max_header_list_size=75).decode(block)
    assert info.value.over_limit


def test_over_the_limit_the_table_stays_in_step() -> None:
    d = hpack.Decoder(max_header_list_size=100)
    with pytest.raises(hpack.Error) as info:
        d.decode(b"\x40\x01a\x7f\x00" + b"v" * 127 + b"\x40\x01b\x01c\xbf\x00\x01x\x01y")
    assert info.value.over_limit
    assert d.table == [(b"b", b"c"), (b"a", b"v" * 127)]
    assert d.decode(b"\xbe") == [(b"b", b"c")]
    d.max_header_list_size = 1000
    assert d.decode(b"\xbf\xbe") == [(b"a", b"v" * 127), (b"b", b"c")]


@pytest.mark.parametrize("rest", [b"\x80", b"\xff\x00", b"\x20", b"\x00\x01a\x81\xff", b"\x00\x01", b"\x40\x01a"])
def test_over_the_limit_a_malformed_rest_is_still_malformed(rest: bytes) -> None:
    with pytest.raises(hpack.Error) as info:
        hpack.Decoder(max_header_list_size=40).decode(b"\x82" + rest)
    assert not info.value.over_limit


def test_references_that_multiply_a_block_are_stopped() -> None:
    d = hpack.Decoder()
    d.decode(b"\x40\x01a\x7f\x81\x1e" + b"v" * 3968)
    with pytest.raises(hpack.Error) as info:
        d.decode(b"\xbe" * 100_000)
    assert info.value.over_limit
    assert len(d.decode(b"\xbe" * 16)) == 16


def test_names_that_multiply_a_block_take_no_memory() -> None:
    d = hpack.Decoder()
    d.decode(b"\x40\x7f\x81\x1e" + b"n" * 3968 + b"\x01v")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(hpack.Error) as info:
        d.decode(b"\x0f\x2f\x00" * 100_000)  # kept, they would be 400 MB
    assert info.value.over_limit
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_large_lists_up_to_the_limit() -> None:
    d = hpack.Decoder(max_header_list_size=10_000_000)
    d.decode(b"\x40\x01a\x7f\x81\x1e" + b"v" * 3968)
    assert d.decode(b"\xbe\x82" * 2000) == [(b"a", b"v" * 3968), (b":method", b"GET")] * 2000
    assert d.decode(b"\x82") == [(b":method", b"GET")]


def test_decode_takes_any_buffer() -> None:
    for kind in (bytes, bytearray, memoryview):
        assert hpack.Decoder().decode(kind(b"\x82")) == [(b":method", b"GET")]
    with pytest.raises(TypeError):
        hpack.Decoder().decode("82")  # type: ignore[arg-type]


# The encoder.


@pytest.mark.parametrize(
    "name",
    [b"authorization", b"proxy-authorization", b"api-key", b"x-api-key", b"cookie", b"set-cookie", b"Authorization"],
)
def test_secrets_are_never_indexed(name: bytes) -> None:
    e = hpack.Encoder()
    for _ in range(2):
        block = e.encode([(name, b"Bearer abc")])
        assert block[0] & 0xF0 == 0x10
    assert e.table == []
    assert hpack.field(name, b"Bearer abc")[0] & 0xF0 == 0x10
    assert hpack.Decoder().decode(block) == [(name, b"Bearer abc")]


def test_named_fields_are_never_indexed_even_if_the_static_table_has_them() -> None:
    e = hpack.Encoder()
    block = e.encode([(b":method", b"GET"), (b"x-team", b"t")], never_indexed={b":METHOD", b"X-Team"})
    assert block[0] == 0x12
    assert e.table == []
    assert hpack.Decoder().decode(block) == [(b":method", b"GET"), (b"x-team", b"t")]
    assert hpack.field(b":method", b"GET", never_indexed=True)[0] == 0x12


def test_a_secret_s_name_may_come_from_the_dynamic_table() -> None:
    e, d = hpack.Encoder(), hpack.Decoder()
    d.decode(e.encode([(b"x-team", b"a")]))
    block = e.encode([(b"x-team", b"s")], never_indexed=[b"x-team"])
    assert block[:2] == b"\x1f\x2f"
    assert d.decode(block) == [(b"x-team", b"s")]


def test_fields_without_the_dynamic_table() -> None:
    assert hpack.field(b":method", b"POST") == b"\x83"
    assert hpack.field(b"accept", b"text/event-stream")[:2] == b"\x0f\x04"
    assert hpack.field(b"x-run", b"\x00\x01") == b"\x00\x84" + huffman.encode(b"x-run") + b"\x02\x00\x01"
    block = hpack.field(b":path", b"/v1/chat/completions") + hpack.field(b"x", b"") + hpack.field(b"", b"x")
    d = hpack.Decoder(max_table_size=0)
    assert d.decode(block) == [(b":path", b"/v1/chat/completions"), (b"x", b""), (b"", b"x")]


def test_values_that_change_each_time_are_not_indexed() -> None:
    e = hpack.Encoder()
    e.encode(
        [(b"content-length", b"123"), (b"x-request-id", b"r1"), (b"traceparent", b"00-1-2-01"), (b"big", b"v" * 3100)]
    )
    assert e.table == []


def test_encoder_signals_the_smallest_and_the_final_size() -> None:
    e, d = hpack.Encoder(), hpack.Decoder()
    d.decode(e.encode([(b"a", b"b")]))
    for size in (1000, 100, 0, 4096):
        e.max_table_size = d.max_table_size = size
    block = e.encode([(b"a", b"b")])
    assert block[:4] == b"\x20\x3f\xe1\x1f"
    assert d.decode(block) == [(b"a", b"b")]
    assert d.table == e.table == [(b"a", b"b")]
    e.max_table_size = 0
    assert e.table_update() == b"\x20"
    assert e.table_update() == b""
    assert e.encode([(b":method", b"GET")]) == b"\x82"


def test_encoder_does_not_signal_what_did_not_change() -> None:
    e = hpack.Encoder()
    e.max_table_size = 4096
    assert e.table_update() == b""


def test_encoder_uses_no_more_than_its_cap() -> None:
    e = hpack.Encoder(table_cap=0)
    assert e.encode([(b"a", b"b")])[0] == 0x20
    assert e.table == []
    e = hpack.Encoder(table_cap=4096)
    e.max_table_size = 1 << 30
    assert (e.max_table_size, e.table_update()) == (4096, b"")


def test_encode_refuses_what_is_not_bytes() -> None:
    for wrong in ([("a", "b")], [(b"a",)], [(b"a", None)]):
        with pytest.raises((TypeError, ValueError)):
            hpack.Encoder().encode(wrong)  # type: ignore[arg-type]
