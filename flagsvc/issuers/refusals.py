"""Why tokens are refused."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why, as metrics and logs name it."""

    MALFORMED = "malformed"
    ISSUER = "issuer"
    ALGORITHM = "algorithm"
    TIME = "time"
    CLAIMS = "claims"
    KEY = "key"
    SIGNATURE = "signature"
    ROLE = "role"
    DENIED = "denied"
    CERTIFICATE = "certificate"


class BadToken(Exception):
    """A token is not accepted. The text is for its sender, and repeats nothing of the token."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason
