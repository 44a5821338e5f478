"""An issuer's public keys, read from a JSON Web Key Set (RFC 7517). No other module knows PyJWT."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import PyJWK, PyJWS
from jwt.exceptions import InvalidTokenError, PyJWTError

from flagsvc.core.json_values import NotJson, strict_loads
from flagsvc.issuers.configuration import ALGORITHMS

KeyName = tuple[str, str]
"""A key's kid, and the algorithm that it is used with: a token never chooses the algorithm of a key."""
Keys = Mapping[KeyName, PyJWK]

MAX_KEYS = 100
MIN_RSA_CHARS, MAX_RSA_CHARS = 342, 1_366
"""Characters of a modulus in base64url: 2,048 to 8,192 bits. A larger key takes long to verify with."""
_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_VERIFIER = PyJWS(algorithms=list(ALGORITHMS), options={"enforce_minimum_key_length": True})


class BadKeys(ValueError):
    """A text is no set of keys of which one can be used. The text says why, and repeats nothing of it."""


def keys_of(raw: bytes, algorithms: frozenset[str]) -> dict[KeyName, PyJWK]:
    """Read a set. A key that cannot be used with one of the algorithms is left out. Raises BadKeys."""
    try:
        document = strict_loads(raw.decode())
    except (UnicodeDecodeError, NotJson) as error:
        raise BadKeys(f"it is not JSON: {type(error).__name__}") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        raise BadKeys(f"it has no list `keys` of at most {MAX_KEYS} keys")
    found: dict[KeyName, PyJWK] = {}
    for entry in entries:
        for algorithm in _algorithms(entry):
            name = entry["kid"], algorithm
            if algorithm in algorithms and (key := _key(entry, algorithm)) is not None:
                if name in found:
                    raise BadKeys("two of its keys have the same kid and algorithm")
                found[name] = key
    if not found:
        raise BadKeys(f"it has no public key with a kid for {', '.join(sorted(algorithms))}")
    return found


def is_signed(text: str, key: PyJWK) -> bool:
    """Whether a token is signed with a key, by the key's algorithm. It takes 0.1 to 0.5 ms."""
    try:
        _VERIFIER.decode(text, key, algorithms=[key.algorithm_name])
    except (InvalidTokenError, ValueError):
        return False
    return True


def thumbprint(key: PyJWK) -> object:
    """Return what tells two keys of the same name apart."""
    return key.key.public_numbers() if hasattr(key.key, "public_numbers") else key.key.public_bytes_raw()


def public_bytes(key: PyJWK) -> bytes:
    """Return a public key as every program writes it (SubjectPublicKeyInfo)."""
    return bytes(key.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _algorithms(entry: Any) -> Iterator[str]:
    """Yield the algorithms that a key can be used with: its own if it names one, else those of its type."""
    if not isinstance(entry, dict) or not isinstance(entry.get("kid"), str) or _PRIVATE & entry.keys():
        return
    operations = entry.get("key_ops")
    if entry.get("use", "sig") != "sig" or (operations is not None and "verify" not in _listed(operations)):
        return
    own, curve = entry.get("alg"), entry.get("crv")
    size = len(entry["n"]) if isinstance(entry.get("n"), str) else 0
    match entry.get("kty"):
        case "RSA" if MIN_RSA_CHARS <= size <= MAX_RSA_CHARS:
            fitting = [each for each in ALGORITHMS if each[0] in "RP"]
        case "EC" if isinstance(curve, str) and curve in _CURVES:
            fitting = [_CURVES[curve]]
        case "OKP" if curve == "Ed25519":
            fitting = ["EdDSA"]
            own = "EdDSA" if own == "Ed25519" else own  # RFC 9864 has renamed it
        case _:
            fitting = []
    yield from (each for each in fitting if own in (None, each))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _key(entry: Mapping[str, Any], algorithm: str) -> PyJWK | None:
    public = {name: entry[name] for name in ("kty", "crv", "n", "e", "x", "y") if name in entry}
    try:
        return PyJWK(public, algorithm)
    except (PyJWTError, ValueError, TypeError, KeyError):
        return None
