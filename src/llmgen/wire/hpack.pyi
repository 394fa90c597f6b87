from collections.abc import Collection, Iterable
from typing import Self, final

class Error(Exception):
    """A header block that breaks RFC 7541, or a header list above the limit.

    `over_limit`: the block was well-formed and the decoder can go on; otherwise the connection is lost.
    """

    over_limit: bool
    def __init__(self, message: str, over_limit: bool = False) -> None: ...

@final
class Decoder:
    """The receiving end of one connection's header blocks.

    `max_table_size`: bytes of dynamic table, as RFC 7541 4.1 counts (our SETTINGS_HEADER_TABLE_SIZE); it is also the
    size in use at first. `max_header_list_size`: bytes of a block's fields, 32 added for each (RFC 9113 6.5.2).
    """

    def __new__(cls, max_table_size: int = 4096, max_header_list_size: int = 65536) -> Self: ...
    def decode(self, block: bytes | bytearray | memoryview) -> list[tuple[bytes, bytes]]:
        """The fields of a whole header block (HEADERS and CONTINUATION joined), in order.

        Error: the block is malformed, or the list is above the limit; in the second case the dynamic table has been
        kept up to date. Field names are not checked for HTTP's rules.
        """

    @property
    def max_table_size(self) -> int:
        """The limit of the dynamic table. Set below the size in use, it obliges the next block to begin with a size
        update (RFC 9113 4.3.1)."""

    @max_table_size.setter
    def max_table_size(self, size: int) -> None: ...
    @property
    def max_header_list_size(self) -> int:
        """Bytes of a block's fields, 32 added for each."""

    @max_header_list_size.setter
    def max_header_list_size(self, size: int) -> None: ...
    @property
    def table_size(self) -> int:
        """Bytes of the dynamic table now, 32 added for each entry."""

    @property
    def table(self) -> list[tuple[bytes, bytes]]:
        """The dynamic table, newest entry (index 62) first."""

@final
class Encoder:
    """The sending end of one connection's header blocks. `table_cap`: bytes of dynamic table used at most, whatever
    the peer allows; the peer's limit is 4096 until `max_table_size` is set."""

    def __new__(cls, table_cap: int = 65536) -> Self: ...
    def encode(self, headers: Iterable[tuple[bytes, bytes]], never_indexed: Collection[bytes] = frozenset()) -> bytes:
        """A header block. Fields named in `never_indexed` (in any case of letters), and those that carry secrets
        (authorization, api-key, cookie and their kind), are sent as never-indexed literals."""

    def table_update(self) -> bytes:
        """Pending table size updates: what a block that is not built by `encode` must begin with."""

    @property
    def max_table_size(self) -> int:
        """The size in use; set to the peer's SETTINGS_HEADER_TABLE_SIZE. A change is signalled in the next block."""

    @max_table_size.setter
    def max_table_size(self, size: int) -> None: ...
    @property
    def table_size(self) -> int:
        """Bytes of the dynamic table now, 32 added for each entry."""

    @property
    def table(self) -> list[tuple[bytes, bytes]]:
        """The dynamic table, newest entry (index 62) first."""

def field(name: bytes, value: bytes, never_indexed: bool = False) -> bytes:
    """One field that needs no dynamic table: the same bytes are right in any block of any connection."""
