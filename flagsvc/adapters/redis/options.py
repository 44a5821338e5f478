"""The options that a cache URL may have. The driver takes any, and fails on some when it connects."""

from __future__ import annotations

import difflib
from urllib.parse import parse_qsl, urlsplit

_BOOLEAN = ("true", "false", "yes", "no", "1", "0")
_OPTIONS: dict[str, tuple[str, ...]] = {
    "db": (),
    "username": (),
    "password": (),
    "client_name": (),
}
"""Name -> valid values; none: any."""
_TLS_OPTIONS: dict[str, tuple[str, ...]] = {
    "ssl_ca_certs": (),
    "ssl_ca_path": (),
    "ssl_certfile": (),
    "ssl_keyfile": (),
    "ssl_password": (),
    "ssl_ciphers": (),
    "ssl_cert_reqs": ("required", "optional", "none"),
    "ssl_check_hostname": _BOOLEAN,
}
_INSTEAD = {
    "ssl": "use rediss:// for TLS",
    "tls": "use rediss:// for TLS",
    "socket_timeout": "use FLAGSVC_CACHE_TIMEOUT_S",
    "timeout": "use FLAGSVC_CACHE_TIMEOUT_S",
}


def checked_options(url: str) -> str:
    """Return the URL if its database and options are valid. Raises ValueError, whose text has no value of an option."""
    parts = urlsplit(url)
    path = parts.path.strip("/")
    if path and not path.isdecimal():
        raise ValueError("the URL's path must be a database number, as in redis://HOST:PORT/0")
    options = parse_qsl(parts.query, keep_blank_values=True)
    for number, (name, value) in enumerate(options):
        _check(name, value, tls=parts.scheme == "rediss")
        if name in dict(options[:number]):
            raise ValueError(f"the option {name} stands twice in the URL")
        if name == "db" and path:
            raise ValueError("the URL has a database in its path and in the option db; it must have one of them")
    return url


def _check(name: str, value: str, *, tls: bool) -> None:
    known = _OPTIONS | _TLS_OPTIONS
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = _INSTEAD.get(name) or (f"did you mean {close[0]}?" if close else f"the options are {', '.join(known)}")
        raise ValueError(f"unknown option {name[:40]!r} in the URL; {hint}")
    if name in _TLS_OPTIONS and not tls:
        raise ValueError(f"the option {name} has no effect with redis://; use rediss:// for TLS")
    if known[name] and value.lower() not in known[name]:
        raise ValueError(f"the option {name} must be one of {', '.join(known[name])}")
    if name == "db" and not value.isdecimal():
        raise ValueError("the option db must be a number")
    if not value:
        raise ValueError(f"the option {name} is empty")
