"""The existing system's documents: mongoexport lines, canonical or relaxed Extended JSON, and one array of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC
from typing import Any, NoReturn

from bson import json_util
from bson.errors import BSONError

from flagsvc.cli.store_changes import BadFile
from flagsvc.core.documents import from_document, to_document
from flagsvc.core.errors import InvalidRequest
from flagsvc.core.model import STORED_NAMES, Flag
from flagsvc.core.validation import validated

NEWLINE = b"\n"
Problems = list[tuple[int, str]]
"""Line, from 1, and what is wrong there."""


def read_flags(path: str, raw: bytes, flag_set: str | None = None) -> list[Flag]:
    """Read and check every document. Raises BadFile naming line and field of every problem."""
    flags, problems = checked_lines(raw, flag_set)
    if problems:
        raise BadFile.of(path, [f"line {number}: {text}" for number, text in problems])
    return flags


def checked_lines(raw: bytes, flag_set: str | None = None) -> tuple[list[Flag], Problems]:
    """Read every document; give the good ones and what is wrong with the others."""
    problems: Problems = []
    flags: dict[tuple[str, str], Flag] = {}
    lines: dict[tuple[str, str], int] = {}
    for number, document in _documents(raw, problems):
        flag = _checked(number, document, flag_set, problems)
        if flag is None:
            continue
        if flag.id in lines:
            problems.append((number, f"key: {flag.key!r} is also on line {lines[flag.id]}"))
        flags[flag.id], lines[flag.id] = flag, number
    return list(flags.values()), problems


def _documents(raw: bytes, problems: Problems) -> Iterator[tuple[int, dict[str, Any]]]:
    """Give each document with its line; a JSON array is read too, its elements counted as lines."""
    try:
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        problems.append((before.count(NEWLINE) + 1, "not UTF-8 text"))
        return
    if content.lstrip().startswith("["):
        try:
            lines = [json.dumps(item) for item in json.loads(content, object_pairs_hook=_unique)]
        except ValueError as error:
            problems.append((getattr(error, "lineno", 1), f"not JSON: {error}"))
            return
    else:
        lines = content.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            json.loads(line, object_pairs_hook=_unique, parse_constant=_refuse_constant)
            document = json_util.loads(line, json_options=json_util.JSONOptions(tz_aware=True, tzinfo=UTC))
        except (ValueError, TypeError, BSONError, RecursionError) as error:
            where = f" at character {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            problems.append((number, f"not a JSON document{where}: {str(error)[:120]}"))
            continue
        if isinstance(document, dict):
            yield number, document
        else:
            problems.append((number, f"a {type(document).__name__}; it must be an object"))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for name, value in pairs:
        if name in seen:
            raise ValueError(f"field {name!r} stands twice")
        seen[name] = value
    return seen


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _checked(number: int, document: dict[str, Any], flag_set: str | None, problems: Problems) -> Flag | None:
    document.pop("_id", None)
    plain = {name: _plain(value) for name, value in document.items()}
    if "key" not in plain:
        problems.append((number, "key: missing; every flag needs one"))
        return None
    flag = from_document(plain)
    if flag.problem:
        wrong = flag.problem.partition(": ")[2].split(", ")
        problems += [(number, f"{name}: {plain[name]!r}; it must be {_wanted(name)}") for name in wrong]
        return None
    flag = replace(flag, name=flag.name or flag.key, flag_set=flag_set or flag.flag_set)
    try:
        return validated(flag)
    except InvalidRequest as error:
        for violation in error.violations:
            field = violation.field.removeprefix("flag.")
            stored = STORED_NAMES.get(field, field)
            problems.append((number, f"{stored}: {violation.found}; it must be {violation.wanted}"))
        return None


def _wanted(name: str) -> str:
    if name == "status":
        return "ENABLED, DISABLED, BETA or DEPRECATED"
    if name in ("sortOrder", "revision"):
        return "a whole number"
    if name in ("variants", "metadata"):
        return "an object"
    return "a date" if name.endswith("At") else "a text"


def _plain(value: Any) -> Any:
    """Give an Extended JSON value as plain Python; whole numbers become int."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return value


def line_of(flag: Flag) -> str:
    """Give a flag as a line of relaxed Extended JSON, without its end."""
    return json_util.dumps(to_document(flag), json_options=json_util.RELAXED_JSON_OPTIONS, ensure_ascii=False)
