"""Reads and writes mongoexport files: documents in canonical or relaxed Extended JSON, one per line or one array."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC
from typing import Any

from bson import json_util
from bson.errors import BSONError

from flagsvc.cli.input_files import BadFile
from flagsvc.cli.terminal import say
from flagsvc.core.documents import from_document, to_document
from flagsvc.core.errors import InvalidRequest, Violation
from flagsvc.core.flagd.findings import text_of
from flagsvc.core.json_values import no_constant
from flagsvc.core.model import STORED_NAMES, Flag
from flagsvc.core.validation import importable, validated, validated_change

NEWLINE = b"\n"
_EXPECTED = {"status": "ENABLED, DISABLED, BETA or DEPRECATED"}
_EXPECTED |= dict.fromkeys(("sortOrder", "revision"), "an integer") | dict.fromkeys(
    ("variants", "metadata"), "an object"
)
Problems = list[tuple[int, str]]
"""Pairs of a line number, from 1, and the problem there."""


def read_mongoexport(path: str, raw: bytes, flag_set: str | None = None, *, strict: bool = False) -> list[Flag]:
    """Read and check every document. Raises BadFile with the line and field of every problem.

    `strict`: what is odd is a problem too.
    """
    flags, problems, warnings = check_mongoexport(raw, flag_set)
    problems = sorted(problems + warnings) if strict and warnings else problems
    if problems:
        raise BadFile.of(path, [f"line {number}: {text}" for number, text in problems])
    for number, text in warnings:
        say(f"{path}:{number}: warning: {text}", error=True)
    return flags


def check_mongoexport(raw: bytes, flag_set: str | None = None) -> tuple[list[Flag], Problems, Problems]:
    """Read every document; return the valid flags, the problems of the others, and what is odd in the valid ones."""
    problems: Problems = []
    warnings: Problems = []
    flags: dict[tuple[str, str], Flag] = {}
    lines: dict[tuple[str, str], int] = {}
    for number, document in _documents(raw, problems):
        flag = _checked(number, document, flag_set, problems)
        if flag is None:
            continue
        if flag.id in lines:
            problems.append((number, f"key: {flag.key!r} is also on line {lines[flag.id]}"))
        try:
            validated(flag)
        except InvalidRequest as odd:
            warnings += [(number, _violation_text(each)) for each in odd.violations]
        flags[flag.id], lines[flag.id] = flag, number
    return list(flags.values()), problems, warnings


def _documents(raw: bytes, problems: Problems) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each document with its line; of a JSON array, each element with its position."""
    try:
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problems.append((raw.count(NEWLINE, 0, error.start) + 1, "not UTF-8 text"))
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
            json.loads(line, object_pairs_hook=_unique, parse_constant=no_constant)
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
            raise ValueError(f"field {name!r} appears twice")
        seen[name] = value
    return seen


def _checked(number: int, document: dict[str, Any], flag_set: str | None, problems: Problems) -> Flag | None:
    document.pop("_id", None)
    try:
        plain = {name: _plain(value) for name, value in document.items()}
    except RecursionError:
        problems.append((number, "nested too deep"))
        return None
    if "key" not in plain:
        problems.append((number, "key: missing; every flag needs one"))
        return None
    flag = from_document(plain)
    if flag.problem:
        names = flag.problem.partition(": ")[2].split(", ")
        problems += [(number, f"{name}: {plain[name]!r}; it must be {_expected(name)}") for name in names]
        return None
    flag = replace(flag, name=flag.name or flag.key, flag_set=flag_set or flag.flag_set)
    try:
        return validated_change(flag, check=importable)
    except InvalidRequest as error:
        problems += [(number, _violation_text(each)) for each in error.violations]
        return None


def _violation_text(violation: Violation) -> str:
    field = violation.field.removeprefix("flag.")
    return f"{STORED_NAMES.get(field, field)}: {text_of(violation)}"


def _expected(name: str) -> str:
    return _EXPECTED.get(name) or ("a date" if name.endswith("At") else "a string")


def _plain(value: Any) -> Any:
    """Return an Extended JSON value as plain Python, with 64-bit integers as int."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return value


def to_line(flag: Flag) -> str:
    """Return a flag as a line of relaxed Extended JSON, without the line end."""
    return json_util.dumps(to_document(flag), json_options=json_util.RELAXED_JSON_OPTIONS, ensure_ascii=False)
