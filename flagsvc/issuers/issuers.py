"""The issuers and rules of one replica: read from their file, followed, and started and stopped together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping

import structlog

from flagsvc.adapters.files.followed_file import FollowedFile
from flagsvc.adapters.files.small_files import read_small
from flagsvc.background import BackgroundTasks, repeat
from flagsvc.core.access.identity import Identity, Kind
from flagsvc.core.model import JsonValue
from flagsvc.issuers.certificates import CertificateCallers
from flagsvc.issuers.configuration import MAX_BYTES, BadConfiguration, Configuration, configuration
from flagsvc.issuers.identity import ProvenIdentity
from flagsvc.issuers.key_set import KeySet
from flagsvc.issuers.tokens import JwtCallers
from flagsvc.ports import Problem
from flagsvc.telemetry import Sample

LOOK_S = 1.0
"""Seconds between two looks at the file."""
SETTING = "FLAGSVC_JWT_ISSUERS_FILE"

log = structlog.get_logger(__name__)


def configuration_in(path: str) -> Configuration:
    """Read the file. Raises BadConfiguration, whose text is for its operator."""
    try:
        return configuration(path, read_small(path, MAX_BYTES))
    except OSError as error:
        raise BadConfiguration(f"it cannot be read: {error.strerror or type(error).__name__}") from None


class Issuers:
    """Callers with JWTs or client certificates. Raises SettingsError if the file is not valid.

    `changed`: called when callers may have lost their rights, so that what they have open is checked.
    """

    def __init__(self, path: str, changed: Callable[[], None] = lambda: None) -> None:
        self._changed = changed
        self.file = FollowedFile[Configuration](
            path, lambda path, _: configuration_in(path), SETTING, "issuers_file_rejected"
        )
        self.tokens, self.certificates = JwtCallers(), CertificateCallers()
        self.reloads = 0
        self._tasks = BackgroundTasks()

    async def start(self) -> None:
        """Begin to read the keys, and to follow the file."""
        await self._use(self.file.content)
        self._tasks.start(repeat(self._look, self._pause, "issuers_file_failed"), "issuers file")

    async def close(self) -> None:
        """Stop everything."""
        await self._tasks.close()
        await asyncio.gather(*(each.close() for each in self.tokens.issuers.values()))
        await self.tokens.close()

    @property
    def has_certificates(self) -> bool:
        """Whether a rule is for client certificates."""
        return bool(self.file.content.certificates)

    def known(self, credential: str) -> Identity | None:
        """Return who sends this token if it was verified before."""
        return self.tokens.known(credential)

    async def verify(self, credential: str, peer: str) -> None:
        """Verify a token. `peer`: who pays if it fails. Raises as `JwtCallers.verified_caller`."""
        await self.tokens.verified_caller(credential, peer)

    def holder(self, certificate: bytes) -> Identity:
        """Return who has this client certificate (PEM). Raises Unauthenticated or PermissionDenied."""
        return self.certificates.caller(certificate)

    def reference(self, identity: Identity) -> str:
        """Return the name of the key that a caller's token was verified with; empty for other callers."""
        return identity.proof.name if isinstance(identity, ProvenIdentity) else ""

    def referred(self, reference: str, caller: Identity) -> Identity | None:
        """Return a caller whose token was verified on some replica with the key of this name."""
        return self.tokens.referred(reference, caller)

    def deny(self, names: Iterable[str]) -> None:
        """Refuse these callers from now on, and nobody else.

        `jwt:ISSUER|SUBJECT`, `certificate:uri:NAME` or `certificate:dns:NAME`.
        """
        parts = [name.partition(":") for name in names]
        self.tokens.denied = frozenset(name for kind, _, name in parts if kind == Kind.JWT)
        self.certificates.denied = frozenset(name for kind, _, name in parts if kind == Kind.CERTIFICATE)
        self._changed()

    def evidence(self, identity: Identity) -> Mapping[str, JsonValue]:
        """Return the names of a caller, and the claims that its issuer's rules ask for."""
        if not isinstance(identity, ProvenIdentity):
            return {}
        claims = {"issuer": identity.issuer, "claims": identity.claims} if identity.issuer else {}
        return {"names": sorted(identity.names), **claims}

    def granted(self, kind: str, name: str, evidence: Mapping[str, JsonValue]) -> Identity | None:
        """Return a caller with the rights that the rules of now give it."""
        grant = self.tokens.granted(evidence) if kind == Kind.JWT else self.certificates.granted(name)
        return Identity(Kind(kind), name, name, grant.role, grant.scope) if grant is not None else None

    def is_current(self, identity: Identity) -> bool:
        """Whether a caller that was recognized before may still go on."""
        if not isinstance(identity, ProvenIdentity):
            return True
        return (self.tokens if identity.kind is Kind.JWT else self.certificates).is_current(identity)

    def problems(self) -> Iterator[Problem]:
        """Yield what does not work now."""
        if self.file.rejected:
            detail = f"the file of issuers is rejected; the one before it is used: {self.file.rejected}"
            yield Problem("issuers_file_rejected", detail, f"correct {self.file.path}; flagsvc doctor checks it")
        for each in self.tokens.issuers.values():
            if each.failures > 1:
                using = "those that were read last are used" if each.keys else "its tokens are refused"
                detail = f"the keys of {each.issuer.issuer} cannot be read; {using}"
                yield Problem("issuer_keys_not_read", detail, "see the log event jwt_keys_not_read; flagsvc doctor")

    def samples(self) -> Iterator[Sample]:
        """Return the counts when Prometheus asks."""
        about = "JWTs that were verified and are held in memory."
        yield Sample("flagsvc_jwt_known", about, len(self.tokens))
        yield Sample("flagsvc_jwt_verifications_total", "Signatures of JWTs that were checked.", self.tokens.verified)
        for reason, count in (self.tokens.refusals + self.certificates.refusals).items():
            about = "JWTs and client certificates that were refused, by reason."
            yield Sample("flagsvc_jwt_refused_total", about, count, {"reason": reason.value})
        about = "JWTs that were not verified because too many waited."
        yield Sample("flagsvc_jwt_overloads_total", about, self.tokens.overloads)
        for each in self.tokens.issuers.values():
            labels = {"issuer": each.issuer.issuer}
            yield Sample("flagsvc_jwt_keys", "Public keys of an issuer.", len(each.keys), labels)
            yield Sample("flagsvc_jwt_keys_age_seconds", "Seconds since they were read.", each.age_s(), labels)
            about = "Failed attempts to read an issuer's keys."
            yield Sample("flagsvc_jwt_key_failures_total", about, each.failed_total, labels)
        about = "1 while the newest content of the file of issuers is not valid and therefore not used."
        yield Sample("flagsvc_issuers_file_rejected", about, int(bool(self.file.rejected)))

    async def _pause(self) -> None:
        await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        """Use the file's content if it has changed."""
        if await self.file.look():
            await self._use(self.file.content)
            self.reloads += 1

    async def _use(self, found: Configuration) -> None:
        """Replace issuers and rules. An issuer whose entry is the same keeps its keys and its callers."""
        old = self.tokens.issuers
        same = {name: each for name, each in old.items() if each.issuer in found.issuers}
        new = {each.issuer: same.get(each.issuer) or KeySet(each, self._changed) for each in found.issuers}
        self.tokens.issuers = new
        self.certificates.replace_rules(found.certificates)
        for name, each in new.items():
            if old.get(name) is not each:
                each.start()
        await asyncio.gather(*(each.close() for name, each in old.items() if new.get(name) is not each))
        self._changed()
        log.info("issuers_used", issuers=[*new], certificate_rules=len(found.certificates))
