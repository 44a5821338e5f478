"""Whether callers are authenticated. Where other machines can connect, that must have been decided."""

from __future__ import annotations

import ipaddress
from enum import StrEnum

import structlog

from flagsvc.listening import OFF, UNIX
from flagsvc.settings import Settings
from flagsvc.urls import SettingsError

PORTS = ("port", "sync_port", "ofrep_port", "management_port")

log = structlog.get_logger(__name__)


class AuthMode(StrEnum):
    """What FLAGSVC_AUTH decides."""

    OFF = "off"
    """Whoever connects may do everything."""
    REQUIRED = "required"
    """Every call needs a credential, except from callers to whom their listener gives a role without one."""


def auth_mode(settings: Settings) -> AuthMode:
    """Return the mode. Raises SettingsError where nobody has decided, and other machines can connect."""
    if settings.anonymous and settings.auth != AuthMode.REQUIRED:
        raise SettingsError("FLAGSVC_ANONYMOUS has no effect without FLAGSVC_AUTH=required; set that, or remove it")
    if settings.auth:
        return AuthMode(settings.auth)
    if addresses := _open_addresses(settings):
        raise SettingsError(
            f"FLAGSVC_AUTH is not set, and other machines can connect to {' and '.join(addresses)}: whoever does could"
            " read and change every flag. To ask callers for tokens, set FLAGSVC_AUTH=required, and make the first"
            " token with: flagsvc token create NAME --role admin --store URL. If only programs that may do so can"
            " connect, set FLAGSVC_AUTH=off. To serve this machine only, set FLAGSVC_HOST=127.0.0.1"
        )
    return AuthMode.OFF


def warn(settings: Settings) -> None:
    """Log once what is open: every program on this machine may do everything, or tokens cross a network unencrypted."""
    in_plain_text = settings.auth == AuthMode.REQUIRED and not settings.tls_cert
    if in_plain_text and (addresses := _open_addresses(settings)):
        detail = "Tokens can be read on their way, unless a proxy or a service mesh encrypts: set FLAGSVC_TLS_CERT."
        log.warning("tokens_in_plain_text", addresses=addresses, detail=detail)
    if not settings.auth:
        detail = "Every program on this machine can read and change flags. FLAGSVC_AUTH=off says that it is meant so."
        log.warning("auth_not_decided", detail=detail)


def _open_addresses(settings: Settings) -> list[str]:
    """Return the addresses, of ports that are on, to which other machines can connect."""
    hosts = dict.fromkeys(PORTS, settings.host)
    hosts["management_port"] = settings.management_host or settings.host
    found = (host for port, host in hosts.items() if _is_tcp(getattr(settings, port)) and not is_loopback(host))
    return list(dict.fromkeys(found))


def _is_tcp(port: int | str) -> bool:
    return port != OFF and not str(port).startswith(UNIX)


def is_loopback(host: str) -> bool:
    """Whether an address, or `localhost`, is this machine's own."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
