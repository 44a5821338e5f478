"""Why a server cannot be used: a driver's error in words that an operator can act on.

The words carry no address, no credentials and nothing of a flag, so that they may stand in a log line and in a status.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Iterator
from typing import NamedTuple

MAX_CHARS = 200
_ADDRESS = re.compile(r"\[[0-9a-f:]+\]:\d+|\b\d{1,3}(\.\d{1,3}){3}(:\d+)?")


class Cause(NamedTuple):
    """What is wrong, and what to do about it."""

    text: str
    cure: str


_TLS_CURE = "give the CA that signed the server's certificate in the URL, and use the host name of the certificate"
_CONNECTING = (
    ("Hostname mismatch|IP address mismatch", "the server's certificate is for another host", _TLS_CURE),
    ("self.signed certificate", "the server's certificate is self-signed and its CA is not known", _TLS_CURE),
    ("certificate has expired", "the server's certificate has expired", "renew the server's certificate"),
    ("CERTIFICATE_VERIFY_FAILED", "the server's certificate is signed by an unknown CA", _TLS_CURE),
    (
        "CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE|UNKNOWN_CA|BAD_CERTIFICATE",
        "the server refuses this client's certificate",
        "give a client certificate that the server accepts in the URL",
    ),
    (
        "WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE|UNEXPECTED_EOF|SSL handshake|unknown protocol",
        "the TLS handshake failed: the server probably does not use TLS on this port",
        "use the server's TLS port, or a URL without TLS",
    ),
    (
        "No such file|FileNotFoundError|tlsCAFile|tlsCertificateKeyFile",
        "a certificate file that the URL names cannot be read",
        "check the paths of the certificate files in the URL",
    ),
    (
        r"\[(SSL|PEM|X509)\] (PEM|no)|NO_CERTIFICATE_OR_CRL_FOUND",
        "a certificate file that the URL names has no usable certificate",
        _TLS_CURE,
    ),
    (
        "Name or service not known|nodename nor servname|name resolution|No address associated|gaierror",
        "the host name cannot be resolved",
        "check the host name in the URL, and the DNS of this machine",
    ),
    (
        "Connection refused|Connect call failed|ConnectionRefusedError",
        "the connection is refused",
        "check that the server is running, and the host and port in the URL",
    ),
    (
        "No route to host|Network is unreachable",
        "there is no route to the server",
        "check the network between this machine and the server",
    ),
    (
        "Connection reset|[Cc]onnection closed|closed by server|Broken pipe|handler is closed|ConnectionReset",
        "the server closes the connection",
        "check the server's log; if it expects TLS, use a URL with TLS",
    ),
    (
        "[Tt]ime(d )?out|TimeoutError",
        "the server does not answer in time",
        "check that the server is running and not overloaded, and that both sides agree on TLS",
    ),
)


def connection_cause(error: BaseException) -> Cause | None:
    """Return why no connection was made; None for an error that is not about connecting."""
    said = " ".join(f"{type(each).__name__} {each}" for each in chain(error))
    for pattern, text, cure in _CONNECTING:
        if re.search(pattern, said):
            return Cause(text, cure)
    if any(isinstance(each, ssl.SSLError) for each in chain(error)):
        return Cause("the TLS handshake failed", _TLS_CURE)
    if isinstance(error, OSError | asyncio.TimeoutError):
        return Cause("the connection fails", "check that the server is running and reachable")
    return None


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and what led to it."""
    current: BaseException | None = error
    for _ in range(8):
        if current is None:
            return
        yield current
        current = current.__cause__ or current.__context__


def bounded(text: str) -> str:
    """Return a server's words on one line, without addresses and cut after `MAX_CHARS` characters."""
    line = _ADDRESS.sub("(address)", " ".join(text.split()))
    line = "".join(letter if letter.isprintable() else "?" for letter in line)
    return line if len(line) <= MAX_CHARS else f"{line[:MAX_CHARS]}..."
