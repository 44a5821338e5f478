"""Page sizes and page tokens. A page token is opaque and valid only for the listing it came from."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json

from flagsvc.core.errors import InvalidRequest, invalid
from flagsvc.core.json_values import INT64, is_text

MAX_PAGE = 1_000
_DIGEST = 6


def page_size(requested: int, default: int) -> int:
    """Return the size to use: the default for 0, at most MAX_PAGE. Raises InvalidRequest if negative."""
    if requested < 0:
        raise invalid("page_size", requested, f"0 (meaning {default}) to {MAX_PAGE}", "INVALID_PAGE_SIZE")
    return min(requested or default, MAX_PAGE)


def to_page_token(listing: str, position: tuple[int, str]) -> str:
    """Return a token that continues a listing after the position (sort order, key)."""
    body = json.dumps(position, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_seal(listing, body) + body).decode().rstrip("=")


def from_page_token(listing: str, token: str) -> tuple[int, str] | None:
    """Return a token's position, None for the first page. Raises InvalidRequest unless it is of this listing."""
    if not token:
        return None
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except (binascii.Error, ValueError):
        raw = b""
    position = _position(raw[_DIGEST:]) if raw[:_DIGEST] == _seal(listing, raw[_DIGEST:]) else None
    if position is None:
        raise bad_page_token(token)
    return position


def bad_page_token(token: str) -> InvalidRequest:
    """Return the error for a page token that is of no listing, or of another one."""
    return invalid("page_token", token, "the unchanged next_page_token of the previous page", "INVALID_PAGE_TOKEN")


def _position(body: bytes) -> tuple[int, str] | None:
    """Return the position in a token's body; None for anything else: anybody can make the seal."""
    try:
        position = json.loads(body)
    except (ValueError, RecursionError):
        return None
    match position:
        case [int(order), str(key)] if order in INT64 and is_text(key):
            return order, key
    return None


def _seal(listing: str, body: bytes) -> bytes:
    return hashlib.blake2s(body, digest_size=_DIGEST, key=hashlib.blake2s(listing.encode()).digest()).digest()
