"""Connections of the command line to a server: at which address, and through a proxy or not."""

from __future__ import annotations

import argparse
import ipaddress
import re
from collections.abc import Mapping

import grpc

from flagsvc.cli.tls import Tls, tls_for
from flagsvc.cli.usage import UsageError
from flagsvc.listening import UNIX
from flagsvc.settings import Settings
from flagsvc.urls import host_and_port

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


def open_channel(address: str, *, proxy: bool = True, tls: Tls | None = None) -> grpc.Channel:
    """Connect to a server; to this machine, or with `proxy` false, never through an HTTP proxy."""
    options: list[tuple[str, int | str]] = [("grpc.max_receive_message_length", -1)]
    if not proxy or _is_here(address):
        options.append(("grpc.enable_http_proxy", 0))
    if tls is None:
        return grpc.insecure_channel(address, options=options)
    if tls.name:
        options.append(("grpc.ssl_target_name_override", tls.name))
    return grpc.secure_channel(address, tls.credentials, options=options)


def _is_here(address: str) -> bool:
    if address.startswith(UNIX):
        return True
    host = _SCHEME.sub("", address).rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
