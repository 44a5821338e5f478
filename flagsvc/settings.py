"""Every FLAGSVC_* setting with its type, default and range. No other module reads the environment."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from flagsvc.listening import UNIX
from flagsvc.setting_values import (
    anonymous_roles,
    checked_name,
    default_sets,
    files_by_listener,
    host_names,
    origins,
    pairs,
    rates,
    socket_address,
)
from flagsvc.urls import CACHE_SCHEMES, NOT_SHOWN, STORE_SCHEMES, SettingsError, checked_url, shown

PREFIX = "FLAGSVC_"
CLIENT_NAMES = frozenset(
    {
        *("FLAGSVC_ADDRESS", "FLAGSVC_TOKEN", "FLAGSVC_TOKEN_FILE", "FLAGSVC_PLAINTEXT_TOKEN"),
        *("FLAGSVC_FLAG_SET", "FLAGSVC_PROFILE", "FLAGSVC_PROFILES_FILE"),
        *("FLAGSVC_TLS", "FLAGSVC_TLS_CA", "FLAGSVC_TLS_NAME", "FLAGSVC_TLS_CLIENT_CERT", "FLAGSVC_TLS_CLIENT_KEY"),
    }
)
"""Names that only the client commands of the command line read."""
_REMOVED = {
    "FLAGSVC_FRACTIONAL_VERSION": "a flag set has its bucketing, 2 or 3, stored with it; remove the setting, and see"
    " flagsvc bucketing --help"
}
"""Settings of older releases, and what took their place. To ignore one would change answers without a word."""
_KUBERNETES_NAME = re.compile(
    r"FLAGSVC(_\w+)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)"
)
_KUBERNETES_PORT = re.compile(r"(tcp|udp|sctp)://\S+:\d+")
_HOST_NAME = re.compile(r"[\w.-]+")
_PATH = re.compile(r"\.{0,2}/[^@:]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CHECKS: dict[str, Callable[[str, str], object]] = {
    "origins": origins,
    "host_names": host_names,
    "name": checked_name,
    "default_sets": default_sets,
    "files_by_listener": files_by_listener,
    "anonymous": anonymous_roles,
    "rates": rates,
}


def _setting(default: Any, about: str, low: float | None = None, high: float | None = None, **extra: Any) -> Any:
    metadata = {"about": about, "low": low, "high": high, **extra}
    return field(default=default, repr=not {"url", "pairs"} & extra.keys(), metadata=metadata)  # they hold secrets


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The server's settings. `store_url` is FLAGSVC_STORE_URL, or the contents of the file FLAGSVC_STORE_URL_FILE."""

    store_url: str = _setting(
        "sqlite:///flagsvc.db",
        "Flag store: mongodb://..., sqlite:///FILE or file:FLAGS.json.",
        url="store",
        option="--store",
    )
    cache_url: str = _setting("none", "Shared cache: redis://..., rediss://... or none.", url="cache", option="--cache")
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
    auth: str = _setting(
        "",
        "Whether callers are authenticated: off or required. Unset, it is off where only this machine can connect;"
        " elsewhere the server then does not start.",
        choices=("off", "required"),
    )
    anonymous: str = _setting(
        "",
        "Role of callers without a credential, by listener, with FLAGSVC_AUTH=required:"
        " grpc=evaluate@default;sync=read@team-*;ofrep=public@default.",
        anonymous=True,
    )
    tokens_file: str = _setting(
        "",
        "JSON or YAML file of tokens as hashes, beside those of the store, with FLAGSVC_AUTH=required.",
    )
    jwt_issuers_file: str = _setting(
        "",
        "JSON or YAML file of the issuers whose JWTs are accepted, and of rules that give tokens and client"
        " certificates their roles, with FLAGSVC_AUTH=required.",
    )
    host: str = _setting(
        "127.0.0.1",
        "Address that every port listens on; 0.0.0.0 for all of IPv4, `::` for IPv6 and IPv4.",
        host="needed",
    )
    port: int | str = _setting(8013, "gRPC port, or unix:PATH.", 0, 65535, socket=True)
    transport: str = _setting(
        "grpcio",
        "What speaks HTTP/2 on the gRPC port: grpcio, or native, which is experimental and needs flagsvc[native].",
        choices=("grpcio", "native"),
    )
    http_on_grpc_port: bool = _setting(
        True,
        "Whether the gRPC port also serves HTTP/1.1: Connect and gRPC-Web, which flagd's providers for Go, PHP and"
        " browsers need. Off, gRPC calls to that port cost about a fifth less CPU; FLAGSVC_SYNC_PORT always does.",
    )
    http_host_names: str = _setting(
        "",
        "Names, besides localhost and IP addresses, in the Host header of FlagService calls over HTTP/1.1:"
        " flags.internal,flagsvc.",
        host_names=True,
    )
    management_port: int | str = _setting(
        8014, "HTTP port of /healthz, /readyz and /metrics, or unix:PATH; -1 turns it off.", -1, 65535, socket=True
    )
    management_host: str = _setting(
        "", "Address that the management port listens on; empty means FLAGSVC_HOST.", host="optional"
    )
    sync_port: int | str = _setting(
        8015,
        "Second gRPC port, the default of flagd's in-process providers, or unix:PATH; -1 turns it off.",
        -1,
        65535,
        socket=True,
    )
    ofrep_port: int | str = _setting(
        8016,
        "HTTP port of the OpenFeature Remote Evaluation Protocol, or unix:PATH; -1 turns it off.",
        -1,
        65535,
        socket=True,
    )
    tls_cert: str = _setting(
        "", "PEM file with the certificate and its chain; every port but the management port then serves TLS alone."
    )
    tls_key: str = _setting("", "PEM file with the certificate's private key, without a password.")
    tls_client_ca: str = _setting(
        "",
        "PEM file with the CAs of client certificates, which are then required: one for all listeners, or"
        " grpc=FILE;sync=FILE;ofrep=FILE. Where the gRPC port requires them, it serves no HTTP/1.1.",
        files_by_listener=True,
    )
    management_tls: bool = _setting(False, "Whether the management port serves TLS too.")
    default_flag_set: str = _setting(
        "",
        "Flag set that flagd's and OFREP's callers without a selector get: one for all listeners, or"
        " grpc=web;sync=default;ofrep=web; empty means `default`.",
        default_sets=True,
    )
    cors_origins: str = _setting(
        "",
        "Origins whose web pages may call OFREP and evaluate over Connect (CORS): https://app.example,https://b.example,"
        " or * for all.",
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
        "Context fields read from a call's headers, with FLAGSVC_AUTH=required only of callers marked for it:"
        " X-User-Id=userId.",
        pairs="HEADER=NAME",
        option="--context-from-header",
    )
    staleness_bound_s: float = _setting(
        5.0, "Maximum age in seconds of a cached flag before it must be re-verified against Redis or MongoDB.", 0.5, 300
    )
    near_cache_entries: int = _setting(
        100_000, "Maximum number of flags held in memory; 0 turns the near cache off.", 0, 10_000_000
    )
    near_cache_bytes: int = _setting(
        536_870_912, "Maximum memory of the flags held in memory, in bytes, as estimated.", 1_000_000, 4_000_000_000
    )
    answer_cache_bytes: int = _setting(
        33_554_432,
        "Maximum memory of remembered answers to calls about many flags, in bytes, as estimated; 0 remembers none.",
        0,
        4_000_000_000,
    )
    outstanding_bytes: int = _setting(
        67_108_864,
        "Maximum number of bytes sent to clients that they have not taken yet; streams then wait for room, and"
        " further large answers are refused.",
        1_000_000,
        4_000_000_000,
    )
    max_flags_per_set: int = _setting(
        100_000, "Maximum number of flags in a set; the creation of further ones is refused.", 1, 10_000_000
    )
    max_bytes_per_set: int = _setting(
        268_435_456,
        "Maximum memory of all flags of a set, in bytes, as estimated; a write that exceeds it is refused.",
        1_000,
        4_000_000_000,
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
    revision_days: float = _setting(
        365.0,
        "Days that revisions of flags are kept, for rollbacks and answers as of another moment; 0 means for ever.",
        0,
        36_500,
    )
    log_loop_lag_s: float = _setting(
        0.0,
        "For debugging: log what the event loop is doing once it has been held so many seconds; 0 turns it off.",
        0,
        60,
    )
    max_calls: int = _setting(
        2_000,
        "Maximum number of concurrent evaluation calls, over gRPC and over OFREP each; further ones are refused.",
        1,
        100_000,
    )
    max_writes: int = _setting(
        200, "Maximum number of concurrent writes, including those that wait for replicas.", 1, 100_000
    )
    max_admin_calls: int = _setting(
        50, "Maximum number of concurrent administrative calls: lists, history, status and verify.", 1, 100_000
    )
    max_pending_calls: int = _setting(
        512,
        "Calls of one method that wait to be accepted; of the calls beyond, more and more are cancelled, all from a"
        " quarter more.",
        1,
        100_000,
    )
    max_streams: int = _setting(
        2_000, "Maximum number of concurrent streams of each streaming method; further ones are refused.", 1, 100_000
    )
    max_streams_per_peer: int = _setting(
        1_500, "Maximum number of those streams that one address can have; a proxy is one address.", 1, 100_000
    )
    max_calls_per_connection: int = _setting(
        512, "Calls and streams that one gRPC connection can have open; clients hold back further ones.", 1, 100_000
    )
    max_connections: int = _setting(
        4_000,
        "Maximum number of connections to each port; fewer if the limit of open files (RLIMIT_NOFILE) is lower.",
        1,
        1_000_000,
    )
    max_connections_per_peer: int = _setting(
        2_000,
        "Maximum number of connections of one address to the OFREP port, and to the gRPC port where that serves"
        " HTTP/1.1; a proxy is one address.",
        1,
        1_000_000,
    )
    first_message_s: float = _setting(
        10.0, "Seconds in which a gRPC call must send its message after its headers.", 0.1, 300
    )
    rate_limits: str = _setting(
        "off",
        "Limits of calls per second for each caller, over all replicas together: off, shadow (count and log only) or"
        " enforce.",
        choices=("off", "shadow", "enforce"),
    )
    rates: str = _setting(
        "",
        "Those limits by class: evaluate=5000,read=100,write=50,admin=20, which are the defaults.",
        rates=True,
    )
    drain_s: float = _setting(1.0, "Seconds at shutdown between reporting not ready and refusing calls.", 0, 300)
    grace_s: float = _setting(10.0, "Seconds at shutdown that calls in progress have to finish.", 0, 300)
    connection_age_s: float = _setting(
        1_800.0,
        "Seconds after which a connection to the gRPC port gets no new calls, and streams of FlagService and OFREP end,"
        " so that clients spread over new replicas.",
        1,
        1_000_000,
    )
    stream_age_s: float = _setting(
        0.0,
        "Seconds after which flagd's event and sync streams and the connections of the sync port end; 0 means never, as"
        " in flagd.",
        0,
        1_000_000,
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str], overrides: Mapping[str, object] | None = None) -> Settings:
        """Read FLAGSVC_* from `environ`; `overrides`, by field name, take precedence. Raises SettingsError."""
        values: dict[str, Any] = {}
        known = {PREFIX + f.name.upper(): f for f in fields(cls)}
        for name, text in sorted(environ.items()):
            if not name.startswith(PREFIX) or name in CLIENT_NAMES or _of_kubernetes(name, text):
                continue
            base = name if name in known else name.removesuffix("_FILE")
            spec = known.get(base)
            if base in _REMOVED:
                raise SettingsError(f"{name} is no setting any more: {_REMOVED[base]}")
            if spec is None:
                bare = {n.removeprefix(PREFIX): n for n in known}
                import difflib  # noqa: PLC0415  only a slip needs it

                close = difflib.get_close_matches(name.removeprefix(PREFIX), bare, n=1)
                hint = f"did you mean {bare[close[0]]}?" if close else f"the settings are {', '.join(sorted(known))}"
                raise SettingsError(f"unknown setting {name}; {hint}")
            values[spec.name] = _parsed(base, _from_file(name, text) if base != name else text, spec)
        for key, value in (overrides or {}).items():
            spec = known[PREFIX + key.upper()]
            option = spec.metadata.get("option", f"--{key.replace('_', '-')}")
            values[key] = _parsed(option, str(value), spec)
        return cls(**values)


def kubernetes_names(environ: Mapping[str, str]) -> list[str]:
    """Return the variables that Kubernetes sets for Services whose names begin with flagsvc. They are no settings."""
    return sorted(name for name, text in environ.items() if _of_kubernetes(name, text))


def _of_kubernetes(name: str, text: str) -> bool:
    """Whether Kubernetes sets such a variable: FLAGSVC_PORT=tcp://10.0.0.1:8013, FLAGSVC_CANARY_SERVICE_HOST, ..."""
    is_port = name.startswith(PREFIX) and name.endswith("_PORT")
    return bool(_KUBERNETES_NAME.fullmatch(name) or (is_port and _KUBERNETES_PORT.fullmatch(text.strip())))


def _from_file(name: str, path: str) -> str:
    path = path.strip()
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        # The value itself may stand where the name of its file belongs.
        file = f"the file {path!r}" if _PATH.fullmatch(path) else f"the file that it names {NOT_SHOWN}"
        raise SettingsError(f"{name}: cannot read {file}: {type(error).__name__}") from None


def _parsed(name: str, text: str, spec: Any) -> object:
    """Return a setting's value from its text. Raises SettingsError."""
    text = text.strip()  # a file or a template often ends a value with a newline
    if match := _CONTROL.search(text):
        at = f"U+{ord(match[0]):04X} at character {match.start() + 1}"
        raise SettingsError(f"{name} has the control character {at}; it must be one line of text")
    limits = spec.metadata
    if limits.get("url"):
        return checked_url(name, text, STORE_SCHEMES if limits["url"] == "store" else CACHE_SCHEMES)
    if limits.get("host"):
        return _host(name, text, needed=limits["host"] == "needed")
    if limits.get("pairs"):
        pairs(text, name, limits["pairs"])
    elif check := next((check for kind, check in _CHECKS.items() if limits.get(kind)), None):
        check(text, name)
    elif limits.get("socket") and text.startswith(UNIX):
        return socket_address(text, name)
    elif (choices := limits.get("choices")) and text not in choices:
        raise SettingsError(f"{name} is {shown(text)}; it must be one of {', '.join(choices)}")
    if isinstance(spec.default, bool):
        return _switch(name, text)
    return _number(name, text, spec) if isinstance(spec.default, (int, float)) else text


def _switch(name: str, text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise SettingsError(f"{name} is {shown(text)}; it must be true or false")
    return text.lower() in ("true", "1")


def _number(name: str, text: str, spec: Any) -> int | float:
    low, high = spec.metadata["low"], spec.metadata["high"]
    try:
        number: int | float = type(spec.default)(text)
    except ValueError:
        raise SettingsError(f"{name} is {shown(text)}; it must be a number") from None
    if not low <= number <= high:
        raise SettingsError(f"{name} is {text}; it must be from {low:g} to {high:g}")
    return number


def _host(name: str, text: str, *, needed: bool) -> str:
    """Return an address to listen on, an IPv6 one without brackets. Raises SettingsError."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        if not _HOST_NAME.fullmatch(text) and (text or needed):
            wanted = "an address or a host name without a port, such as 0.0.0.0, 127.0.0.1 or ::"
            raise SettingsError(f"{name} is {shown(text)}; it must be {wanted}") from None
    return bare
