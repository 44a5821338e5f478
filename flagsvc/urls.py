"""Store and cache URLs: which are valid, and what of them may be shown.

A user name, a password or a query never appears in an error or a log line, however malformed the URL is.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote

STORE_SCHEMES = ("mongodb", "mongodb+srv", "sqlite", "file")
CACHE_SCHEMES = ("redis", "rediss")
NOT_SHOWN = "(not shown: it may hold a secret)"
MAX_PORT = 65_535
MIN_SECRET = 4
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[\w.%-]+)(?::\d*)?")
_PATH = re.compile(r"(?:/[\w.%-]*)?")
_BARE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SECRET_LIKE = re.compile(r"(?<!file)://|@")
_SECRET_OPTION = re.compile(r"pass|token|secret|propert", re.IGNORECASE)
_ENCODE = "percent-encode @ : / ? # % in a user name or password (@ is %40, / is %2F)"


class SettingsError(ValueError):
    """A setting is unknown or invalid; the text names it and says what is valid."""


class Parts(NamedTuple):
    """A server's URL, split as MongoDB's and Redis' drivers split it."""

    scheme: str
    userinfo: str
    hosts: str
    path: str
    query: str


def checked_url(name: str, url: str, schemes: tuple[str, ...]) -> str:
    """Return the URL if its scheme and host are valid. Raises SettingsError, whose text never shows credentials."""
    if url == "none" and schemes is CACHE_SCHEMES:
        return url
    if match := _CONTROL.search(url):
        raise SettingsError(f"{name} has the control character U+{ord(match[0]):04X} at character {match.start() + 1}")
    if schemes is STORE_SCHEMES and "file:" in url and _names_files(name, url):
        return url
    parts = _split(url)
    if not (parts.hosts or parts.path or parts.query) or parts.scheme not in schemes:
        raise SettingsError(f"{name} {_wrong_scheme(url, parts.scheme, schemes)}")
    if parts.scheme == "sqlite":
        if parts.hosts or parts.path in ("", "/"):
            raise SettingsError(f"{name} must be sqlite:///FILE (three slashes, or four for an absolute path)")
    elif problem := _server_problem(url, parts):
        raise SettingsError(f"{name} {problem}")
    return url


def redacted(url: str) -> str:
    """Return a URL without its credentials and query, for logs; of a malformed one, only a scheme that is known."""
    scheme, _, rest = url.partition("://")
    if url == "none" or (url.startswith("file:") and not _SECRET_LIKE.search(url)):
        return url
    if scheme == "sqlite" and rest.startswith("/"):
        return url.partition("?")[0]
    if scheme not in (*STORE_SCHEMES, *CACHE_SCHEMES):
        return NOT_SHOWN
    parts = _split(url)
    regular = all(map(_HOST.fullmatch, parts.hosts.split(","))) and _PATH.fullmatch(parts.path)
    return f"{scheme}://{parts.hosts}{parts.path}" if regular and "@" not in parts.query else f"{scheme}://{NOT_SHOWN}"


def shown(text: str, whole: str | None = None) -> str:
    """Return a setting's value, or a part of its `whole` value, for an error text, unless it looks like a URL."""
    return NOT_SHOWN if _SECRET_LIKE.search(text if whole is None else whole) else repr(text[:80])


def masked(text: str) -> str:
    """Return a text without the words in it that look like a URL."""
    return re.sub(r"\S*(?:://|@)\S*", NOT_SHOWN, text)


def without_secrets(text: str, url: str) -> str:
    """Return a text about a valid URL; if it repeats a password of the URL, only that the URL cannot be used."""
    parts = _split(url)
    options = [option.partition("=") for option in re.split("[&;]", parts.query)]
    secrets = [value for option, _, value in options if _SECRET_OPTION.search(option)]
    words = {word for each in (parts.userinfo.partition(":")[2], *secrets) for word in (each, unquote(each))}
    # A shorter one is a part of many words; a text that has it need not repeat it.
    repeats = any(len(word) >= MIN_SECRET and word in text for word in words)
    return "the URL cannot be used" if repeats else text


def host_and_port(host: str, port: int) -> str:
    """Return an address as text: an IPv6 one has brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _split(url: str) -> Parts:
    """Split a URL. The hosts begin after the last @ before the path, so credentials may contain commas."""
    scheme, _, rest = url.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    userinfo, _, hosts = authority.rpartition("@")
    path, _, query = rest[len(authority) :].partition("?")
    return Parts(scheme, userinfo, hosts, path, query)


def _server_problem(url: str, parts: Parts) -> str:
    """Return what is wrong with a server's URL, without showing any of it; empty if nothing is."""
    form = f"it must be {parts.scheme}://HOST:PORT/..."
    credentials, of_mongo = parts.userinfo, parts.scheme.startswith("mongodb")
    if " " in url or not url.isprintable():
        return f"has a space or an invisible character inside; {form}"
    if "@" in parts.path + parts.query or "#" in url:
        return f"has an @ or # where none can be; {_ENCODE}"
    if of_mongo and ("@" in credentials or credentials.count(":") > 1 or _BARE_PERCENT.search(credentials)):
        return f"has an @, : or % in a user name or password; {_ENCODE}"
    if not of_mongo and "," in parts.hosts:
        return f"has several hosts; {form}"
    return next((problem for host in parts.hosts.split(",") if (problem := _host_problem(host, form))), "")


def _host_problem(host: str, form: str) -> str:
    name, colon, port = (host, "", "") if host.endswith("]") else host.rpartition(":")
    if colon and ":" in name and not name.startswith("["):
        return "has an IPv6 address without brackets; it must be written [::1]:PORT"
    if colon and not (port.isdecimal() and int(port) <= MAX_PORT):
        return f"has a port that is not a number from 0 to {MAX_PORT}; {form}"
    if not (name if colon else host):
        return f"has no host; {form}"
    if not _HOST.fullmatch(host):
        return f"has a host with characters that no host has; {form}; {_ENCODE}"
    return ""


def _wrong_scheme(url: str, scheme: str, schemes: tuple[str, ...]) -> str:
    forms = ["file:FLAGS.json" if each == "file" else f"{each}://..." for each in schemes]
    wanted = ", ".join(forms) + (" or none" if schemes is CACHE_SCHEMES else "")
    if not url:
        return f"is empty; it must be {wanted}"
    import difflib  # noqa: PLC0415  only a slip needs it

    close = difflib.get_close_matches(scheme, schemes, n=1)
    hint = f"; did you mean {close[0]}://?" if close and close[0] != scheme else ""
    found = f"begins with {scheme}:" if scheme in (*STORE_SCHEMES, *CACHE_SCHEMES) else "begins with no known scheme"
    return f"{found}; it must be {wanted}{hint}"


def _names_files(name: str, url: str) -> bool:
    """Whether the URL is `file:`, one file or a comma-separated list. Raises SettingsError for an invalid list."""
    listed = url if url.startswith("file:") else _split(url).hosts + _split(url).path
    parts = listed.split(",")
    files = [part for part in parts if part.startswith("file:")]
    others = [part for part in url.split(",") if part.partition("://")[0] in STORE_SCHEMES and part not in files]
    if files and others:
        raise SettingsError(f"{name} names files and another store; only file: may be repeated")
    if not url.startswith("file:"):
        return False
    if not all(part.removeprefix("file://").removeprefix("file:") for part in parts):
        raise SettingsError(f"{name} has an empty file name; it must be file:FLAGS.json or file:A.json,B.yaml")
    return True
