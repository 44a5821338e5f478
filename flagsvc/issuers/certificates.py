"""Who presents a client certificate. TLS has verified it; the rules say who that is."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence

from cryptography import x509

from flagsvc.core.access.identity import Identity, Kind
from flagsvc.core.errors import PermissionDenied, Unauthenticated
from flagsvc.issuers.configuration import CertificateRule, Grant
from flagsvc.issuers.identity import Proof, ProvenIdentity
from flagsvc.issuers.known_tokens import RecentlyUsed
from flagsvc.issuers.refusals import Reason

MAX_KNOWN = 10_000
MAX_NAMES = 100
"""A certificate with more is refused: a denied name could be among those that are not looked at."""
Name = tuple[str, str]
"""`uri` or `dns`, and the name."""


class CertificateCallers:
    """Recognizes callers by the certificate (PEM) that TLS has verified. One of its names must be in a rule."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.denied: frozenset[str] = frozenset()
        """Names (`uri:NAME`, `dns:NAME`) that are refused: also a certificate that has others besides."""
        self.refusals: Counter[Reason] = Counter()
        self._clock = clock
        self._rules: Sequence[CertificateRule] = ()
        self._proof = Proof()
        self._known: RecentlyUsed[ProvenIdentity] = RecentlyUsed(MAX_KNOWN)

    def __len__(self) -> int:
        return len(self._known)

    def replace_rules(self, rules: Sequence[CertificateRule]) -> None:
        """Take other rules; every caller is recognized again."""
        if rules != self._rules:
            self._rules = rules
            self._proof.withdraw()
            self._proof = Proof()

    def caller(self, pem: bytes) -> Identity:
        """Return who has this certificate. Raises Unauthenticated or PermissionDenied."""
        digest = hashlib.sha256(pem).digest()
        found = self._known.get(digest)
        if found is None or not found.proof.is_valid:
            found = self._recognized(pem, digest)
            self._known.put(digest, found)
        if self._clock() >= found.expires_at:
            raise self._refusal("the client certificate has expired")
        if not self.denied.isdisjoint(found.names):
            self.refusals[Reason.DENIED] += 1
            raise PermissionDenied("a name of the client certificate is denied")
        return found

    def is_current(self, identity: ProvenIdentity) -> bool:
        """Whether a caller may still go on."""
        in_time = identity.proof.is_valid and self._clock() < identity.expires_at
        return in_time and self.denied.isdisjoint(identity.names)

    def granted(self, name: str) -> Grant | None:
        """Return what the rules of now give to this name, such as `uri:NAME`."""
        kind, _, text = name.partition(":")
        return self._grant((kind, text))

    def _recognized(self, pem: bytes, digest: bytes) -> ProvenIdentity:
        try:
            certificate = x509.load_pem_x509_certificate(pem)
            names = _names(certificate)
        except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
            raise self._refusal("the client certificate cannot be read") from None
        if len(names) > MAX_NAMES:
            raise self._refusal(f"the client certificate has more than {MAX_NAMES} names")
        for name, grant in ((name, self._grant(name)) for name in names):
            if grant is not None:
                return ProvenIdentity(
                    kind=Kind.CERTIFICATE,
                    id=":".join(name),
                    name=name[1],
                    role=grant.role,
                    scope=grant.scope,
                    context_headers=grant.context_headers,
                    expires_at=certificate.not_valid_after_utc.timestamp(),
                    key=digest,
                    proof=self._proof,
                    names=frozenset(map(":".join, names)),
                )
        raise self._refusal("no rule names a URI or DNS name in the subjectAltName of the client certificate")

    def _grant(self, name: Name) -> Grant | None:
        return next((rule.grant for rule in self._rules if rule.fits(*name)), None)

    def _refusal(self, text: str) -> Unauthenticated:
        self.refusals[Reason.CERTIFICATE] += 1
        return Unauthenticated(text)


def _names(certificate: x509.Certificate) -> list[Name]:
    """Return the certificate's URIs, then its DNS names. The common name is none of them."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    uris = extension.get_values_for_type(x509.UniformResourceIdentifier)
    names = extension.get_values_for_type(x509.DNSName)
    found = [*(("uri", each) for each in uris), *(("dns", each) for each in names)]
    # Names are ASCII (RFC 5280, 4.2.1.6). In lower case another letter may be one of a rule's: the Kelvin sign is k.
    visible = [name for name in found if name[1].isascii() and name[1].isprintable()]
    return [(kind, text.lower() if kind == "dns" else text) for kind, text in visible]
