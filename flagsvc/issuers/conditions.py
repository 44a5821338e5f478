"""Conditions on the claims of a token. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flagsvc.adapters.files.fields import Fields
from flagsvc.core.errors import invalid
from flagsvc.core.json_values import same
from flagsvc.core.model import JsonValue

ClaimPath = tuple[str, ...]
MAX_STEPS = 10
MAX_CHARS = 500


def claim_path(value: JsonValue, field: str) -> ClaimPath:
    """Read where a claim is: `realm_access.roles`, or a list of names where a name has dots itself.

    Raises InvalidRequest.
    """
    names = value.split(".") if isinstance(value, str) else value
    if not isinstance(names, list) or not 0 < len(names) <= MAX_STEPS or not all(map(_is_name, names)):
        wanted = 'names separated by dots, or a list of names where one has dots itself: ["kubernetes.io", "namespace"]'
        raise invalid(field, value, wanted)
    return tuple(names)


def claim_at(claims: Mapping[str, Any], path: ClaimPath) -> JsonValue:
    """Return the claim there; None if there is none."""
    value: Any = claims
    for name in path:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def put_claim(claims: dict[str, Any], path: ClaimPath, value: JsonValue) -> None:
    """Put a claim there, which is no object."""
    for name in path[:-1]:
        claims = claims.setdefault(name, {})
    claims[path[-1]] = value


@dataclass(frozen=True, slots=True)
class Condition:
    """What one claim must be. `test`: one of TESTS; `wanted`: what it compares with."""

    path: ClaimPath
    test: str
    wanted: JsonValue

    def holds(self, claims: Mapping[str, Any]) -> bool:
        """Whether these claims satisfy it. A claim of another type does not."""
        return TESTS[self.test](claim_at(claims, self.path), self.wanted)


def condition(fields: Fields) -> Condition:
    """Read a condition such as `{"claim": "ref", "equals": "refs/heads/main"}`. Raises InvalidRequest."""
    path = claim_path(fields.take("claim"), fields.path("claim"))
    given = [test for test in TESTS if test in fields]
    if len(given) != 1:
        raise invalid(fields.name, given, f"a claim with one of {', '.join(TESTS)}")
    test = given[0]
    wanted, field = fields.take(test), fields.path(test)
    fields.end()
    if test == "equals" and type(wanted) not in (str, int, bool):
        raise invalid(field, wanted, "a text, a whole number, true or false")
    if test != "equals" and not isinstance(wanted, str):
        raise invalid(field, wanted, "a text")
    if isinstance(wanted, str) and not 0 < len(wanted) <= MAX_CHARS:
        raise invalid(field, wanted, f"1 to {MAX_CHARS} characters")
    if test == "prefix":
        checked_prefix(str(wanted), field)
    return Condition(path, test, wanted)


def checked_prefix(prefix: str, field: str) -> str:
    """Return a prefix that ends where a name ends: `repo:acme` would also be one of `repo:acme-evil`.

    Raises InvalidRequest.
    """
    if prefix[-1:].isalnum():
        raise invalid(field, prefix, "a prefix that ends with a separator, such as team-, acme/ or repo:acme/web:")
    return prefix


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_CHARS


def _equals(value: JsonValue, wanted: JsonValue) -> bool:
    return value is not None and same(value, wanted)


def _contains(value: JsonValue, wanted: JsonValue) -> bool:
    return isinstance(value, list) and wanted in (each for each in value if isinstance(each, str))


def _has_prefix(value: JsonValue, wanted: JsonValue) -> bool:
    return isinstance(value, str) and isinstance(wanted, str) and value.startswith(wanted)


TESTS: Mapping[str, Callable[[JsonValue, JsonValue], bool]] = {
    "equals": _equals,
    "contains": _contains,
    "prefix": _has_prefix,
}
"""`equals`: a text, number or boolean; `contains`: a list with this text; `prefix`: a text that begins so."""
