"""Certificate, key and client CAs: read from their files, and proven before anything is served with them."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

MAX_FILE_BYTES = 1_000_000
MIN_RSA_BITS = 2_048
CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
ALPN = {"grpc": ("http/1.1", "h2"), "ofrep": ("http/1.1",), "management": ("http/1.1",)}
"""Protocols of the listeners whose handshakes are done here, the preferred one first; gRPC does those of the others.

gRPC's libraries offer h2 alone. Browsers and curl offer both, and speak Connect, which is served over HTTP/1.1 only.
"""


class PairRefused(Exception):
    """The files cannot be served. The text names the setting and the file, and shows nothing of the key."""


class FilesChanged(Exception):
    """The files changed while they were read."""


@dataclass(frozen=True, slots=True)
class Files:
    """Where the PEM files are. `client_cas`: by listener, for those that require client certificates."""

    certificate: Path
    key: Path
    client_cas: Mapping[str, Path]


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in the files."""

    certificate: bytes
    key: bytes = field(repr=False)
    client_cas: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its key that is good to serve. `contexts`: by listener, those of ALPN."""

    contents: Contents
    expires_at: datetime
    contexts: Mapping[str, ssl.SSLContext]


def read(files: Files) -> Contents:
    """Read the files. Raises PairRefused."""
    return Contents(
        _bytes("FLAGSVC_TLS_CERT", files.certificate),
        _bytes("FLAGSVC_TLS_KEY", files.key),
        {listener: _bytes("FLAGSVC_TLS_CLIENT_CA", path) for listener, path in files.client_cas.items()},
    )


def prove(files: Files, contents: Contents, *, now: datetime | None = None) -> Pair:
    """Return the pair, tried on contexts of its own. Raises PairRefused, and FilesChanged.

    `now`: when the certificate must be valid; None for any time.
    """
    certificate = _certificates("FLAGSVC_TLS_CERT", files.certificate, contents.certificate)[0]
    for listener, path in files.client_cas.items():
        _certificates("FLAGSVC_TLS_CLIENT_CA", path, contents.client_cas[listener])
    _check_key(files, certificate, contents.key)
    if now is not None and not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        valid = f"valid from {certificate.not_valid_before_utc:%F %T} to {certificate.not_valid_after_utc:%F %T} UTC"
        _refuse("FLAGSVC_TLS_CERT", files.certificate, f"the certificate is {valid}, so not now")
    try:
        contexts = {listener: _context(files, contents, listener) for listener in ALPN}
    except OSError as error:  # SSLError is one
        reason = getattr(error, "reason", None) or type(error).__name__
        _refuse("FLAGSVC_TLS_CERT", files.certificate, f"it cannot be served with its key: {reason}")
    finally:
        # The contexts are loaded from the files, which may have been replaced since their contents were read.
        if read(files) != contents:
            raise FilesChanged
    return Pair(contents, certificate.not_valid_after_utc, contexts)


def _context(files: Files, contents: Contents, listener: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(list(ALPN[listener]))
    context.load_cert_chain(files.certificate, files.key)
    if client_ca := contents.client_cas.get(listener):
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=client_ca.decode())
    return context


def _check_key(files: Files, certificate: x509.Certificate, pem: bytes) -> None:
    """Raise PairRefused unless it is the certificate's key, of a kind that every client and gRPC's own TLS know."""
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        _refuse("FLAGSVC_TLS_KEY", files.key, "the key is encrypted; it must be a key without a password")
    except (ValueError, UnsupportedAlgorithm):
        _refuse("FLAGSVC_TLS_KEY", files.key, "it is no private key in PEM form")
    try:
        public = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        _refuse("FLAGSVC_TLS_CERT", files.certificate, "its key is of a kind that is not known")
    is_rsa = isinstance(public, rsa.RSAPublicKey) and public.key_size >= MIN_RSA_BITS
    if not is_rsa and not (isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, CURVES)):
        wanted = f"RSA of at least {MIN_RSA_BITS} bits, or ECDSA with P-256, P-384 or P-521"
        _refuse("FLAGSVC_TLS_CERT", files.certificate, f"its key must be {wanted}")
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if key.public_key().public_bytes(*form) != public.public_bytes(*form):
        _refuse("FLAGSVC_TLS_KEY", files.key, f"it is not the key of the first certificate in '{files.certificate}'")


def _certificates(setting: str, path: Path, pem: bytes) -> list[x509.Certificate]:
    try:
        pem.decode()
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        _refuse(setting, path, "it has no certificates in PEM form, or one that is malformed")


def _bytes(setting: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            found = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        _refuse(setting, path, f"it cannot be read: {type(error).__name__}")
    if len(found) > MAX_FILE_BYTES:
        _refuse(setting, path, f"it has more than {MAX_FILE_BYTES:,} bytes")
    return found


def _refuse(setting: str, path: Path, why: str) -> NoReturn:
    raise PairRefused(f"{setting} names the file '{path}': {why}") from None


def utc_now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)
