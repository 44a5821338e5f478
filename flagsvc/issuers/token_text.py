"""A JWT's text, taken apart and checked as far as that needs no key. Nothing in it can be believed yet."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from flagsvc.core.json_values import NotJson, strict_loads
from flagsvc.issuers.refusals import BadToken, Reason

MAX_BYTES = 8_192
MAX_KID_CHARS = 256
_FORM = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_REFUSED_HEADERS = ("jku", "x5u", "jwk", "x5c", "crit", "b64", "zip", "enc")
"""They name another key, or another meaning of the rest. Whoever forges a token writes them too."""


class TokenText(NamedTuple):
    """The parts of a token that decide how it is verified."""

    text: str
    key_id: str
    algorithm: str
    issuer: str
    claims: Mapping[str, Any]


def token_text(text: str) -> TokenText:
    """Take a token apart. Raises BadToken."""
    if len(text) > MAX_BYTES:
        raise BadToken(Reason.MALFORMED, f"the token is over {MAX_BYTES} bytes")
    form = _FORM.fullmatch(text)
    if form is None:
        raise BadToken(Reason.MALFORMED, "the credential is no token of flagsvc, and no JWT: three parts in base64url")
    header, claims = _object(form[1], "header"), _object(form[2], "claims")
    for name in _REFUSED_HEADERS:
        if name in header:
            raise BadToken(Reason.MALFORMED, f"the token's header has {name}, which is not accepted")
    key_id, algorithm, issuer = header.get("kid"), header.get("alg"), claims.get("iss")
    if not isinstance(key_id, str) or not 0 < len(key_id) <= MAX_KID_CHARS:
        raise BadToken(Reason.MALFORMED, "the token's header has no kid, which names the issuer's key")
    if not isinstance(algorithm, str):
        raise BadToken(Reason.MALFORMED, "the token's header has no alg")
    if not isinstance(issuer, str):
        raise BadToken(Reason.ISSUER, "the token has no iss, the claim that names its issuer")
    return TokenText(text, key_id, algorithm, issuer, claims)


def _object(part: str, name: str) -> dict[str, Any]:
    try:
        value = strict_loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)).decode())
    except (binascii.Error, UnicodeDecodeError, NotJson):
        value = None
    if not isinstance(value, dict):
        wanted = "a JSON object in base64url, without duplicate fields"
        raise BadToken(Reason.MALFORMED, f"the token's {name} are not {wanted}".replace("header are", "header is"))
    return value
