"""TLS of the command line's connections: whom it trusts, and the certificate that it shows."""

from __future__ import annotations

import argparse
import contextlib
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import grpc

from flagsvc.cli.options import TLS_OPTIONS
from flagsvc.cli.usage import UsageError
from flagsvc.listening import UNIX
from flagsvc.setting_values import by_listener
from flagsvc.settings import Settings
from flagsvc.urls import SettingsError

CONNECT_S = 3.0
_OF_SERVER = ("FLAGSVC_TLS_CERT", "FLAGSVC_TLS_KEY", "FLAGSVC_TLS_CLIENT_CA")


_NOT_NOW = (
    ("certificate has expired", "the server's certificate has expired"),
    ("certificate is not yet valid", "the server's certificate is not valid yet: compare the clocks"),
)
_FAILURES = (
    *_NOT_NOW,
    ("CERTIFICATE_VERIFY_FAILED", "the server's certificate is not of a CA that is trusted; name its CA with --tls-ca"),
    (
        "ostname Verification",
        "the server's certificate has another name than this address; say which name is right with --tls-name",
    ),
    ("WRONG_VERSION_NUMBER", "the server answers without TLS"),
    (
        "ocket closed",
        "the server closes it; if it requires client certificates, show one with --tls-client-cert",
    ),
)
"""Parts of gRPC's texts, and what they mean."""


class Tls(NamedTuple):
    """`name`: the one that the server's certificate must have; empty for the host of the address.

    `is_own`: what the server of this machine serves is trusted, whatever it is.
    """

    credentials: grpc.ChannelCredentials
    name: str = ""
    is_own: bool = False


def tls_for(args: argparse.Namespace, environ: Mapping[str, str], *, own: bool) -> Tls | None:
    """Return the TLS of a connection; None: it is in plain text. Raises SettingsError and UsageError.

    `own`: the server is the one of the environment's settings, on this machine.
    """
    given = {name: _given(args, option, environ.get(name, "").strip()) for option, (name, _) in TLS_OPTIONS.items()}
    pair = given["FLAGSVC_TLS_CLIENT_CERT"], given["FLAGSVC_TLS_CLIENT_KEY"]
    if bool(pair[0]) != bool(pair[1]):
        raise UsageError("--tls-client-cert and --tls-client-key go together")
    name = given["FLAGSVC_TLS_NAME"]
    settings = _own_settings(environ) if own else None
    is_own = False
    if given["FLAGSVC_TLS_CA"] or given["FLAGSVC_TLS"].lower() in ("true", "1"):
        roots = _read("--tls-ca", given["FLAGSVC_TLS_CA"], "CERTIFICATE") if given["FLAGSVC_TLS_CA"] else None
    elif settings is not None and settings.tls_cert:
        is_own = True
        roots = _served(str(args.address))
        name = name or _name_in(roots)
        if not pair[0] and "grpc" in by_listener(settings.tls_client_ca):
            pair = settings.tls_cert, settings.tls_key
    elif name or pair[0]:
        raise UsageError("--tls-name and --tls-client-cert need --tls-ca, or --tls for a public CA")
    else:
        return None
    shown: tuple[bytes | None, bytes | None] = None, None
    if pair[0]:
        key = _read("--tls-client-key", pair[1], "PRIVATE KEY")
        shown = key, _read("--tls-client-cert", pair[0], "CERTIFICATE")
    return Tls(grpc.ssl_channel_credentials(roots, *shown), name, is_own)


def failure(details: str) -> str | None:
    """Return why a handshake failed, from gRPC's text; None if it says something else."""
    return next((words for part, words in _FAILURES if part in details), None)


def not_valid_now(details: str) -> str | None:
    """Return that the server's certificate is not valid at this time, if gRPC's text says so."""
    return next((words for part, words in _NOT_NOW if part in details), None)


def _given(args: argparse.Namespace, option: str, otherwise: str) -> str:
    value = getattr(args, option.removeprefix("--").replace("-", "_"), "")
    return "true" if value is True else value or otherwise


def _own_settings(environ: Mapping[str, str]) -> Settings:
    return Settings.from_env({name: text for name, text in environ.items() if name.removesuffix("_FILE") in _OF_SERVER})


def _read(option: str, path: str, kind: str) -> bytes:
    """Return a PEM file's content. `kind`: what must be in it. Raises SettingsError."""
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise SettingsError(f"{option}: cannot read {path!r}: {type(error).__name__}") from None
    if f"{kind}-----".encode() not in content:
        raise SettingsError(f"{option}: {path!r} is not a PEM file with a {kind.lower()}")
    return content


def _served(address: str) -> bytes:
    """Return the certificate that the server on this machine serves, to trust it alone; empty if it serves none.

    It need not be the one in the server's file, where a new one may be broken.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with contextlib.suppress(OSError, ValueError), connected(address) as plain, context.wrap_socket(plain) as secured:
        return ssl.DER_cert_to_PEM_cert(secured.getpeercert(binary_form=True) or b"").encode()
    return b""


def connected(address: str) -> socket.socket:
    """Connect to a server on this machine. Raises OSError."""
    if address.startswith(UNIX):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(CONNECT_S)
        connection.connect(address.removeprefix(UNIX))
        return connection
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S)


def _name_in(certificate: bytes) -> str:
    """Return a name that the certificate is for."""
    from cryptography import x509  # noqa: PLC0415  only this needs it

    with contextlib.suppress(ValueError, x509.ExtensionNotFound):
        names = x509.load_pem_x509_certificate(certificate).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
        found = [*names.value.get_values_for_type(x509.DNSName), *names.value.get_values_for_type(x509.IPAddress)]
        return str(found[0]).replace("*", "any") if found else ""
    return ""
