"""Certificates made by the test that uses them: a CA of its own, and what it signs."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

LOCAL = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
DAY = timedelta(days=1)


def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass
class Signed:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: CertificateIssuerPrivateKeyTypes

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def put(self, folder: Path, name: str = "tls") -> tuple[Path, Path]:
        """Write both into files, each replaced whole, and return their paths."""
        paths = folder / f"{name}.crt", folder / f"{name}.key"
        for path, pem in zip(paths, (self.pem, self.key_pem), strict=True):
            put(path, pem)
        return paths

    def context(self, folder: Path, name: str = "tls") -> ssl.SSLContext:
        """A server's context."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.put(folder, name))
        return context


@dataclass
class Authority:
    """A CA."""

    name: str = "test CA"
    own: Signed = field(init=False)

    def __post_init__(self) -> None:
        key = ec_key()
        builder = _builder(self.name, self.name, key, -DAY, DAY)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.own = Signed(builder.sign(key, hashes.SHA256()), key)

    def sign(
        self,
        name: str = "flagsvc",
        names: Sequence[x509.GeneralName] = LOCAL,
        *,
        key: CertificateIssuerPrivateKeyTypes | None = None,
        begins: timedelta = -DAY,
        ends: timedelta = DAY,
    ) -> Signed:
        """Return a new certificate for these names."""
        key = key or ec_key()
        builder = _builder(name, self.name, key, begins, ends)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return Signed(builder.sign(self.own.key, hashes.SHA256()), key)

    def put(self, folder: Path, name: str = "ca.crt") -> Path:
        """Write the CA's certificate into a file."""
        put(folder / name, self.own.pem)
        return folder / name

    def trusting(
        self, own: Signed | None = None, *, alpn: Sequence[str] = (), folder: Path | None = None
    ) -> ssl.SSLContext:
        """A client's context that trusts this CA."""
        context = ssl.create_default_context(cadata=self.own.pem.decode())
        if alpn:
            context.set_alpn_protocols(list(alpn))
        if own is not None and folder is not None:
            context.load_cert_chain(*own.put(folder, "client"))
        return context

    def credentials(self, own: Signed | None = None) -> grpc.ChannelCredentials:
        """A gRPC client's credentials that trust this CA."""
        pair = (own.key_pem, own.pem) if own else (None, None)
        return grpc.ssl_channel_credentials(self.own.pem, *pair)


def put(path: Path, content: bytes) -> None:
    """Replace a file whole."""
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(content)
    new.replace(path)


def _builder(
    name: str, issuer: str, key: CertificateIssuerPrivateKeyTypes, begins: timedelta, ends: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
    )
