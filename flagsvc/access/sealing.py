"""Seals short texts with a key: encrypted and authenticated, and the same for the same text (AES-SIV, RFC 5297)."""

from __future__ import annotations

import base64

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV


def seal(key: bytes, content: bytes, purpose: list[bytes]) -> str:
    """Return what only holders of the key can read or make, for an address. `purpose`: what it is good for."""
    return base64.urlsafe_b64encode(AESSIV(key).encrypt(content, purpose)).decode()


def unseal(key: bytes, sealed: str, purpose: list[bytes]) -> bytes | None:
    """Return what was sealed with this key for this purpose; None if it was not."""
    try:
        return AESSIV(key).decrypt(base64.b64decode(sealed.encode(), b"-_", validate=True), purpose)
    except (ValueError, InvalidTag):
        return None
