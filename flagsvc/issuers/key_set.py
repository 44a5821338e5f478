"""The keys of one issuer, kept up to date. What was read last stays in use while its source cannot be read."""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog
from jwt import PyJWK

from flagsvc.adapters.files.small_files import read_small
from flagsvc.background import BackgroundTasks, backoff_s
from flagsvc.issuers import https
from flagsvc.issuers.configuration import FILE, Issuer
from flagsvc.issuers.https import FetchFailed
from flagsvc.issuers.identity import Proof
from flagsvc.issuers.keys import BadKeys, KeyName, keys_of, public_bytes, thumbprint
from flagsvc.turns import off_loop

REFRESH_S = 300.0
"""Seconds between two reads over HTTPS. So long a key that its issuer has withdrawn is used at most."""
FILE_REFRESH_S = 1.0
REFETCH_S = 30.0
"""Least time between two reads over HTTPS that tokens with an unknown key cause."""
MIN_RETRY_S, MAX_RETRY_S = 1.0, 30.0
MAX_TOKEN_BYTES = 16_384
MAX_LOGGED = 20
MAX_WAITING = 100
"""Tokens that wait for the keys of one issuer; further ones are answered at once."""

log = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class TrustedKey:
    """A public key that an issuer has now. `proof`: withdrawn when the issuer has it no more, or is trusted no more."""

    key: PyJWK
    proof: Proof


class KeySet:
    """An issuer's keys. `changed`: called when keys have left."""

    def __init__(self, issuer: Issuer, changed: Callable[[], None]) -> None:
        self.issuer, self._changed = issuer, changed
        self.keys: dict[KeyName, TrustedKey] = {}
        self.read_at = self._began_at = -float("inf")
        self.failures = self.failed_total = 0
        """Reads that failed: since the last one that did not, and ever."""
        self._waiting = 0
        self._raw = b""
        self._running: asyncio.Task[None] | None = None
        self._tasks = BackgroundTasks()
        self._is_file = issuer.jwks.startswith(FILE)

    def start(self) -> None:
        """Begin to read the keys, again and again."""
        _ = self._begin()
        self._tasks.start(self._run(), f"keys of {self.issuer.issuer}")

    async def close(self) -> None:
        """Stop reading, and withdraw every key."""
        self._replace({})
        await self._tasks.close()

    @property
    def is_known(self) -> bool:
        """Whether the keys have been read, and the last attempt to read them did not fail."""
        return bool(self.keys) and not self.failures

    def age_s(self) -> float:
        """Return how long ago the keys were read, in seconds."""
        return time.monotonic() - self.read_at

    async def newer(self, timeout_s: float) -> None:
        """Wait for a read of the keys that is running, or that may begin now because a token has an unknown key."""
        running = self._running
        if running is None and not self._is_file and time.monotonic() - self._began_at >= REFETCH_S:
            running = self._begin()
        if running is not None and self._waiting < MAX_WAITING:
            self._waiting += 1
            try:
                await asyncio.wait({running}, timeout=timeout_s)
            finally:
                self._waiting -= 1

    async def _run(self) -> None:
        while True:
            task = self._running or self._begin()
            await asyncio.wait({task})
            await asyncio.sleep(self._pause_s())

    def _pause_s(self) -> float:
        if self._is_file:
            return FILE_REFRESH_S
        if self.failures:
            return backoff_s(self.failures - 1, MIN_RETRY_S, MAX_RETRY_S)
        return REFRESH_S * random.uniform(0.8, 1.0)  # noqa: S311  jitter is no secret

    def _begin(self) -> asyncio.Task[None]:
        self._began_at = time.monotonic()
        self._running = self._tasks.begin(self._read(), f"read keys of {self.issuer.issuer}")
        self._running.add_done_callback(self._ended)
        return self._running

    def _ended(self, _task: asyncio.Task[None]) -> None:
        self._running = None

    async def _read(self) -> None:
        try:
            raw = await published(self.issuer)
            if raw != self._raw or not self.keys:
                self._take(keys_of(raw, self.issuer.algorithms))
                self._raw = raw
        except (FetchFailed, BadKeys, OSError) as error:
            self._failed(cause_of(error))
        except Exception:
            log.exception("jwt_keys_failed", issuer=self.issuer.issuer)
            self._failed("an internal error, which is in the log")
        else:
            if self.failures:
                log.info("jwt_keys_readable_again", issuer=self.issuer.issuer)
            self.failures, self.read_at = 0, time.monotonic()

    def _take(self, found: dict[KeyName, PyJWK]) -> None:
        left = self._replace(found)
        names = sorted({kid for kid, _ in found})
        log.info("jwt_keys_read", issuer=self.issuer.issuer, keys=names[:MAX_LOGGED], left=left)

    def _replace(self, found: dict[KeyName, PyJWK]) -> int:
        """Replace the keys, and return how many have left. One that stays keeps the tokens that it has verified."""
        old = self.keys
        self.keys = {name: self._kept(old.get(name), key) for name, key in found.items()}
        left = [each for name, each in old.items() if self.keys.get(name) is not each]
        for each in left:
            each.proof.withdraw()
        if left:
            self._changed()
        return len(left)

    def _kept(self, old: TrustedKey | None, key: PyJWK) -> TrustedKey:
        if old is not None and thumbprint(old.key) == thumbprint(key):
            return old
        return TrustedKey(key, Proof(self.issuer.digest(public_bytes(key))))

    def _failed(self, cause: str) -> None:
        self.failures += 1
        self.failed_total += 1
        if self.failures == 1:
            using = "the keys that were read before" if self.keys else "none: tokens of this issuer are refused"
            log.warning("jwt_keys_not_read", issuer=self.issuer.issuer, cause=cause, using=using)


async def published(issuer: Issuer) -> bytes:
    """Read an issuer's keys from where it publishes them. Raises FetchFailed or OSError."""
    if issuer.jwks.startswith(FILE):
        return await off_loop(read_small, issuer.jwks.removeprefix(FILE), https.MAX_BYTES)
    context = await off_loop(_tls_context, issuer.ca_file)
    token = await off_loop(read_small, issuer.token_file, MAX_TOKEN_BYTES) if issuer.token_file else b""
    return await https.get(issuer.jwks, context, token.decode("ascii", "replace").strip())


def cause_of(error: FetchFailed | BadKeys | OSError) -> str:
    """Return why keys could not be read, without their address."""
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)


def _tls_context(ca_file: str) -> ssl.SSLContext:
    if ca_file and not Path(ca_file).is_file():
        raise FetchFailed("the file with its CA certificates cannot be read")
    return ssl.create_default_context(cafile=ca_file or None)
