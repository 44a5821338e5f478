"""Import and export of flags: flagd's files, and the existing system's documents as mongoexport lines."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from flagsvc.adapters.build import cache_for, store_for
from flagsvc.adapters.files.parse import is_yaml
from flagsvc.cli import store_changes as stored
from flagsvc.cli.differences import Differences
from flagsvc.cli.flagd_files import flagd_text, is_flagd, read_flagd
from flagsvc.cli.mongoexport import line_of, read_flags
from flagsvc.cli.render import print_json
from flagsvc.cli.store_changes import BadFile, Planned, Result
from flagsvc.core.changes import Author, put
from flagsvc.core.flagd.merging import put_definition
from flagsvc.core.model import Flag, list_order
from flagsvc.core.validation import set_name, text


def import_file(args: argparse.Namespace) -> int:
    """Read and check the whole file, then write what differs; with --dry-run only show it."""
    author = Author(datetime.now(UTC), text("--actor", args.actor) or "import", text("--reason", args.reason, 1_024))
    flag_set = set_name(args.flag_set) if args.flag_set else None
    planned = _plan(args.file, flag_set, author)
    if args.prune and not planned:
        raise BadFile(f"{args.file}: it has no flags, so --prune would delete all; delete them by `flagsvc delete`")
    return _preview(args, planned, author) if args.dry_run else _import(args, planned, author)


def export_file(args: argparse.Namespace) -> int:
    """Write every flag of a set in the wanted format."""
    flag_set = set_name(args.flag_set or "")
    held = asyncio.run(stored.flags_of(store_for(args.store)))
    flags = sorted((flag for flag in held if flag.flag_set == flag_set), key=list_order)
    written = _written(flags, flag_set, args.format or _format_of(args.output))
    if args.output == "-":
        sys.stdout.write(written)
        return 0
    target = Path(args.output).resolve()
    if target.exists() and not target.is_file():  # a device or a pipe is written to, never replaced
        target.write_text(written, encoding="utf-8")
        return 0
    _replace(target, written)
    print(f"{len(flags)} flags written to {target}", file=sys.stderr)
    return 0


def _plan(path: str, flag_set: str | None, author: Author) -> list[Planned]:
    raw = stored.read_bytes(path)
    if is_flagd(path, raw):
        return [Planned(flag.id, put_definition(flag, author)) for flag in read_flagd(path, raw, flag_set)]
    return [Planned(flag.id, put(flag, author)) for flag in read_flags(path, raw, flag_set)]


def _preview(args: argparse.Namespace, planned: list[Planned], author: Author) -> int:
    differences = Differences()
    # A SQLite file is made when it is opened, and a preview makes nothing.
    missing = args.store.startswith("sqlite:") and not Path(args.store.removeprefix("sqlite:///")).exists()
    held = [] if missing else asyncio.run(stored.flags_of(store_for(args.store)))
    gone = stored.prune(held, [each.flag_id for each in planned], author) if args.prune else []
    stored.preview([*planned, *gone], held, differences.count)
    if args.json:
        print_json(differences.as_json())
    else:
        differences.show()
    return 0


def _import(args: argparse.Namespace, planned: list[Planned], author: Author) -> int:
    result = asyncio.run(_written_to_store(args, planned, author))
    pruned = {"deleted": result.deleted} if args.prune else {}
    done = {"created": result.created, "updated": result.updated, **pruned, "unchanged": result.unchanged}
    if args.json:
        print_json({"flags": result.total, **done})
    else:
        print(f"{result.total} flags: {', '.join(f'{count} {word}' for word, count in done.items())}")
    return 0


async def _written_to_store(args: argparse.Namespace, planned: list[Planned], author: Author) -> Result:
    store, cache, result = store_for(args.store), cache_for(args.cache), Result()
    await store.open()
    try:
        if cache is not None:
            await cache.open()
        held = (await store.load()).flags if args.prune else []
        gone = stored.prune(held, [each.flag_id for each in planned], author)
        await stored.carry_out([*planned, *gone], store, cache, result.count)
    finally:
        if cache is not None:
            await cache.close()
        await store.close()
    return result


def _format_of(output: str) -> str:
    if is_yaml(output):
        return "flagd-yaml"
    return "flagd" if output.lower().endswith(".json") else "mongoexport"


def _written(flags: list[Flag], flag_set: str, form: str) -> str:
    if form == "mongoexport":
        return "".join(line_of(flag) + "\n" for flag in flags)
    return flagd_text(flags, flag_set, as_yaml=form == "flagd-yaml")


def _replace(target: Path, content: str) -> None:
    """Put a file's new content in its place at once, for those who watch it."""
    with tempfile.NamedTemporaryFile("w", dir=target.parent, delete=False, encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).chmod(target.stat().st_mode & 0o777 if target.exists() else 0o644)
    Path(file.name).replace(target)
