import ssl
from collections.abc import Sequence
from typing import Self, final

def make_context(
    *, insecure: bool, ca: str | None, cert: str | None, key: str | None, alpn: Sequence[str]
) -> ssl.SSLContext:
    """A client's context: at least TLS 1.2; certificates and host names are verified unless `insecure`.

    `ca`: a PEM file of the authorities to trust instead of the system's. `cert`, `key`: PEM files of the client's own
    certificate (with its chain) and key; `key` may be in the first file. `alpn`: protocols in order of preference.
    ConfigError: a file cannot be read or used, or certificate and key do not belong together.
    """

@final
class Endpoint:
    """One end of TLS connections: a context, and for a client the host whose name (or address) is sent as SNI and must
    be in the certificate. It keeps the newest ticket, so that later connections can resume, and counts handshakes.
    ValueError: no host, though the context checks it."""

    def __new__(cls, context: ssl.SSLContext, host: str | None, *, server: bool = False) -> Self: ...
    @property
    def context(self) -> ssl.SSLContext: ...
    @property
    def host(self) -> str | None: ...
    @property
    def server(self) -> bool: ...
    @property
    def ticket(self) -> ssl.SSLSession | None: ...
    @property
    def handshakes(self) -> int:
        """Handshakes completed."""

    @property
    def resumed(self) -> int:
        """Of them, those that resumed an earlier session."""

@final
class Session:
    """One TLS connection without a socket. Once `error` is set, or `closed`, it stays so."""

    def __new__(cls, endpoint: Endpoint) -> Self: ...
    @property
    def error(self) -> str | None:
        """What was wrong: of the certificate, of the peer's answer, or an end without close_notify."""

    @property
    def alpn(self) -> str | None:
        """The protocol agreed on, if any."""

    @property
    def version(self) -> str | None:
        """For example TLSv1.3; None before the handshake is done."""

    @property
    def cipher(self) -> str | None:
        """OpenSSL's name of the cipher suite; None before the handshake is done."""

    @property
    def established(self) -> bool:
        """The handshake is done."""

    @property
    def reused(self) -> bool:
        """The handshake resumed an earlier session."""

    @property
    def closed(self) -> bool:
        """The peer sent close_notify, or we did."""

    def do_handshake(self) -> bool:
        """Goes on with the handshake; True when it is done. Look at `error` and `take` after it."""

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypted bytes from the peer."""

    def read(self, cap: int = 16384) -> bytes | None:
        """Plain bytes of at most one record; None: more is needed; empty: `closed` or `error`."""

    def send(self, *parts: bytes) -> bool:
        """Encrypts the parts (at most 16) into as few records as they fit in. False: see `error`. RuntimeError before
        the handshake is done."""

    def take(self, most: int = ...) -> bytes:
        """Encrypted bytes for the peer, at most so many; empty: none."""

    def end(self) -> bool:
        """The socket ended, and all was read: True after close_notify, else the stream was cut off (`error`)."""

    def goodbye(self) -> None:
        """Writes close_notify."""
