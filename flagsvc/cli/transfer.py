"""Imports and exports flags: as flagd files, or as the existing system's documents in mongoexport lines."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from flagsvc.adapters.build import cache_for, store_for
from flagsvc.adapters.files.parse import is_yaml
from flagsvc.cli import options, store_changes
from flagsvc.cli.differences import Differences
from flagsvc.cli.flagd_files import flagd_text, is_flagd, read_flagd
from flagsvc.cli.input_files import BadFile, read_bytes
from flagsvc.cli.mongoexport import read_mongoexport, to_line
from flagsvc.cli.render import print_json, say
from flagsvc.cli.store_changes import PlannedChange
from flagsvc.cli.usage import UsageError
from flagsvc.core.changes import Author, create_only, put
from flagsvc.core.flagd.merging import put_definition
from flagsvc.core.model import Flag, list_order
from flagsvc.core.shown_text import visible
from flagsvc.core.validation import set_name, text


def import_file(args: argparse.Namespace) -> int:
    """Read and check the whole file, then write what differs, or with --dry-run only show it."""
    author = Author(
        datetime.now(UTC), text("--actor", options.actor_of(args)) or "import", text("--reason", args.reason, 1_024)
    )
    flag_set = set_name(args.flag_set) if args.flag_set else None
    planned, bucketings = planned_changes(args.file, flag_set, author, strict=args.strict)
    if args.prune and not planned:
        raise BadFile(f"{args.file}: the file has no flags, so --prune is refused; delete flags with `flagsvc delete`")
    if args.if_empty and args.prune:
        raise UsageError("--if-empty never deletes; leave out --prune")
    if args.if_empty:
        if not _is_missing(args.store) and asyncio.run(store_changes.was_used(store_for(args.store))):
            say("the store has been used already; nothing was imported (--if-empty)", error=args.json)
            planned = []
        planned = [PlannedChange(flag_id, create_only(decide)) for flag_id, decide in planned]
    return _preview(args, planned, author) if args.dry_run else _import(args, planned, bucketings, author)


def export_file(args: argparse.Namespace) -> int:
    """Write every flag of a set in the chosen format."""
    flag_set = set_name(args.flag_set or "")
    stored = asyncio.run(store_changes.load_flags(store_for(args.store)))
    flags = sorted((flag for flag in stored if flag.flag_set == flag_set), key=list_order)
    file_format = args.format or _format_of(args.output)
    content = _formatted(flags, flag_set, file_format)
    if args.output == "-":
        sys.stdout.write(
            content if file_format == "flagd-yaml" else visible(content, "\n")
        )  # in JSON it means the same
        return 0
    target = Path(args.output).resolve()
    if target.exists() and not target.is_file():  # a device or a pipe is written to, never replaced
        target.write_text(content, encoding="utf-8")
        return 0
    _replace(target, content)
    print(f"{len(flags)} flags written to {target}", file=sys.stderr)
    return 0


def planned_changes(
    path: str, flag_set: str | None, author: Author, *, strict: bool
) -> tuple[list[PlannedChange], Mapping[str, int]]:
    """Return the changes that make a file's flags, and the bucketing that it asks for, by flag set."""
    raw = read_bytes(path)
    put_flag, read = (put_definition, read_flagd) if is_flagd(path, raw) else (put, read_mongoexport)
    flags = read(path, raw, flag_set, strict=strict)
    return [PlannedChange(flag.id, put_flag(flag, author)) for flag in flags], store_changes.bucketings_of(flags)


def _preview(args: argparse.Namespace, planned: list[PlannedChange], author: Author) -> int:
    differences = Differences()
    stored = [] if _is_missing(args.store) else asyncio.run(store_changes.load_flags(store_for(args.store)))
    deletions = store_changes.plan_prune(stored, [each.flag_id for each in planned], author) if args.prune else []
    current = {flag.id: flag for flag in stored}
    for flag_id, decide in [*planned, *deletions]:
        differences.count(flag_id, decide(current.get(flag_id)))
    if args.json:
        print_json(differences.as_json())
    else:
        differences.print()
    return 0


def _is_missing(store: str) -> bool:
    """Whether it is a SQLite store without a file. Opening it creates the file, and a preview must not."""
    return store.startswith("sqlite:") and not Path(store.removeprefix("sqlite:///")).exists()


def _import(
    args: argparse.Namespace, planned: list[PlannedChange], bucketings: Mapping[str, int], author: Author
) -> int:
    made = asyncio.run(_write(args, planned, bucketings, author))
    names = ("created", "updated", "deleted", "unchanged") if args.prune else ("created", "updated", "unchanged")
    counts = {name: made[name] for name in names}
    total = made.total() - made["deleted"]
    if args.json:
        print_json({"flags": total, **counts})
    else:
        print(f"{total} flags: {', '.join(f'{count} {word}' for word, count in counts.items())}")
    return 0


async def _write(
    args: argparse.Namespace, planned: list[PlannedChange], bucketings: Mapping[str, int], author: Author
) -> Counter[str]:
    store, cache = store_for(args.store), cache_for(args.cache)
    await store.open()
    try:
        if cache is not None:
            await cache.open()
        await store_changes.adopt_bucketings(bucketings if planned else {}, store)
        stored = (await store.load()).flags if args.prune else []
        deletions = store_changes.plan_prune(stored, [each.flag_id for each in planned], author)
        return await store_changes.make_changes([*planned, *deletions], store, cache)
    finally:
        if cache is not None:
            await cache.close()
        await store.close()


def _format_of(output: str) -> str:
    if is_yaml(output):
        return "flagd-yaml"
    return "flagd" if output.lower().endswith(".json") else "mongoexport"


def _formatted(flags: list[Flag], flag_set: str, file_format: str) -> str:
    if file_format == "mongoexport":
        return "".join(to_line(flag) + "\n" for flag in flags)
    return flagd_text(flags, flag_set, as_yaml=file_format == "flagd-yaml")


def _replace(target: Path, content: str) -> None:
    """Replace a file atomically, so that its readers never see a part of it."""
    with tempfile.NamedTemporaryFile("w", dir=target.parent, delete=False, encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).chmod(target.stat().st_mode & 0o777 if target.exists() else 0o644)
    Path(file.name).replace(target)
