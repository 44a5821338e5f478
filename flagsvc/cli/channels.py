"""Connections of the command line to a server: at which address, and through a proxy or not."""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from flagsvc.cli.terminal import say
from flagsvc.cli.tls import Tls, tls_for
from flagsvc.cli.usage import UsageError
from flagsvc.listening import UNIX
from flagsvc.settings import Settings
from flagsvc.urls import SettingsError, host_and_port

_SCHEME = re.compile(r"(?:dns|ipv4|ipv6):(?:///)?")
_OWN_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  the server listens on all, so on this one too
_NAMES = ("FLAGSVC_HOST", "FLAGSVC_PORT")


def server_address(args: argparse.Namespace, environ: Mapping[str, str]) -> str:
    """Return --address, --port on this machine, FLAGSVC_ADDRESS, or where `flagsvc serve` listens by its settings.

    Raises SettingsError and UsageError.
    """
    port = getattr(args, "port", None)
    if args.address and port is not None:
        raise UsageError("--address names a port already; leave out --port")
    if not asks_own_server(args, environ):
        return str(args.address or environ["FLAGSVC_ADDRESS"].strip())
    listens = {name: text for name, text in environ.items() if name.removesuffix("_FILE") in _NAMES}
    settings = Settings.from_env(listens, {} if port is None else {"port": port})
    if isinstance(settings.port, str):
        return settings.port
    if settings.port == 0:
        raise UsageError("FLAGSVC_PORT is 0, so the server's port is in its log; name it with --address")
    return host_and_port(_OWN_ADDRESS.get(settings.host, settings.host), settings.port)


def find_server(args: argparse.Namespace, environ: Mapping[str, str]) -> None:
    """Set the address and the TLS of the server in the arguments. Raises SettingsError and UsageError."""
    own = asks_own_server(args, environ)
    args.address = server_address(args, environ)
    args.encryption = tls_for(args, environ, own=own)


def asks_own_server(args: argparse.Namespace, environ: Mapping[str, str]) -> bool:
    """Whether the command is for the server of the environment's settings, on this machine."""
    return not (args.address or (getattr(args, "port", None) is None and environ.get("FLAGSVC_ADDRESS")))


def channel_to(args: argparse.Namespace, environ: Mapping[str, str]) -> grpc.Channel:
    """Connect to the server that `find_server` has found, with the token in the environment.

    Raises SettingsError and UsageError.
    """
    token = token_for(args.address, environ, encrypted=args.encryption is not None)
    return open_channel(args.address, tls=args.encryption, token=token)


def open_channel(address: str, *, proxy: bool = True, tls: Tls | None = None, token: str = "") -> grpc.Channel:
    """Connect to a server; to this machine, or with `proxy` false, never through an HTTP proxy.

    `token`: sent with every call.
    """
    options: list[tuple[str, int | str]] = [("grpc.max_receive_message_length", -1)]
    if not proxy or _is_here(address):
        options.append(("grpc.enable_http_proxy", 0))
    if tls is not None and tls.name:
        options.append(("grpc.ssl_target_name_override", tls.name))
    if tls is None:
        channel = grpc.insecure_channel(address, options=options)
    else:
        channel = grpc.secure_channel(address, tls.credentials, options=options)
    return grpc.intercept_channel(channel, _WithToken(token)) if token else channel


def token_for(address: str, environ: Mapping[str, str], *, encrypted: bool) -> str:
    """Return the token in FLAGSVC_TOKEN, or in the file that FLAGSVC_TOKEN_FILE names; empty without either.

    Raises SettingsError and UsageError: a token is sent in plain text to this machine only, unless somebody says that
    the network encrypts.
    """
    token, path = environ.get("FLAGSVC_TOKEN", "").strip(), environ.get("FLAGSVC_TOKEN_FILE", "").strip()
    if token and path:
        raise UsageError("FLAGSVC_TOKEN and FLAGSVC_TOKEN_FILE are both set; leave one out")
    if path:
        token = _token_in(Path(path))
    if token and (not token.isascii() or not token.isprintable() or " " in token):
        raise UsageError(f"{'FLAGSVC_TOKEN_FILE' if path else 'FLAGSVC_TOKEN'} has characters that no token has")
    may_be_read = not encrypted and not _is_here(address)
    if token and may_be_read and environ.get("FLAGSVC_PLAINTEXT_TOKEN", "").lower() not in ("true", "1"):
        raise UsageError(
            f"the token would be sent to {address} in plain text; use TLS (--tls-ca), or if the network between"
            " encrypts, as a service mesh does, set FLAGSVC_PLAINTEXT_TOKEN=true"
        )
    return token


def _token_in(path: Path) -> str:
    """Return the token in a file; a warning is printed if other users can read it. Raises SettingsError."""
    try:
        token, found = path.read_text(encoding="utf-8").strip(), path.stat()
    except (OSError, ValueError) as error:
        raise SettingsError(f"FLAGSVC_TOKEN_FILE: cannot read the file: {type(error).__name__}") from None
    if not token:
        raise SettingsError("FLAGSVC_TOKEN_FILE: the file is empty; it must have a token in it, and nothing else")
    if found.st_mode & stat.S_IROTH and found.st_uid == os.geteuid():
        say(f"warning: every user of this machine can read {path}; do this: chmod 600 {path}", error=True)
    return token


class _Details(NamedTuple):
    """A call, as an interceptor passes it on."""

    method: str
    timeout: float | None
    metadata: Sequence[tuple[str, str | bytes]]
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class _WithToken(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Adds a token to every call."""

    def __init__(self, token: str) -> None:
        self._header = "authorization", f"Bearer {token}"

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Pass a call on with the token."""
        return continuation(self._with_token(client_call_details), request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Pass a call on with the token."""
        return continuation(self._with_token(client_call_details), request)

    def _with_token(self, call: Any) -> _Details:
        metadata = (*(call.metadata or ()), self._header)
        return _Details(call.method, call.timeout, metadata, call.credentials, call.wait_for_ready, call.compression)


def _is_here(address: str) -> bool:
    if address.startswith(UNIX):
        return True
    host = _SCHEME.sub("", address).rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
