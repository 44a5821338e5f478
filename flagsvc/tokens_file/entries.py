"""The file's content: a list of tokens, YAML or JSON, with the SHA-256 of each in place of its text."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from flagsvc.adapters.files.fields import Fields
from flagsvc.adapters.files.followed_file import BadFile
from flagsvc.adapters.files.parse import parse
from flagsvc.adapters.files.text import FlagText
from flagsvc.core.access.roles import FOR_ALL_SETS, Role
from flagsvc.core.access.tokens import MAX_TOKENS, Secret, Token, checked
from flagsvc.core.errors import InvalidRequest, invalid

MAX_BYTES = 4 * 1_048_576
CREATED_BY = "file"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PLACE = re.compile(r"\[(\d+)\](?:\.(\w+))?")
_MAX_ID = 64
_WANTED_TIME = "a time with its zone, such as 2027-03-01T12:00:00Z"


class BadTokensFile(BadFile):
    """The file cannot be used. The text names the line, the field, its value and what is valid."""


def tokens_in(name: str, raw: bytes) -> tuple[Token, ...]:
    """Read a file, YAML or JSON by its name. An empty one has no tokens. Raises BadTokensFile."""
    if len(raw) > MAX_BYTES:
        raise BadTokensFile(f"the file has {len(raw)} bytes; it must have at most {MAX_BYTES}")
    if not raw.strip():
        return ()
    text = parse(name, raw)
    if problems := text.problems + text.warnings:  # what parsers read in different ways gives nobody a right
        raise BadTokensFile(f"line {text.lines(problems[0].path)}: {problems[0].text}")
    try:
        return _tokens(text.document)
    except InvalidRequest as error:
        found = error.violations[0]
        raise BadTokensFile(f"line {_line(text, found.field)}: {found}") from None


def line_of(token: Token) -> str:
    """Return a token's entry as one line, which is valid in YAML and, without the `- `, in JSON."""
    entry: dict[str, Any] = {
        "id": token.id,
        "sha256": token.secrets[-1].digest,
        "name": token.name,
        "role": token.role.value,
        "flag_sets": list(token.flag_sets),
        "expires": token.expires_at and _time_text(token.expires_at),
        "created": _time_text(token.created_at),
        "rate": token.rate or None,
        "for_others": token.for_others or None,
        "context_headers": token.context_headers or None,
    }
    return f"- {json.dumps({name: value for name, value in entry.items() if value is not None})}\n"


def _tokens(document: Any) -> tuple[Token, ...]:
    if not isinstance(document, list) or len(document) > MAX_TOKENS:
        found = f"{len(document)} entries" if isinstance(document, list) else type(document).__name__
        raise invalid("the file", found, f"a list of at most {MAX_TOKENS} tokens")
    tokens = tuple(_token(Fields(entry, f"[{at}]")) for at, entry in enumerate(document))
    _check_once("id", [token.id for token in tokens])
    _check_once("sha256", [token.secrets[0].digest for token in tokens])
    return tokens


def _token(fields: Fields) -> Token:
    token_id = fields.text("id", "letters and digits")
    if not token_id.isalnum() or not token_id.isascii() or len(token_id) > _MAX_ID:
        raise invalid(fields.path("id"), token_id, f"1 to {_MAX_ID} letters and digits")
    digest = fields.text("sha256", "the SHA-256 of the token's text: 64 hexadecimal digits")
    if not _SHA256.fullmatch(digest):
        shown = f"a text of {len(digest)} characters"  # it may be the token itself
        raise invalid(fields.path("sha256"), shown, "the SHA-256 of the token's text in 64 hexadecimal digits")
    token = Token(
        id=token_id,
        name=fields.text("name", "a name that says who uses the token"),
        role=_role(fields),
        flag_sets=fields.texts("flag_sets", "a flag set, a prefix such as team-*, or *; or a list of them", 100),
        created_by=CREATED_BY,
        created_at=_time(fields, "created") or _EPOCH,
        expires_at=_time(fields, "expires"),
        secrets=(Secret(digest),),
        rate=_value(fields, "rate", int, "a whole number of evaluations a second") or 0,
        for_others=_value(fields, "for_others", bool, "true or false") or False,
        context_headers=_value(fields, "context_headers", bool, "true or false") or False,
    )
    fields.end()
    try:
        return _checked(token)
    except InvalidRequest as error:
        found = error.violations[0]
        field = fields.path(_NAMES.get(found.field, found.field))
        raise InvalidRequest([replace(found, field=field)]) from None


_NAMES = {"expire_time": "expires"}


def _checked(token: Token) -> Token:
    if token.role in FOR_ALL_SETS and not token.scope.is_all:
        raise invalid("flag_sets", list(token.flag_sets), f'["*"]: the role {token.role} is for all')
    return checked(token)


def _role(fields: Fields) -> Role:
    wanted = f"one of {', '.join(Role)}"
    text = fields.text("role", wanted)
    if text not in list(Role):
        raise invalid(fields.path("role"), text, wanted)
    return Role(text)


def _time(fields: Fields, name: str) -> datetime | None:
    text = fields.text(name, _WANTED_TIME, needed=False)
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = _EPOCH.replace(tzinfo=None)
    if found.tzinfo is None:
        raise invalid(fields.path(name), text, _WANTED_TIME)
    return found.astimezone(UTC)


def _value(fields: Fields, name: str, wanted: type, about: str) -> Any:
    if name not in fields:
        fields.take(name)
        return None
    value = fields.take(name)
    if type(value) is not wanted:
        raise invalid(fields.path(name), value, about)
    return value


def _check_once(name: str, values: Sequence[str]) -> None:
    first: dict[str, int] = {}
    for at, value in enumerate(values):
        if first.setdefault(value, at) != at:
            raise invalid(f"[{at}].{name}", value, f"another one than that of [{first[value]}]")


def _time_text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _line(text: FlagText, field: str) -> int:
    """Return the line of a field such as `[3].role`."""
    place = _PLACE.match(field)
    if place is None:
        return text.lines(())
    index, name = place.groups()
    return text.lines((int(index), name) if name else (int(index),))
