"""Values of settings that have a form of their own. Each function raises SettingsError, which says what is valid."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from flagsvc.core.access.roles import Role
from flagsvc.core.errors import InvalidRequest
from flagsvc.listening import UNIX
from flagsvc.urls import NOT_SHOWN, SettingsError, shown

if TYPE_CHECKING:
    from flagsvc.core.access.identity import Identity

CREDENTIALS = frozenset({"authorization", "x-api-key", "cookie"})
"""Headers that hold secrets, so that no evaluation context is read from them."""
LISTENERS = ("grpc", "sync", "ofrep")
"""Names of the ports for callers: those of FLAGSVC_PORT, FLAGSVC_SYNC_PORT and FLAGSVC_OFREP_PORT."""
ANONYMOUS_ROLES = (Role.EVALUATE.value, Role.READ.value)
"""Roles that callers without a credential can have; for OFREP `public` too."""
MAX_SOCKET_PATH = 90
"""Bytes of a unix socket's path. Systems allow 103 or 107, and it is placed under another name first."""
DEFAULT_RATES = {"evaluate": 5_000.0, "read": 100.0, "write": 50.0, "admin": 20.0}
"""Units per second of one caller, by class of calls."""
MAX_RATE = 1_000_000
_HOST_NAME = re.compile(r"[\w.-]+")
_HEADER = re.compile(r"[0-9a-z_.-]+")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s,A-Z]+")
_NAME = re.compile(r"[A-Za-z0-9._-]{0,64}")
_TAKEN_NAMES = frozenset({"feature-flag", "feature-flag-fill"})
"""As a prefix they would make keys that a deployment without prefix takes for its own."""


def pairs(text: str, name: str = "", form: str = "NAME=VALUE") -> dict[str, str]:
    """Parse `a=b,c=d`. Raises SettingsError for a part of another form, a repeated name or an invalid header name."""
    found: dict[str, str] = {}
    for part in text.split(",") if text else ():
        left, equals, right = part.partition("=")
        left = left.strip()
        if not (equals and left) or (form == "HEADER=NAME" and not right.strip()):
            raise SettingsError(f"{name} has {shown(part, text)}; each part between commas must be {form}")
        if form == "HEADER=NAME":
            left, right = left.lower(), right.strip()
            if left in CREDENTIALS:
                raise SettingsError(f"{name} has {shown(left, text)}; it must be no header that holds a secret")
            if not _HEADER.fullmatch(left) or left.endswith("-bin"):
                raise SettingsError(
                    f"{name} has {shown(left, text)}; it must be the name of a header with a text value"
                )
        if left in found:
            raise SettingsError(f"{name} has {shown(left, text)} twice; it must appear once")
        found[left] = right
    return found


def checked_name(text: str, name: str) -> str:
    """Return the text if it can be a part of the names of keys. Raises SettingsError."""
    if not _NAME.fullmatch(text) or text in _TAKEN_NAMES:
        wanted = "at most 64 letters, digits and . _ -, and not feature-flag"
        raise SettingsError(f"{name} is {shown(text)}; it must be {wanted}")
    return text


def host_names(text: str, name: str = "") -> tuple[str, ...]:
    """Parse comma-separated host names, without ports. Raises SettingsError."""
    found = tuple(part.strip().lower() for part in text.split(",")) if text else ()
    for host in found:
        if not _HOST_NAME.fullmatch(host):
            raise SettingsError(f"{name} has {shown(host, text)}; it must be a host name without a port")
    return found


def origins(text: str, name: str = "") -> tuple[str, ...]:
    """Parse comma-separated origins. Raises SettingsError for one that no browser sends."""
    found = tuple(part.strip() for part in text.split(",")) if text else ()
    for origin in found:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            wanted = "* or an origin such as https://app.example:8443"
            raise SettingsError(f"{name} has {NOT_SHOWN if '@' in text else repr(origin[:80])}; it must be {wanted}")
    return found


def default_sets(text: str, name: str = "") -> dict[str, str]:
    """Parse `web`, or `grpc=web;sync=default`, into the default flag set of each listener that has one."""
    return by_listener(text, name, "a flag set", "FLAG_SET")


def files_by_listener(text: str, name: str = "") -> dict[str, str]:
    """Parse `/ca.pem`, or `grpc=/ca.pem;sync=/ca.pem`, into the file of each listener that has one."""
    return by_listener(text, name, "a file", "FILE")


def by_listener(text: str, name: str = "", what: str = "a value", word: str = "VALUE") -> dict[str, str]:
    """Parse one value for all listeners, or `LISTENER=VALUE;...`. Raises SettingsError."""
    if "=" not in text:
        return dict.fromkeys(LISTENERS, text) if text else {}
    found: dict[str, str] = {}
    for part in text.split(";"):
        listener, equals, value = (each.strip() for each in part.partition("="))
        if listener not in LISTENERS or not (equals and value) or listener in found:
            form = f"{what} for all, or LISTENER={word} once for each of the listeners " + ", ".join(LISTENERS)
            raise SettingsError(f"{name} has {shown(part, text)}; it must be {form}, separated by semicolons")
        found[listener] = value
    return found


def rates(text: str, name: str = "") -> dict[str, float]:
    """Parse `evaluate=5000,write=20` into units per second by class; those left out have their default."""
    found = dict(DEFAULT_RATES)
    for kind, number in pairs(text, name, "CLASS=RATE").items():
        if kind not in DEFAULT_RATES:
            raise SettingsError(f"{name} has {shown(kind, text)}; the classes are {', '.join(DEFAULT_RATES)}")
        if not number.strip().isdecimal() or not 1 <= int(number) <= MAX_RATE:
            wanted = f"a whole number of calls a second from 1 to {MAX_RATE}"
            raise SettingsError(f"{name} has {shown(f'{kind}={number}', text)}; a rate must be {wanted}")
        found[kind] = float(number)
    return found


def anonymous_roles(text: str, name: str = "") -> dict[str, Identity]:
    """Parse `grpc=evaluate@default;sync=read@*` into who calls without a credential, by listener."""
    from flagsvc.core.access.identity import Identity, Kind  # noqa: PLC0415  with the rules' compiler: `health` is quick
    from flagsvc.core.access.scopes import scope_of  # noqa: PLC0415

    found: dict[str, Identity] = {}
    for part in text.split(";") if text else ():
        listener, _, rights = (each.strip() for each in part.partition("="))
        role, _, sets = (each.strip() for each in rights.partition("@"))
        roles = (*ANONYMOUS_ROLES, *((Role.PUBLIC.value,) if listener == "ofrep" else ()))
        if listener not in LISTENERS or role not in roles or listener in found:
            form = f"LISTENER={ANONYMOUS_ROLES[0]}@SETS, once for each of the listeners " + ", ".join(LISTENERS)
            named = f"the roles are {' and '.join(ANONYMOUS_ROLES)}, and for ofrep public"
            wanted = f"{form}, separated by semicolons; {named}"
            raise SettingsError(f"{name} has {shown(part, text)}; it must be {wanted}")
        try:
            scope = scope_of(each.strip() for each in sets.split(","))
        except InvalidRequest as error:
            raise SettingsError(f"{name} has {shown(part, text)}: {error}") from None
        found[listener] = Identity(Kind.ANONYMOUS, listener, "", Role(role), scope)
    return found


def socket_address(text: str, name: str = "") -> str:
    """Return the address of a unix socket: `unix:PATH` of it, or of gRPC's other form, `unix:///PATH`."""
    path = text.removeprefix(UNIX)
    path = path.removeprefix("//") if path.startswith("///") else path
    if not path or path.endswith("/") or path.startswith("//"):
        raise SettingsError(
            f"{name} is {shown(text)}; it must be a number or unix:PATH, such as unix:/run/flagsvc.sock"
        )
    if len(path.encode()) > MAX_SOCKET_PATH:
        raise SettingsError(f"{name} is {shown(text)}; the path of a socket must have at most {MAX_SOCKET_PATH} bytes")
    return f"{UNIX}{path}"
