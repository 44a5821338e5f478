"""What the registered claims of a token must be (RFC 7519, 4.1). Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from flagsvc.core import shown_text
from flagsvc.issuers.refusals import BadToken, Reason

SKEW_S = 60
"""By how much an issuer's clock may differ from this machine's."""
MAX_SUBJECT_CHARS = 512
_MAX_MOMENT = 1e11
"""Seconds since 1970: the year 5138. What is more is in milliseconds, and would hardly ever expire."""


def check_audience(claims: Mapping[str, Any], audiences: Collection[str]) -> None:
    """Raise BadToken unless the token is meant for one of these audiences."""
    value = claims.get("aud")
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(each, str) for each in values):
        raise BadToken(Reason.CLAIMS, "the token has no aud, the claim that says for whom it is")
    if not any(each in audiences for each in values):
        raise BadToken(Reason.CLAIMS, "the token's aud names others: it is not for flagsvc")


def ends_at(claims: Mapping[str, Any], now: float) -> float:
    """Return when the token ends, in seconds since 1970, the skew included. Raises BadToken outside of its time."""
    expires, not_before, issued = (_moment(claims, name) for name in ("exp", "nbf", "iat"))
    if expires is None:
        raise BadToken(Reason.TIME, "the token has no exp, the claim that says when it expires")
    if now >= expires + SKEW_S:
        raise BadToken(Reason.TIME, "the token has expired")
    if any(each is not None and each - SKEW_S > now for each in (not_before, issued)):
        raise BadToken(Reason.TIME, "the token is not valid yet: compare the clocks of its issuer and of this server")
    return expires + SKEW_S


def subject(claims: Mapping[str, Any]) -> str:
    """Return who the token is about. Raises BadToken."""
    value = claims.get("sub")
    if not isinstance(value, str) or not 0 < len(value) <= MAX_SUBJECT_CHARS or shown_text.problem(value):
        wanted = f"1 to {MAX_SUBJECT_CHARS} visible characters"
        raise BadToken(Reason.CLAIMS, f"the token has no sub, the claim that names the caller in {wanted}")
    return value


def _moment(claims: Mapping[str, Any], name: str) -> float | None:
    if name not in claims:
        return None
    value = claims[name]
    if type(value) not in (int, float) or not 0 <= value <= _MAX_MOMENT:  # NaN is neither
        raise BadToken(Reason.TIME, f"the token's {name} is no number of seconds since 1970")
    return float(value)
