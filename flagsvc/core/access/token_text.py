"""The text of a token: `fsv_<id>_<secret>_<checksum>`.

The fixed beginning and the checksum let secret scanners find tokens and leave out what only looks like one. The secret
has 256 random bits, so a plain SHA-256 is enough to keep: nobody can try all secrets, whatever the speed.
"""

from __future__ import annotations

import hashlib
import secrets
import string
import zlib

PREFIX = "fsv"
_ALPHABET = string.digits + string.ascii_letters
_ID_CHARS, _SECRET_CHARS, _CHECKSUM_CHARS = 12, 43, 6
LENGTH = len(PREFIX) + _ID_CHARS + _SECRET_CHARS + _CHECKSUM_CHARS + 3


class NotAToken(ValueError):
    """A text that is no token. The message does not repeat it."""


def new_id() -> str:
    """Return a new token's id. It is no secret."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_ID_CHARS))


def new_token(token_id: str) -> str:
    """Return a token with this id and a new secret."""
    body = f"{PREFIX}_{token_id}_{_base62(secrets.randbits(256), _SECRET_CHARS)}"
    return f"{body}_{_checksum(body)}"


def id_in(text: str) -> str:
    """Return the id in a token that is well formed, which says nothing of whether it is valid. Raises NotAToken."""
    parts = text.split("_")
    if len(text) != LENGTH or len(parts) != 4 or parts[0] != PREFIX:  # noqa: PLR2004  the four parts of the form
        raise NotAToken(f"it has not the form {PREFIX}_ID_SECRET_CHECKSUM of a token")
    if not text.isascii() or not "".join(parts).isalnum() or parts[3] != _checksum("_".join(parts[:3])):
        raise NotAToken("its checksum does not fit: it is mistyped, or cut off")
    return parts[1]


def digest_of(text: str) -> bytes:
    """Return what is kept of a token: the SHA-256 of the whole text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), _CHECKSUM_CHARS)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
