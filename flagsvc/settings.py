"""Every FLAGSVC_* setting with its type, default and range. No other module reads the environment."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PREFIX = "FLAGSVC_"
CLIENT_NAMES = frozenset({"FLAGSVC_ADDRESS"})
"""Names that only the client commands of the command line read."""
STORE_SCHEMES = ("mongodb", "mongodb+srv", "sqlite", "file")
_HEADER = re.compile(r"[0-9a-z_.-]+")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s,A-Z]+")
CACHE_SCHEMES = ("redis", "rediss")
_NAME = re.compile(r"[A-Za-z0-9._-]{0,64}")
_TAKEN_NAMES = frozenset({"feature-flag", "feature-flag-fill"})
"""As a prefix they would make keys that a deployment without prefix takes for its own."""


class SettingsError(ValueError):
    """A setting is unknown or invalid; the text names it and says what is valid."""


def _setting(default: Any, about: str, low: float | None = None, high: float | None = None, **extra: Any) -> Any:
    return field(default=default, metadata={"about": about, "low": low, "high": high, **extra})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The server's settings. `store_url` is FLAGSVC_STORE_URL, or the contents of the file FLAGSVC_STORE_URL_FILE."""

    store_url: str = _setting(
        "sqlite:///flagsvc.db",
        "Flag store: mongodb://..., sqlite:///FILE or file:FLAGS.json.",
        url="store",
    )
    cache_url: str = _setting("none", "Shared cache: redis://..., rediss://... or none.", url="cache")
    cache_prefix: str = _setting(
        "",
        "Prefix of every key and channel in Redis; it keeps deployments on one Redis apart. Letters, digits, . _ -.",
        name=True,
    )
    store_name: str = _setting(
        "",
        "Identity of a store that refuses to keep one, as a read-only MongoDB does. Letters, digits, . _ -.",
        name=True,
    )
    host: str = _setting("0.0.0.0", "Address that every port listens on.")  # noqa: S104  probes and peers come from outside
    port: int = _setting(8013, "gRPC port.", 0, 65535)
    management_port: int = _setting(8014, "HTTP port of /healthz, /readyz and /metrics; -1 turns it off.", -1, 65535)
    sync_port: int = _setting(
        8015, "Second gRPC port, the default of flagd's in-process providers; -1 turns it off.", -1, 65535
    )
    ofrep_port: int = _setting(
        8016, "HTTP port of the OpenFeature Remote Evaluation Protocol; -1 turns it off.", -1, 65535
    )
    cors_origins: str = _setting(
        "",
        "Origins whose web pages may call the OFREP port (CORS): https://app.example,https://b.example, or * for all.",
        origins=True,
        option="--cors-origin",
    )
    log_level: str = _setting(
        "info",
        "Minimum level of log lines: debug, info, warning or error.",
        choices=("debug", "info", "warning", "error"),
    )
    log_format: str = _setting(
        "auto",
        "Format of log lines: json, console, or auto for console on a terminal and json elsewhere.",
        choices=("auto", "json", "console"),
    )
    reflection: bool = _setting(True, "Whether gRPC server reflection is served.")
    context_values: str = _setting(
        "",
        "Context fields added to every evaluation; they override the caller's: plan=pro,region=eu.",
        pairs="NAME=VALUE",
        option="--context-value",
    )
    context_from_headers: str = _setting(
        "",
        "Context fields read from a call's headers; they override all others: X-User-Id=userId.",
        pairs="HEADER=NAME",
        option="--context-from-header",
    )
    fractional_version: int = _setting(3, "Hash version of `fractional`: 3, or 2 to match flagd's daemon 0.16.", 2, 3)
    staleness_bound_s: float = _setting(
        5.0, "Maximum age in seconds of a cached flag before it must be re-verified against Redis or MongoDB.", 0.5, 300
    )
    near_cache_entries: int = _setting(
        100_000, "Maximum number of flags held in memory; 0 turns the near cache off.", 0, 10_000_000
    )
    cache_ttl_s: float = _setting(
        300.0, "Seconds that an entry lives in the shared cache, plus or minus the jitter.", 1, 86_400
    )
    cache_ttl_jitter: float = _setting(0.1, "Jitter of that time, as a fraction of it.", 0, 0.9)
    negative_ttl_s: float = _setting(5.0, "Seconds that an unknown key is remembered in the shared cache.", 0.1, 300)
    cache_timeout_s: float = _setting(0.05, "Timeout in seconds of a request to the shared cache.", 0.001, 5)
    store_timeout_s: float = _setting(2.0, "Timeout in seconds of one store operation.", 0.05, 60)
    store_connections: int = _setting(50, "Maximum number of connections to MongoDB.", 1, 1_000)
    snapshot_file: str = _setting(
        "",
        "File for the last known flags, which a start uses while no store can be reached; empty turns snapshots off.",
    )
    snapshot_max_age_s: float = _setting(604_800.0, "Maximum age in seconds of a snapshot that a start uses.", 1, 1e9)
    verify_interval_s: float = _setting(
        600.0, "Seconds between two comparisons of the shared cache with the store; 0 turns them off.", 0, 1e6
    )
    max_calls: int = _setting(2_000, "Maximum number of concurrent unary calls; further ones are refused.", 1, 100_000)
    max_streams: int = _setting(2_000, "Maximum number of concurrent streams; further ones are refused.", 1, 100_000)
    drain_s: float = _setting(1.0, "Seconds at shutdown between reporting not ready and refusing calls.", 0, 300)
    grace_s: float = _setting(10.0, "Seconds at shutdown that calls in progress have to finish.", 0, 300)
    connection_age_s: float = _setting(
        1_800.0,
        "Seconds after which a connection or stream is closed, so that clients spread over new replicas.",
        1,
        1_000_000,
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str], overrides: Mapping[str, object] | None = None) -> Settings:
        """Read FLAGSVC_* from `environ`; `overrides`, by field name, take precedence. Raises SettingsError."""
        values: dict[str, Any] = {}
        known = {PREFIX + f.name.upper(): f for f in fields(cls)}
        for name, text in sorted(environ.items()):
            if not name.startswith(PREFIX) or name in CLIENT_NAMES:
                continue
            base = name if name in known else name.removesuffix("_FILE")
            spec = known.get(base)
            if spec is None:
                bare = {n.removeprefix(PREFIX): n for n in known}
                close = difflib.get_close_matches(name.removeprefix(PREFIX), bare, n=1)
                hint = f"did you mean {bare[close[0]]}?" if close else f"the settings are {', '.join(sorted(known))}"
                raise SettingsError(f"unknown setting {name}; {hint}")
            values[spec.name] = _parsed(base, _from_file(name, text) if base != name else text, spec)
        for key, value in (overrides or {}).items():
            spec = known[PREFIX + key.upper()]
            option = spec.metadata.get("option", f"--{key.replace('_', '-')}")
            values[key] = _parsed(option, str(value), spec)
        return cls(**values)


def _from_file(name: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{name}: cannot read the file {path!r}: {type(error).__name__}") from None


def _parsed(name: str, text: str, spec: Any) -> object:
    limits = spec.metadata
    if limits.get("url"):
        return checked_url(name, text, STORE_SCHEMES if limits["url"] == "store" else CACHE_SCHEMES)
    if limits.get("pairs"):
        pairs(text, name, limits["pairs"])
        return text
    if limits.get("origins") or limits.get("name"):
        (origins if limits.get("origins") else checked_name)(text, name)
        return text
    choices = limits.get("choices")
    if choices and text not in choices:
        raise SettingsError(f"{name} is {text!r}; it must be one of {', '.join(choices)}")
    if isinstance(spec.default, bool):
        if text.lower() not in ("true", "false", "1", "0"):
            raise SettingsError(f"{name} is {text!r}; it must be true or false")
        return text.lower() in ("true", "1")
    if not isinstance(spec.default, (int, float)):
        return text
    try:
        number = type(spec.default)(text)
    except ValueError:
        raise SettingsError(f"{name} is {text!r}; it must be a number") from None
    if not limits["low"] <= number <= limits["high"]:
        raise SettingsError(f"{name} is {text}; it must be from {limits['low']:g} to {limits['high']:g}")
    return number


def pairs(text: str, name: str = "", form: str = "NAME=VALUE") -> dict[str, str]:
    """Parse `a=b,c=d`. Raises SettingsError for a part of another form, a repeated name or an invalid header name."""
    found: dict[str, str] = {}
    for part in text.split(",") if text else ():
        left, equals, right = part.partition("=")
        left = left.strip()
        if not (equals and left) or (form == "HEADER=NAME" and not right.strip()):
            raise SettingsError(f"{name} has {part[:80]!r}; each part between commas must be {form}")
        if form == "HEADER=NAME":
            left, right = left.lower(), right.strip()
            if not _HEADER.fullmatch(left) or left.endswith("-bin"):
                raise SettingsError(f"{name} has {left[:80]!r}; it must be the name of a header with a text value")
        if left in found:
            raise SettingsError(f"{name} has {left[:80]!r} twice; it must appear once")
        found[left] = right
    return found


def checked_name(text: str, name: str) -> str:
    """Return the text if it can be a part of the names of keys. Raises SettingsError."""
    if not _NAME.fullmatch(text) or text in _TAKEN_NAMES:
        wanted = "at most 64 letters, digits and . _ -, and not feature-flag"
        raise SettingsError(f"{name} is {text[:80]!r}; it must be {wanted}")
    return text


def origins(text: str, name: str = "") -> tuple[str, ...]:
    """Parse comma-separated origins. Raises SettingsError for one that no browser sends."""
    found = tuple(part.strip() for part in text.split(",")) if text else ()
    for origin in found:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            wanted = "* or an origin such as https://app.example:8443"
            raise SettingsError(f"{name} has {origin[:80]!r}; it must be {wanted}")
    return found


def checked_url(name: str, url: str, schemes: tuple[str, ...]) -> str:
    """Return the URL if its scheme and host are valid. Raises SettingsError, whose text never shows credentials."""
    if url == "none" and schemes is CACHE_SCHEMES:
        return url
    if schemes is STORE_SCHEMES and "file:" in url and _names_files(name, url):
        return url
    scheme, _, rest = url.partition("://")
    forms = ["file:FLAGS.json" if each == "file" else f"{each}://..." for each in schemes]
    wanted = ", ".join(forms) + (" or none" if schemes is CACHE_SCHEMES else "")
    if not rest or scheme not in schemes:
        close = difflib.get_close_matches(scheme, schemes, n=1)
        hint = f"; did you mean {close[0]}://?" if close and close[0] != scheme else ""
        raise SettingsError(f"{name} begins with {scheme[:20]!r}; it must be {wanted}{hint}")
    if scheme == "sqlite" and (not rest.startswith("/") or rest == "/"):
        raise SettingsError(f"{name} must be sqlite:///FILE (three slashes, or four for an absolute path)")
    if scheme != "sqlite":
        form = f"{scheme}://HOST:PORT/..."
        try:
            parts = urlsplit(url.split(",", maxsplit=1)[0])
            host, _port = parts.hostname, parts.port
        except ValueError:
            raise SettingsError(f"{name} has a port that is not a number; it must be {form}") from None
        if not host:
            raise SettingsError(f"{name} has no host; it must be {form}")
    return url


def _names_files(name: str, url: str) -> bool:
    """Whether the URL is `file:`, one file or a comma-separated list. Raises SettingsError for an invalid list."""
    parts = url.split(",")
    files = [part for part in parts if part.startswith("file:")]
    others = [part for part in parts if part.partition("://")[0] in STORE_SCHEMES and part not in files]
    if files and others:
        raise SettingsError(f"{name} names files and another store; only file: may be repeated")
    if not url.startswith("file:"):
        return False
    if not all(part.removeprefix("file://").removeprefix("file:") for part in parts):
        raise SettingsError(f"{name} has an empty file name; it must be file:FLAGS.json or file:A.json,B.yaml")
    return True


def redacted(url: str) -> str:
    """Return a URL without its credentials and query, for logs."""
    scheme, _, rest = url.partition("://")
    place = rest.split("?")[0].rsplit("@", 1)[-1]
    return f"{scheme}://{place}" if rest else url
