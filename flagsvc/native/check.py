"""Where the native transport cannot serve: it is refused with words, before anything listens."""

from __future__ import annotations

import importlib.util
import sys

import structlog

from flagsvc.auth_mode import AuthMode, is_loopback
from flagsvc.listening import UNIX
from flagsvc.setting_values import anonymous_roles
from flagsvc.settings import Settings
from flagsvc.urls import SettingsError

PACKAGE = "pygrpc_native"
log = structlog.get_logger(__name__)


def check(settings: Settings) -> None:
    """Raise SettingsError where FLAGSVC_TRANSPORT=native cannot be served as these settings want it."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise SettingsError(
            "FLAGSVC_TRANSPORT=native needs the package pygrpc-native: pip install 'flagsvc[native]'. It exists for"
            " Linux with glibc (x86_64, aarch64) and macOS; elsewhere set FLAGSVC_TRANSPORT=grpcio"
        )
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        raise SettingsError(
            "FLAGSVC_TRANSPORT=native needs a Python with a global interpreter lock: a second thread reads what the"
            " event loop changes; set FLAGSVC_TRANSPORT=grpcio"
        )
    if settings.tls_cert:
        raise SettingsError(
            "FLAGSVC_TRANSPORT=native does not serve TLS: let a proxy encrypt, and remove FLAGSVC_TLS_CERT, or set"
            " FLAGSVC_TRANSPORT=grpcio"
        )
    if settings.jwt_issuers_file:
        raise SettingsError(
            "FLAGSVC_TRANSPORT=native does not know the addresses of callers of streams, by which attempts with JWTs"
            " are limited: remove FLAGSVC_JWT_ISSUERS_FILE, or set FLAGSVC_TRANSPORT=grpcio"
        )
    everybody_is_known = settings.auth == AuthMode.REQUIRED and "grpc" not in anonymous_roles(settings.anonymous)
    if settings.rate_limits != "off" and not everybody_is_known:
        raise SettingsError(
            "FLAGSVC_TRANSPORT=native does not know the addresses of callers of streams, so it limits the rates of"
            " callers with tokens only: set FLAGSVC_AUTH=required, without the listener grpc in FLAGSVC_ANONYMOUS, or"
            " FLAGSVC_RATE_LIMITS=off, or FLAGSVC_TRANSPORT=grpcio"
        )


def warn(settings: Settings) -> None:
    """Log once what the native transport lacks, where other machines can connect."""
    if not str(settings.port).startswith(UNIX) and not is_loopback(settings.host):
        detail = (
            "The native transport has no TLS, no limit on the size of messages, no connection age and no HTTP/1.1."
            " Put a proxy with these limits in front of it, or set FLAGSVC_TRANSPORT=grpcio."
        )
        log.warning("native_transport_exposed", host=settings.host, detail=detail)
