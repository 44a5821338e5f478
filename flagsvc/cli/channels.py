"""Connections of the command line to a server: at which address, and through a proxy or not."""

from __future__ import annotations

import argparse
import ipaddress
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from flagsvc.cli.usage import UsageError
from flagsvc.listening import UNIX
from flagsvc.settings import Settings
from flagsvc.urls import SettingsError, host_and_port

_SCHEME = re.compile(r"(?:dns|ipv4|ipv6):(?://[^/]*/)?")
_OWN_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  the server listens on all, so on this one too
_NAMES = ("FLAGSVC_HOST", "FLAGSVC_PORT")


def server_address(args: argparse.Namespace, environ: Mapping[str, str]) -> str:
    """Return --address, --port on this machine, FLAGSVC_ADDRESS, or where `flagsvc serve` listens by its settings.

    Raises SettingsError and UsageError.
    """
    port = getattr(args, "port", None)
    if args.address and port is not None:
        raise UsageError("--address names a port already; leave out --port")
    if args.address or (port is None and environ.get("FLAGSVC_ADDRESS")):
        return str(args.address or environ["FLAGSVC_ADDRESS"].strip())
    listens = {name: text for name, text in environ.items() if name.removesuffix("_FILE") in _NAMES}
    settings = Settings.from_env(listens, {} if port is None else {"port": port})
    if isinstance(settings.port, str):
        return settings.port
    if settings.port == 0:
        raise UsageError("FLAGSVC_PORT is 0, so the server's port is in its log; name it with --address")
    return host_and_port(_OWN_ADDRESS.get(settings.host, settings.host), settings.port)


def open_channel(address: str, *, proxy: bool = True, token: str = "") -> grpc.Channel:
    """Connect to a server; to this machine, or with `proxy` false, never through an HTTP proxy.

    `token`: sent with every call.
    """
    options: list[tuple[str, int]] = [("grpc.max_receive_message_length", -1)]
    if not proxy or _is_here(address):
        options.append(("grpc.enable_http_proxy", 0))
    channel = grpc.insecure_channel(address, options=options)
    return grpc.intercept_channel(channel, _WithToken(token)) if token else channel


def token_for(address: str, environ: Mapping[str, str]) -> str:
    """Return the token in FLAGSVC_TOKEN, or in the file that FLAGSVC_TOKEN_FILE names; empty without either.

    Raises SettingsError and UsageError: a token is sent in plain text to this machine only, unless somebody says that
    the network encrypts.
    """
    token, path = environ.get("FLAGSVC_TOKEN", "").strip(), environ.get("FLAGSVC_TOKEN_FILE", "").strip()
    if token and path:
        raise UsageError("FLAGSVC_TOKEN and FLAGSVC_TOKEN_FILE are both set; leave one out")
    if path:
        try:
            token = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise SettingsError(f"FLAGSVC_TOKEN_FILE: cannot read the file: {type(error).__name__}") from None
    if token and not token.isascii():
        raise UsageError("FLAGSVC_TOKEN has characters that no token has")
    if token and not _is_here(address) and environ.get("FLAGSVC_PLAINTEXT_TOKEN", "").lower() not in ("true", "1"):
        raise UsageError(
            f"the token would be sent to {address} in plain text; if the network between encrypts, as a service mesh"
            " does, set FLAGSVC_PLAINTEXT_TOKEN=true"
        )
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
