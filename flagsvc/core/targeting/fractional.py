"""flagd's fractional operator: hashing and bucketing.

Version 2 is that of flagd's daemon, and hashes the UTF-8 text itself. Version 3 is that of its newest engine in Python,
and hashes the canonical CBOR (RFC 8949, 4.2.1) of the value. Both use MurmurHash3 x86 32-bit with seed 0, and the
bucket `(hash * total weight) >> 32`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import cbor2
import mmh3

from ..model import Attributes, JsonValue

MAX_TOTAL = 2**31 - 1
_PAIR = b"\x82"  # CBOR: an array of two elements
_NO_CBOR = (UnicodeEncodeError, ValueError, TypeError, OverflowError, RecursionError, cbor2.CBOREncodeError)


@dataclass(frozen=True, slots=True)
class Split:
    """Variants and the cumulative weights at which their shares end."""

    variants: tuple[JsonValue, ...]
    ends: tuple[int, ...]

    @property
    def total(self) -> int:
        """Sum of the weights."""
        return self.ends[-1]

    def bucket(self, hashed: int) -> int:
        """Return the bucket of a 32-bit hash: 0 to total - 1."""
        return (hashed * self.total) >> 32

    def choose(self, hashed: int) -> JsonValue:
        """Return the variant for a 32-bit hash."""
        return self.variants[bisect_right(self.ends, self.bucket(hashed))]


def split_of(shares: list[JsonValue], version: int) -> Split | None:
    """Return the split of `[variant, weight]` shares; None if they are invalid. As in flagd, negative weights are 0."""
    weights: list[int] = []
    for share in shares:
        if not isinstance(share, list) or not share:
            return None
        weight = _weight_2(share) if version == 2 else _weight_3(share)  # noqa: PLR2004  the older version
        if weight is None:
            return None
        weights.append(max(0, weight))
    ends = tuple(accumulate(weights))
    if not ends or not 0 < ends[-1] <= MAX_TOTAL:
        return None
    return Split(tuple(share[0] for share in shares), ends)


def _weight_2(share: list[JsonValue]) -> int | None:
    """As flagd's daemon: a weight of null is 1, further elements do not count, and a variant is no list or object."""
    if isinstance(share[0], list | dict):
        return None
    return 1 if len(share) == 1 or share[1] is None else whole(share[1])


def _weight_3(share: list[JsonValue]) -> int | None:
    """As flagd's newest engine in Python."""
    return 1 if len(share) == 1 else whole(share[1]) if len(share) == 2 else None  # noqa: PLR2004  variant, weight


def whole(value: JsonValue) -> int | None:
    """Return a weight as an int; None if it is not an integer. Over gRPC all numbers of a context are floats."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


class Hashing(NamedTuple):
    """The hash functions of one version for one flag. Each returns None if there is nothing to hash."""

    of_key: Callable[[JsonValue], int | None]
    """Hashes the flag key with a targeting key."""
    of_text: Callable[[str], int | None]
    """Hashes a string that the rule computed."""
    of_seed: Callable[[JsonValue, Attributes], int | None]
    """Hashes the operator's first argument or, if that is a share (a list), flag key and targeting key."""


def hashing(version: int, flag_key: str) -> Hashing:
    """Return the hash functions of version 2 or 3."""
    return _version_2(flag_key) if version == 2 else _version_3(flag_key)  # noqa: PLR2004  the older version


def _version_3(flag_key: str) -> Hashing:
    prefix = _PAIR + text_encoded(flag_key)

    def of_key(targeting_key: JsonValue) -> int | None:
        if targeting_key.__class__ is not str or not targeting_key:
            return None
        try:
            return mmh3.hash(prefix + text_encoded(targeting_key), signed=False)
        except UnicodeEncodeError:
            return None

    def of_text(text: str) -> int | None:
        try:
            return mmh3.hash(text_encoded(text), signed=False)
        except UnicodeEncodeError:
            return None

    def of_seed(seed: JsonValue, context: Attributes) -> int | None:
        if isinstance(seed, list):
            return of_key(context.get("targetingKey"))
        if seed is None:
            return None
        try:
            return mmh3.hash(encoded(seed), signed=False)
        except _NO_CBOR:
            return None

    return Hashing(of_key, of_text, of_seed)


def _version_2(flag_key: str) -> Hashing:
    def of_text(text: str) -> int | None:
        try:
            return mmh3.hash(text.encode(), signed=False)
        except UnicodeEncodeError:
            return None

    def of_key(targeting_key: JsonValue) -> int | None:
        return of_text(flag_key + targeting_key) if isinstance(targeting_key, str) and targeting_key else None

    def of_seed(seed: JsonValue, context: Attributes) -> int | None:
        if seed is None or isinstance(seed, list):
            return of_key(context.get("targetingKey"))
        return of_text(seed) if isinstance(seed, str) else None

    return Hashing(of_key, of_text, of_seed)


def encoded(value: JsonValue) -> bytes:
    """Return the canonical CBOR of a value. Strings, by far the most common, are encoded without the library."""
    return text_encoded(value) if isinstance(value, str) else cbor2.dumps(_normal(value), canonical=True)


def text_encoded(value: str) -> bytes:
    """Return the CBOR of a string: its length in the shortest form, then its UTF-8 bytes."""
    raw = value.encode()
    size = len(raw)
    if size < 24:  # noqa: PLR2004  the lengths that fit in the first byte
        return bytes((0x60 + size,)) + raw
    if size < 2**8:
        return bytes((0x78, size)) + raw
    if size < 2**16:
        return b"\x79" + size.to_bytes(2) + raw
    return b"\x7a" + size.to_bytes(4) + raw


def _normal(value: Any) -> Any:
    """Return the value with integral floats as integers, so that 1 and 1.0 are in the same bucket."""
    if isinstance(value, dict):
        return {k: _normal(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_normal(v) for v in value]
    if isinstance(value, float) and value.is_integer() and -(2**63) <= value <= 2**64 - 1:
        return int(value)
    return value
