"""Whom a client trusts, and how it proves who it is: TLS, a certificate of its own, a token."""

from __future__ import annotations

import ipaddress
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from flagsvc_client.errors import failure

Token = str | Callable[[], str]
"""A token, or what returns it for each call, without waiting: `TokenFile`, or a function of the caller's."""
Metadata = tuple[tuple[str, str], ...]
READ_EVERY_S = 1.0
_SCHEME = re.compile(r"(?:dns:(?:///)?|ipv4:|ipv6:|passthrough:(?:///)?)")
_LOCAL = ("unix:", "unix-abstract:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """TLS with PEM files, which are read when the client is made.

    `ca`: the CAs of the server's certificate; None for public ones. `certificate`, `key`: the client's own, for servers
    that require one. `server_name`: the name in the server's certificate if it is not the host of the target.
    """

    ca: str | os.PathLike[str] | None = None
    certificate: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    server_name: str = ""

    def credentials(self) -> grpc.ChannelCredentials:
        """Return gRPC's credentials. Raises OSError, and ValueError for a certificate without its key."""
        if (self.certificate is None) != (self.key is None):
            raise ValueError("tls has a certificate or a key; a client's own certificate needs both")
        ca, key, certificate = (
            None if path is None else Path(path).read_bytes() for path in (self.ca, self.key, self.certificate)
        )
        return grpc.ssl_channel_credentials(ca, key, certificate)


class TokenFile:
    """The token in a file, which may be replaced: it is looked at once a second at most."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._token, self._read_at = "", float("-inf")

    def __call__(self) -> str:
        """Return the token. Raises OSError."""
        now = time.monotonic()
        if now - self._read_at >= READ_EVERY_S:
            self._token, self._read_at = self._path.read_text(encoding="utf-8").strip(), now
        return self._token


class Access(NamedTuple):
    """`credentials`: None for plain text. `options`: of the channel. `token`: None for none."""

    credentials: grpc.ChannelCredentials | None
    options: tuple[tuple[str, Any], ...]
    token: Token | None

    def __repr__(self) -> str:
        """Return text for debugging, without the token."""
        return f"Access(encrypted={self.credentials is not None}, token={'none' if self.token is None else 'hidden'})"

    def metadata(self) -> Metadata | None:
        """Return the headers of a call. Raises FlagServiceError if there is no token to send."""
        if self.token is None:
            return None
        try:
            token = self.token if isinstance(self.token, str) else self.token()
            _check_token(token)
        except Exception as error:
            raise failure(
                grpc.StatusCode.UNAVAILABLE, f"there is no token to send: {type(error).__name__}", "NO_TOKEN"
            ) from error
        return (("authorization", f"Bearer {token}"),)


def access_for(
    target: str,
    *,
    credentials: grpc.ChannelCredentials | None,
    tls: Tls | bool,
    token: Token | None,
    plaintext_token: bool,
) -> Access:
    """Return how to connect to a target. Raises ValueError, also for a token that others could read on its way."""
    options: list[tuple[str, Any]] = []
    if tls:
        if credentials is not None:
            raise ValueError("both credentials and tls are given; leave one out")
        chosen = tls if isinstance(tls, Tls) else Tls()
        credentials = chosen.credentials()
        if chosen.server_name:
            options.append(("grpc.ssl_target_name_override", chosen.server_name))
    if isinstance(token, str):
        _check_token(token)
    if token is not None and credentials is None:
        if is_local(target):
            options.append(("grpc.enable_http_proxy", 0))  # nor may a proxy read it
        elif not plaintext_token:
            raise ValueError(
                f"the token would be sent to {target!r} in plain text; use tls, or plaintext_token=True if the network"
                " in between encrypts, as a service mesh does"
            )
    return Access(credentials, tuple(options), token)


def is_local(target: str) -> bool:
    """Whether a target can only be on this machine: a unix socket, or loopback addresses."""
    if target.startswith(_LOCAL):
        return True
    return all(map(_is_loopback, _SCHEME.sub("", target, count=1).split(",")))


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_token(token: object) -> None:
    """Raise ValueError for what cannot be sent as a token. The text does not repeat it."""
    if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("the token is empty, or has characters that no token has")
