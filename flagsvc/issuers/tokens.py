"""Who sends a JWT. One that was verified before costs a digest and a lookup; another one waits for its signature."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from flagsvc.background import outliving
from flagsvc.core.access.identity import Identity, Kind
from flagsvc.core.errors import AccessUnknown, FlagsvcError, Overloaded, PermissionDenied, Unauthenticated
from flagsvc.core.json_values import compact
from flagsvc.core.model import JsonValue
from flagsvc.issuers.claims import check_audience, ends_at, subject
from flagsvc.issuers.conditions import claim_at
from flagsvc.issuers.configuration import Grant, Issuer
from flagsvc.issuers.failures import Failures
from flagsvc.issuers.identity import Proof, ProvenIdentity
from flagsvc.issuers.key_set import KeySet, TrustedKey
from flagsvc.issuers.keys import is_signed
from flagsvc.issuers.known_tokens import RecentlyUsed, digest_of
from flagsvc.issuers.refusals import BadToken, Reason
from flagsvc.issuers.token_text import TokenText, token_text
from flagsvc.turns import off_loop

MAX_KNOWN, MAX_REFUSED = 10_000, 1_000
MAX_WAITING = 1_000
"""Tokens that wait for their verification."""
KEY_WAIT_S = 2.0
"""Seconds that a call waits for its issuer's keys."""
MAX_CONTEXT_BYTES = 2_048
LOG_EVERY_S = 1.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Refused:
    """A token with a wrong signature, or without a role by the rules. `key`: it holds while the issuer has this key."""

    reason: Reason
    text: str
    key: TrustedKey


class JwtCallers:
    """Recognizes callers by their tokens. `issuers`: the keys of each issuer by its name; replaced as a whole."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.issuers: dict[str, KeySet] = {}
        self.denied: frozenset[str] = frozenset()
        """Names of identities (`ISSUER|SUBJECT`) that are refused although their tokens are valid."""
        self.refusals: Counter[Reason] = Counter()
        self.verified = self.overloads = 0
        self._clock = clock
        self._known: RecentlyUsed[ProvenIdentity] = RecentlyUsed(MAX_KNOWN)
        self._refused: RecentlyUsed[Refused] = RecentlyUsed(MAX_REFUSED)
        self._waiting: dict[bytes, asyncio.Task[None]] = {}
        self._failures = Failures()
        self._logged_at = -LOG_EVERY_S

    def __len__(self) -> int:
        return len(self._known)

    def known(self, text: str) -> Identity | None:
        """Return who sends this token if it was verified before; None if it was not, or is valid no more."""
        found = self._known.get(digest_of(text))
        return found if found is not None and self.is_current(found) else None

    def is_current(self, identity: ProvenIdentity) -> bool:
        """Whether a caller may go on: its token has not expired, its key is still valid, its name is not denied."""
        return (
            identity.proof.is_valid
            and self._clock() < identity.expires_at
            and (not self.denied or self.denied.isdisjoint(identity.names))
        )

    async def verified_caller(self, text: str, peer: str) -> Identity:
        """Return who sends this token, after its verification. `peer`: who pays if it fails.

        Raises Unauthenticated or PermissionDenied; AccessUnknown or Overloaded where it cannot be verified now.
        """
        try:
            return await self._verified_caller(text, digest_of(text), peer)
        except BadToken as bad:
            raise self._refusal(bad) from None

    def referred(self, reference: str, caller: Identity) -> Identity | None:
        """Return a caller whose token a replica has verified with the key of this name; None if the key has left."""
        proofs = (key.proof for keys in self.issuers.values() for key in keys.keys.values())
        proof = next((each for each in proofs if each.name == reference and each.is_valid), None)
        if proof is None:
            return None
        found = ProvenIdentity(
            kind=caller.kind,
            id=caller.id,
            name=caller.name,
            role=caller.role,
            scope=caller.scope,
            expires_at=caller.expires_at,
            key=reference.encode(),
            proof=proof,
            names=frozenset({caller.id}),
        )
        return found if self.is_current(found) else None

    def granted(self, evidence: Mapping[str, JsonValue]) -> Grant | None:
        """Return what the rules of now give for claims that were kept; a claim that was not kept satisfies nothing."""
        keys = self.issuers.get(str(evidence.get("issuer")))
        return keys.issuer.grant(evidence.get("claims") or {}) if keys is not None else None

    async def close(self) -> None:
        """End what is being verified."""
        tasks = list(self._waiting.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _verified_caller(self, text: str, digest: bytes, peer: str) -> Identity:
        task = self._waiting.get(digest)
        if task is None:
            parsed, keys = self._parsed(text, digest)
            self._failures.check(peer)
            if len(self._waiting) >= MAX_WAITING:
                self.overloads += 1
                raise Overloaded("too many tokens wait for their verification; retry later")
            task = self._waiting[digest] = asyncio.create_task(self._verify(parsed, keys, digest, peer))
            task.add_done_callback(lambda _: self._waiting.pop(digest, None))
        await outliving(task)  # a caller who leaves ends it for nobody else
        found = self._known.get(digest)
        if found is not None:
            self._check_denied(found)
        if found is None or not self.is_current(found):
            raise AccessUnknown("the token was withdrawn while it was verified; retry")
        return found

    def _parsed(self, text: str, digest: bytes) -> tuple[TokenText, KeySet]:
        """Check everything that needs no key. What is wrong here costs no verification. Raises BadToken."""
        if (refused := self._refused.get(digest)) is not None and refused.key.proof.is_valid:
            raise BadToken(refused.reason, refused.text)
        if (found := self._known.get(digest)) is not None:
            self._check_denied(found)
        parsed = token_text(text)
        keys = self.issuers.get(parsed.issuer)
        if keys is None:
            raise BadToken(Reason.ISSUER, "the token's issuer is none of those that flagsvc is configured for")
        if parsed.algorithm not in keys.issuer.algorithms:
            raise BadToken(Reason.ALGORITHM, "the token's alg is not accepted from its issuer")
        ends_at(parsed.claims, self._clock())
        check_audience(parsed.claims, keys.issuer.audiences)
        subject(parsed.claims)
        return parsed, keys

    async def _verify(self, parsed: TokenText, keys: KeySet, digest: bytes, peer: str) -> None:
        """Verify a token, and keep what came of it. Raises BadToken."""
        key = await self._key(parsed, keys)
        async with self._failures.turn(peer):
            self.verified += 1
            is_valid = await off_loop(is_signed, parsed.text, key.key)
            if not is_valid:
                self._failures.failed(peer)
        if not is_valid:
            raise self._remembered(digest, Reason.SIGNATURE, "the token's signature is not one of its issuer", key)
        grant = keys.issuer.grant(parsed.claims)
        if grant is None:
            text = "the token is valid, and no rule of its issuer gives its caller a role"
            raise self._remembered(digest, Reason.ROLE, text, key)
        self._known.put(digest, self._identity(parsed, keys.issuer, grant, digest, key.proof))

    async def _key(self, parsed: TokenText, keys: KeySet) -> TrustedKey:
        """Return the issuer's key of the token's kid and alg; wait for a newer set of keys if it has none."""
        name = parsed.key_id, parsed.algorithm
        if name not in keys.keys:
            await keys.newer(KEY_WAIT_S)
        if name in keys.keys:
            return keys.keys[name]
        if not keys.is_known:
            raise AccessUnknown("the keys of the token's issuer cannot be read now; retry")
        raise BadToken(Reason.KEY, "the token's issuer has no key of its kid and alg")

    def _remembered(self, digest: bytes, reason: Reason, text: str, key: TrustedKey) -> BadToken:
        """Return a refusal that holds for this token as long as its issuer has this key."""
        self._refused.put(digest, Refused(reason, text, key))
        return BadToken(reason, text)

    def _identity(self, parsed: TokenText, issuer: Issuer, grant: Grant, digest: bytes, proof: Proof) -> ProvenIdentity:
        context: dict[str, JsonValue] = {field: claim_at(parsed.claims, path) for field, path in issuer.context}
        if len(compact(context).encode()) > MAX_CONTEXT_BYTES:
            raise BadToken(Reason.CLAIMS, f"the token's claims for the context are over {MAX_CONTEXT_BYTES} bytes")
        name = subject(parsed.claims)
        full_name = f"{parsed.issuer}|{name}"
        return ProvenIdentity(
            kind=Kind.JWT,
            id=full_name,
            name=name,
            role=grant.role,
            scope=grant.scope,
            context_headers=grant.context_headers,
            expires_at=ends_at(parsed.claims, self._clock()),
            key=digest,
            context=context,
            proof=proof,
            names=frozenset({full_name}),
            issuer=parsed.issuer,
            claims=issuer.asked(parsed.claims),
        )

    def _check_denied(self, identity: ProvenIdentity) -> None:
        if not self.denied.isdisjoint(identity.names):
            raise BadToken(Reason.DENIED, "the token's subject is denied")

    def _refusal(self, bad: BadToken) -> FlagsvcError:
        """Count a refusal, log one a second, and return what the caller gets."""
        self.refusals[bad.reason] += 1
        if time.monotonic() - self._logged_at >= LOG_EVERY_S:
            self._logged_at = time.monotonic()
            log.warning("jwt_refused", reason=bad.reason.value, cause=str(bad), refused=self.refusals.total())
        kind = PermissionDenied if bad.reason in (Reason.ROLE, Reason.DENIED) else Unauthenticated
        return kind(str(bad))
