"""The certificate that is served now. It follows its files, and a new one is served only when it is proven as a whole.

gRPC asks for the newest one at each handshake, in threads of its own; so do the handshakes of HTTP, in two event loops.
They read one reference, which is replaced and never changed. Connections that are open go on with what they began with.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import structlog

from flagsvc.background import repeat
from flagsvc.setting_values import by_listener
from flagsvc.settings import Settings
from flagsvc.telemetry import Sample
from flagsvc.tls.pair import Files, FilesChanged, Pair, PairRefused, prove, read, utc_now
from flagsvc.urls import SettingsError

log = structlog.get_logger(__name__)

CHECK_EVERY_S = 1.0
"""Seconds between two looks at the files, and from then until a pair that does not fit together is reported: a
certificate and its key are often replaced one after the other."""
MAX_READS = 10


class Certificates:
    """Serves what is in the files, once it is proven."""

    def __init__(self, files: Files) -> None:
        """Raises PairRefused. A certificate that has expired is served at the start: some clients do not mind."""
        self._files = files
        self._pair = _read_whole(files)
        self._suspected = self._refused = ""  # what was wrong with the files at the last look, and what was reported
        self.reloads = self.refusals = 0
        self.failed_handshakes: Counter[str] = Counter()
        if self._pair.expires_at <= utc_now():
            log.warning("tls_certificate_expired", expired_at=f"{self._pair.expires_at:%F %T} UTC")

    def requires_client(self, listener: str) -> bool:
        """Whether a listener requires client certificates."""
        return listener in self._files.client_cas

    def context(self, listener: str) -> ssl.SSLContext:
        """Return the context for the next handshake of a listener."""
        return self._pair.contexts[listener]

    def grpc_credentials(self, listener: str) -> grpc.ServerCredentials:
        """Return credentials for one port of a gRPC server, which follow the files."""
        given = self._pair

        def newest() -> grpc.ServerCertificateConfiguration | None:
            """Return what replaces the last one given, if anything: gRPC then makes new contexts of its own."""
            nonlocal given
            if self._pair is given:
                return None
            given = self._pair
            return _configuration(given, listener)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(given, listener),
            newest,  # type: ignore[arg-type]  # None keeps what is served
            require_client_authentication=self.requires_client(listener),
        )

    async def run(self) -> None:
        """Follow the files until cancelled."""
        await repeat(
            lambda: asyncio.to_thread(self.follow),  # a slow file system blocks no call
            lambda: asyncio.sleep(CHECK_EVERY_S),
            "tls_files_not_followed",
        )

    def follow(self) -> None:
        """Serve what is in the files now, if it is new and good; else keep what is served."""
        try:
            contents = read(self._files)
            if contents == self._pair.contents:
                self._suspected = self._refused = ""
                return
            new = prove(self._files, contents, now=utc_now())
        except FilesChanged:
            return
        except PairRefused as refused:
            self._keep(str(refused))
            return
        self._pair = new  # one step: certificate, key, client CAs and contexts
        self._suspected = self._refused = ""
        self.reloads += 1
        log.info("tls_certificate_replaced", expires_at=f"{new.expires_at:%F %T} UTC")

    def samples(self) -> Iterator[Sample]:
        """Return the values for Prometheus."""
        about = "When the certificate that is served expires, in seconds since 1970."
        yield Sample("flagsvc_tls_certificate_expiry_timestamp_seconds", about, self._pair.expires_at.timestamp())
        about = "Times that a new certificate, key or client CA was taken from the files."
        yield Sample("flagsvc_tls_reloads_total", about, self.reloads)
        about = "Whether the TLS files have something that cannot be served, so that the one before is kept: 1 or 0."
        yield Sample("flagsvc_tls_files_refused", about, int(bool(self._refused)))
        about = "Times that the TLS files had something new that could not be served."
        yield Sample("flagsvc_tls_refusals_total", about, self.refusals)
        about = "TLS handshakes over HTTP's ports, the gRPC port with HTTP too, that failed."
        for listener, count in self.failed_handshakes.items():
            yield Sample("flagsvc_tls_failed_handshakes_total", about, count, {"listener": listener})

    def _keep(self, problem: str) -> None:
        """Keep what is served, and report a problem that has lasted from one look to the next, once."""
        if problem == self._suspected != self._refused:
            self._refused = problem
            self.refusals += 1
            detail = "What was served before is served on. The files are looked at every second."
            log.error("tls_files_refused", problem=problem, detail=detail)
        self._suspected = problem


def certificates_of(settings: Settings) -> Certificates:
    """Return the certificates that the settings name. Raises SettingsError."""
    if not (settings.tls_cert and settings.tls_key):
        raise SettingsError("TLS needs both FLAGSVC_TLS_CERT and FLAGSVC_TLS_KEY, each the name of a PEM file")
    client_cas = {listener: Path(path) for listener, path in by_listener(settings.tls_client_ca).items()}
    try:
        return Certificates(Files(Path(settings.tls_cert), Path(settings.tls_key), client_cas))
    except PairRefused as refused:
        raise SettingsError(str(refused)) from None


def _read_whole(files: Files) -> Pair:
    for _ in range(MAX_READS):
        with contextlib.suppress(FilesChanged):
            return prove(files, read(files))
    raise PairRefused(
        f"FLAGSVC_TLS_CERT names the file '{files.certificate}': it, or a file with it, changes all the time"
    )


def _configuration(pair: Pair, listener: str) -> grpc.ServerCertificateConfiguration:
    contents = pair.contents
    return grpc.ssl_server_certificate_configuration(
        [(contents.key, contents.certificate)], contents.client_cas.get(listener)
    )
