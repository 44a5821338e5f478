"""Import and export of the existing system's documents (mongoexport lines, canonical or relaxed Extended JSON)."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from bson import json_util
from bson.errors import BSONError

from flagsvc.adapters.build import cache_for, store_for
from flagsvc.cli.render import print_json
from flagsvc.core.changes import Author, put
from flagsvc.core.documents import from_document, to_document
from flagsvc.core.errors import FlagsvcError, InvalidRequest
from flagsvc.core.model import DEFAULT_SET, STORED_NAMES, Flag
from flagsvc.core.validation import text, validated
from flagsvc.near import in_list_order
from flagsvc.ports import Announced, FlagCache, FlagStore

NEWLINE = b"\n"


class BadFile(FlagsvcError):
    """The file cannot be imported; the text has a line for each problem."""


@dataclass(slots=True)
class Result:
    """What an import did."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0

    @property
    def total(self) -> int:
        """Flags in the file."""
        return self.created + self.updated + self.unchanged


def import_file(args: argparse.Namespace) -> int:
    """Read and check the whole file, then write what differs."""
    flags = read_flags(args.file, args.flag_set)
    author = Author(datetime.now(UTC), text("--actor", args.actor) or "import", text("--reason", args.reason, 1_024))
    if args.dry_run:
        print(f"{args.file}: {len(flags)} flags are good; nothing was written (--dry-run)")
        return 0
    result = asyncio.run(_import(flags, store_for(args.store), cache_for(args.cache), author))
    if args.json:
        done = {"created": result.created, "updated": result.updated, "unchanged": result.unchanged}
        print_json({"flags": result.total, **done})
    else:
        print(f"{result.total} flags: {result.created} created, {result.updated} updated, {result.unchanged} unchanged")
    return 0


def export_file(args: argparse.Namespace) -> int:
    """Write every flag of a set as one line of relaxed Extended JSON."""
    flags = asyncio.run(_export(store_for(args.store), args.flag_set or DEFAULT_SET))
    lines = "".join(_line(flag) + "\n" for flag in flags)
    if args.output == "-":
        sys.stdout.write(lines)
        return 0
    target = Path(args.output)
    with tempfile.NamedTemporaryFile("w", dir=target.parent, delete=False, encoding="utf-8") as file:
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(target)
    print(f"{len(flags)} flags written to {target}", file=sys.stderr)
    return 0


def read_flags(path: str, flag_set: str | None = None) -> list[Flag]:
    """Read and check every document of a file. Raises BadFile naming line and field of every problem."""
    problems: list[str] = []
    flags: dict[tuple[str, str], Flag] = {}
    lines: dict[tuple[str, str], int] = {}
    for number, document in _documents(path, problems):
        flag = _checked(number, document, flag_set, problems)
        if flag is None:
            continue
        if flag.id in lines:
            problems.append(f"line {number}: key: {flag.key!r} is also on line {lines[flag.id]}")
        flags[flag.id], lines[flag.id] = flag, number
    if problems:
        shown, more = problems[:20], len(problems) - 20
        rest = [f"and {more} more"] if more > 0 else []
        raise BadFile("\n".join([f"{path}: nothing was imported", *shown, *rest]))
    return list(flags.values())


def _documents(path: str, problems: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Give each document with its line; a JSON array is read too, its elements counted as lines."""
    try:
        raw = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        problems.append(f"line {before.count(NEWLINE) + 1}: not UTF-8 text")
        return
    except OSError as error:
        raise BadFile(f"{path}: cannot be read: {error.strerror}") from None
    if content.lstrip().startswith("["):
        try:
            lines = [json.dumps(item) for item in json.loads(content, object_pairs_hook=_unique)]
        except ValueError as error:
            problems.append(f"line {getattr(error, 'lineno', 1)}: not JSON: {error}")
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
            problems.append(f"line {number}: not a JSON document{where}: {str(error)[:120]}")
            continue
        if isinstance(document, dict):
            yield number, document
        else:
            problems.append(f"line {number}: a {type(document).__name__}; it must be an object")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for name, value in pairs:
        if name in seen:
            raise ValueError(f"field {name!r} stands twice")
        seen[name] = value
    return seen


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _checked(number: int, document: dict[str, Any], flag_set: str | None, problems: list[str]) -> Flag | None:
    document.pop("_id", None)
    plain = {name: _plain(value) for name, value in document.items()}
    if "key" not in plain:
        problems.append(f"line {number}: key: missing; every flag needs one")
        return None
    flag = from_document(plain)
    if flag.problem:
        wrong = flag.problem.partition(": ")[2].split(", ")
        problems += [f"line {number}: {name}: {plain[name]!r}; it must be {_wanted(name)}" for name in wrong]
        return None
    flag = replace(flag, name=flag.name or flag.key, flag_set=flag_set or flag.flag_set)
    try:
        return validated(flag)
    except InvalidRequest as error:
        for violation in error.violations:
            field = violation.field.removeprefix("flag.")
            stored = STORED_NAMES.get(field, field)
            problems.append(f"line {number}: {stored}: {violation.found}; it must be {violation.wanted}")
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


async def _import(flags: list[Flag], store: FlagStore, cache: FlagCache | None, author: Author) -> Result:
    result = Result()
    await store.open()
    try:
        if cache is not None:
            await cache.open()
        known = {flag.id for flag in (await store.load()).flags}
        for flag in _progress(flags):
            entry = await store.change(flag.id, put(flag, author))
            if entry is None:
                result.unchanged += 1
                continue
            result.updated += flag.id in known
            result.created += flag.id not in known
            if cache is not None:
                await cache.put([entry])
                await cache.announce(Announced(entry))
    finally:
        if cache is not None:
            await cache.close()
        await store.close()
    return result


def _progress(flags: list[Flag]) -> Iterator[Flag]:
    if not sys.stderr.isatty():
        yield from flags
        return
    from rich.console import Console  # noqa: PLC0415  only a terminal needs it
    from rich.progress import track  # noqa: PLC0415

    yield from track(flags, "importing", console=Console(stderr=True))


async def _export(store: FlagStore, flag_set: str) -> list[Flag]:
    await store.open()
    try:
        contents = await store.load()
    finally:
        await store.close()
    return in_list_order(flag for flag in contents.flags if flag.flag_set == flag_set)


def _line(flag: Flag) -> str:
    return json_util.dumps(to_document(flag), json_options=json_util.RELAXED_JSON_OPTIONS, ensure_ascii=False)
