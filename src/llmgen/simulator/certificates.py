"""The endpoint's TLS: the server's context, and a self-signed certificate where none is given."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import tempfile
from pathlib import Path

from llmgen.errors import ConfigError
from llmgen.simulator.options import Options

DAYS = 30  # of a self-signed certificate: long enough for a soak, too short to be relied on
ALPN = {"1.1": ["http/1.1"], "2": ["h2"], "both": ["h2", "http/1.1"]}


def server_context(options: Options) -> ssl.SSLContext:
    """TLS 1.2 or newer with the protocols of `options.http` by ALPN. ConfigError names the file that does not do."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(ALPN[options.http])
    if options.cert is None:
        certificate, key = self_signed(options.host)
        if options.write_cert is not None:
            _write(options.write_cert, certificate)
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:
            file.write(certificate + key)
            file.flush()
            context.load_cert_chain(file.name)
    else:
        _load(context, options.cert, options.key)
    if options.client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(options.client_ca)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(f"client_ca: cannot use {options.client_ca!r}: {error}") from None
    return context


def _load(context: ssl.SSLContext, cert: str, key: str | None) -> None:
    try:
        context.load_cert_chain(cert, key)
    except OSError as error:
        raise ConfigError(f"cert: cannot use {cert!r} with key {key!r}: {error}") from None


def _write(path: str, certificate: bytes) -> None:
    try:
        Path(path).write_bytes(certificate)
    except OSError as error:
        raise ConfigError(f"write_cert: cannot write {path!r}: {error.strerror}") from None


def self_signed(host: str) -> tuple[bytes, bytes]:
    """Certificate and key in PEM for localhost, 127.0.0.1, ::1 and `host`; its own authority."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        raise ConfigError(
            "tls: give --cert and --key, or install the package cryptography for a self-signed certificate"
        ) from None
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "llmgen serve")])
    names: list[x509.GeneralName] = [x509.DNSName("localhost")]
    for address in dict.fromkeys(["127.0.0.1", "::1", host]):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(address)))
        except ValueError:
            if address != "localhost":
                names.append(x509.DNSName(address))
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
