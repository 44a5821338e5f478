"""The file of issuers: whose JWTs and which client certificates are accepted, and the roles that they have."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

from flagsvc.adapters.files.fields import Fields
from flagsvc.adapters.files.followed_file import BadFile
from flagsvc.adapters.files.parse import parse
from flagsvc.core.access.roles import FOR_ALL_SETS, Role
from flagsvc.core.access.scopes import Scope, scope_of
from flagsvc.core.errors import InvalidRequest, invalid
from flagsvc.issuers.conditions import (
    ClaimPath,
    Condition,
    checked_prefix,
    claim_at,
    claim_path,
    condition,
    put_claim,
)

MAX_BYTES = 1_048_576
MAX_ISSUERS, MAX_RULES, MAX_CONDITIONS, MAX_AUDIENCES, MAX_CONTEXT_FIELDS = 50, 1_000, 20, 20, 50
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Asymmetric ones only: with a shared secret, whoever can check a token could also make one."""
DEFAULT_ALGORITHMS = ("RS256", "ES256")
FILE = "file:"


class BadConfiguration(BadFile):
    """The file cannot be used. The text names the field, its value and what is valid."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A role for some flag sets. `context_headers`: headers of its callers set fields of the evaluation context."""

    role: Role
    scope: Scope
    context_headers: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """What a token gets whose claims satisfy all conditions."""

    conditions: tuple[Condition, ...]
    grant: Grant


@dataclass(frozen=True, slots=True)
class Issuer:
    """Whose tokens are accepted.

    `jwks`: `https://...` or `file:PATH`. `ca_file`: what the server of `jwks` is checked with, beside no other.
    `token_file`: a bearer token for that server, as Kubernetes' needs. `context`: claims by the field of the evaluation
    context that they become.
    """

    issuer: str
    audiences: frozenset[str]
    jwks: str
    algorithms: frozenset[str]
    rules: tuple[Rule, ...]
    context: tuple[tuple[str, ClaimPath], ...] = ()
    ca_file: str = ""
    token_file: str = ""

    def digest(self, key: bytes) -> str:
        """Return what names one of the issuer's keys together with what its tokens must be and get."""
        entry = json.dumps([self.issuer, self.audiences, *map(asdict, self.rules)], default=sorted)
        return hashlib.sha256(key + entry.encode("utf-8", "surrogatepass")).hexdigest()

    def asked(self, claims: Mapping[str, Any]) -> dict[str, Any]:
        """Return the part of the claims that the rules ask for. No condition holds for an object."""
        found: dict[str, Any] = {}
        for path in {each.path for rule in self.rules for each in rule.conditions}:
            value = claim_at(claims, path)
            if value is not None and not isinstance(value, dict):
                put_claim(found, path, value)
        return found

    def grant(self, claims: Mapping[str, Any]) -> Grant | None:
        """Return what the first rule that fits gives; None if none does."""
        return next((r.grant for r in self.rules if all(each.holds(claims) for each in r.conditions)), None)


@dataclass(frozen=True, slots=True)
class CertificateRule:
    """What a client certificate gets that has this name: `kind` is `uri` or `dns`."""

    kind: str
    name: str
    is_prefix: bool
    grant: Grant

    def fits(self, kind: str, name: str) -> bool:
        """Whether a name of a certificate is meant."""
        return kind == self.kind and (name.startswith(self.name) if self.is_prefix else name == self.name)


@dataclass(frozen=True, slots=True)
class Configuration:
    """A valid file."""

    issuers: tuple[Issuer, ...] = ()
    certificates: tuple[CertificateRule, ...] = ()


def configuration(name: str, raw: bytes) -> Configuration:
    """Read a file, YAML or JSON by its name. Raises BadConfiguration."""
    if len(raw) > MAX_BYTES:
        raise BadConfiguration(f"the file has {len(raw)} bytes; it must have at most {MAX_BYTES}")
    text = parse(name, raw)
    if problems := text.problems + text.warnings:  # what parsers read in different ways gives nobody a right
        raise BadConfiguration(f"line {text.lines(problems[0].path)}: {problems[0].text}")
    try:
        return _configuration(Fields(text.document, ""))
    except InvalidRequest as error:
        raise BadConfiguration(str(error)) from None


def _configuration(fields: Fields) -> Configuration:
    issuers = fields.each("issuers", _issuer, MAX_ISSUERS)
    certificates = fields.each("certificates", _certificate_rule, MAX_RULES)
    fields.end()
    names = [each.issuer for each in issuers]
    for at, name in enumerate(names):
        if name in names[:at]:
            raise invalid(f"issuers[{at}].issuer", name, "the issuer of no other entry")
    return Configuration(issuers, certificates)


def _issuer(fields: Fields) -> Issuer:
    found = Issuer(
        issuer=fields.text("issuer", "the iss of the tokens, such as https://issuer.example"),
        audiences=frozenset(
            fields.texts("audience", "the aud of tokens for flagsvc, or a list of them", MAX_AUDIENCES)
        ),
        jwks=_jwks(fields),
        algorithms=_algorithms(fields),
        rules=fields.each("rules", _rule, MAX_RULES, least=1),
        context=_context(fields),
        ca_file=fields.text("ca_file", "the path of a file with CA certificates", needed=False),
        token_file=fields.text("token_file", "the path of a file with a token", needed=False),
    )
    fields.end()
    return found


def _jwks(fields: Fields) -> str:
    wanted = "https://HOST/PATH, or file:PATH, of a JSON Web Key Set"
    text = fields.text("jwks", wanted)
    if text.startswith(FILE) and text != FILE:
        return text
    try:
        parts = urlsplit(text)
        is_valid = parts.scheme == "https" and parts.hostname and parts.port != 0 and text.isascii()
    except ValueError:
        is_valid = False
    if not is_valid or "@" in parts.netloc or parts.fragment or " " in text:
        shown = "(not shown: it may hold a secret)" if "@" in text else text
        raise invalid(fields.path("jwks"), shown, wanted)
    return text


def _algorithms(fields: Fields) -> frozenset[str]:
    if "algorithms" not in fields:
        fields.take("algorithms")
        return frozenset(DEFAULT_ALGORITHMS)
    wanted = f"one or more of {', '.join(ALGORITHMS)}"
    found = fields.texts("algorithms", wanted, len(ALGORITHMS))
    if not set(found) <= set(ALGORITHMS):
        raise invalid(fields.path("algorithms"), list(found), wanted)
    return frozenset(found)


def _rule(fields: Fields) -> Rule:
    found = Rule(fields.each("when", condition, MAX_CONDITIONS, least=1), _grant(fields))
    fields.end()
    return found


def _grant(fields: Fields) -> Grant:
    wanted = f"ROLE@FLAG_SETS, such as evaluate@default or write@team-*,web, with a role of {', '.join(Role)}"
    text, field = fields.text("grant", wanted), fields.path("grant")
    role, at, patterns = text.partition("@")
    if role not in list(Role) or not at:
        raise invalid(field, text, wanted)
    scope = scope_of([each.strip() for each in patterns.split(",")], field)
    if role in FOR_ALL_SETS and not scope.is_all:
        raise invalid(field, text, f"{role}@*: this role is for all flag sets")
    return Grant(Role(role), scope, fields.flag("context_headers"))


def _context(fields: Fields) -> tuple[tuple[str, ClaimPath], ...]:
    value, field = fields.take("context", {}), fields.path("context")
    if not isinstance(value, dict) or len(value) > MAX_CONTEXT_FIELDS or not all(value):
        raise invalid(field, value, f"at most {MAX_CONTEXT_FIELDS} claims by the name of their context field")
    return tuple((name, claim_path(path, f"{field}.{name}")) for name, path in value.items())


def _certificate_rule(fields: Fields) -> CertificateRule:
    given = [name for name in ("uri", "uri_prefix", "dns") if name in fields]
    if len(given) != 1:
        raise invalid(fields.name, given, "one of uri, uri_prefix and dns, with a grant")
    name = fields.text(given[0], "a name in the subjectAltName of client certificates")
    kind, _, prefix = given[0].partition("_")
    if prefix:
        checked_prefix(name, fields.path(given[0]))
    if kind == "dns" and "*" in name:
        raise invalid(fields.path("dns"), name, "a whole DNS name without *")
    found = CertificateRule(kind, name.lower() if kind == "dns" else name, bool(prefix), _grant(fields))
    fields.end()
    return found
