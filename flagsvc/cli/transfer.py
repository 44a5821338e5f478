"""Imports and exports flags: as flagd files, or as the existing system's documents in mongoexport lines."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from flagsvc.adapters.files.parse import is_yaml
from flagsvc.cli import options, store_changes
from flagsvc.cli.differences import Differences
from flagsvc.cli.exit_codes import OK
from flagsvc.cli.flagd_files import flagd_text, is_flagd, read_flagd
from flagsvc.cli.input_files import BadFile, read_bytes
from flagsvc.cli.linked_import import parents_first, segments_of
from flagsvc.cli.mongoexport import read_mongoexport, to_line
from flagsvc.cli.render import print_json
from flagsvc.cli.store_changes import PlannedChange
from flagsvc.cli.terminal import say
from flagsvc.cli.transfer_targets import Prune, SegmentChanges, Target, on_target
from flagsvc.cli.usage import UsageError
from flagsvc.core.changes import Author, create_only, put
from flagsvc.core.flagd.merging import put_definition
from flagsvc.core.model import Action, Flag, list_order
from flagsvc.core.segments import Segment
from flagsvc.core.shown_text import visible
from flagsvc.core.validation import set_name, text


class Import(NamedTuple):
    """What a file asks for: changes of flags, parents first; the bucketing of flag sets; and segments."""

    planned: list[PlannedChange]
    bucketings: Mapping[str, int]
    segments: Sequence[Segment]


EXAMPLES = Path(__file__).with_name("example_flags.ndjson")
"""The flags of `make run`, which every document uses."""


def import_file(args: argparse.Namespace) -> int:
    """Read and check the whole file, then write what differs, or with --dry-run only show it."""
    author = Author(
        datetime.now(UTC), text("--actor", options.actor_of(args)) or "import", text("--reason", args.reason, 1_024)
    )
    flag_set = set_name(args.flag_set) if args.flag_set else None
    path = str(EXAMPLES) if args.examples else args.file
    wanted = planned_changes(path, flag_set, author, strict=args.strict)
    if args.prune and not wanted.planned:
        raise BadFile(f"{path}: the file has no flags, so --prune is refused; delete flags with `flagsvc delete`")
    if args.if_empty and args.prune:
        raise UsageError("--if-empty never deletes; leave out --prune")
    return on_target(args, lambda target: _import(args, target, wanted, author))


def export_file(args: argparse.Namespace) -> int:
    """Write every flag of a set in the chosen format."""
    flag_set = set_name(args.flag_set or "")

    def write(target: Target) -> int:
        stored = target.flags([flag_set])
        flags = sorted((flag for flag in stored if flag.flag_set == flag_set), key=list_order)
        file_format = args.format or _format_of(args.output)
        _put(args.output, _formatted(flags, flag_set, file_format), as_it_is=file_format == "flagd-yaml")
        if args.output != "-":
            print(f"{len(flags)} flags written to {Path(args.output).resolve()}", file=sys.stderr)
        return OK

    return on_target(args, write)


def planned_changes(path: str, flag_set: str | None, author: Author, *, strict: bool) -> Import:
    """Return the changes that make a file's flags, the bucketing that it asks for, by flag set, and its segments."""
    raw = read_bytes(path)
    put_flag, read = (put_definition, read_flagd) if is_flagd(path, raw) else (put, read_mongoexport)
    flags = parents_first(read(path, raw, flag_set, strict=strict))
    planned = [PlannedChange(flag.id, put_flag(flag, author)) for flag in flags]
    return Import(planned, store_changes.bucketings_of(flags), segments_of(path, flags))


def _import(
    args: argparse.Namespace,
    target: Target,
    wanted: Import,
    author: Author,
) -> int:
    planned, bucketings, segments = wanted
    kept = [each.flag_id for each in planned]
    sets = [flag_id.flag_set for flag_id in kept]
    if args.if_empty:
        if target.was_used(sets):
            say("the store has been used already; nothing was imported (--if-empty)", error=args.json)
            planned = []
        planned = [PlannedChange(flag_id, create_only(decide)) for flag_id, decide in planned]
        segments = segments if planned else []

    def prune(stored: list[Flag]) -> list[PlannedChange]:
        return store_changes.plan_prune(stored, kept, author)

    changed = target.segment_changes(segments)
    if args.dry_run:
        return _preview(args, target, planned, prune if args.prune else None, changed)
    target.write_segments(changed, author)
    made = target.write(planned, bucketings if planned else {}, prune if args.prune else None)
    names = ("created", "updated", "deleted", "unchanged") if args.prune else ("created", "updated", "unchanged")
    counts = {name: made[name] for name in names}
    total = made.total() - made["deleted"]
    if args.json:
        print_json({"flags": total, **counts})
    else:
        print(f"{total} flags: {', '.join(f'{count} {word}' for word, count in counts.items())}")
    return OK


def _preview(
    args: argparse.Namespace,
    target: Target,
    planned: list[PlannedChange],
    prune: Prune | None,
    segments: SegmentChanges,
) -> int:
    stored = target.flags([each.flag_id.flag_set for each in planned])
    differences, current = Differences(), {flag.id: flag for flag in stored}
    for flag_id, decide in [*planned, *(prune(stored) if prune else [])]:
        differences.count(flag_id, target.part_written(decide(current.get(flag_id))))
    if args.json:
        named = [{"flagSet": each.flag_set, "name": each.name, "action": action.value} for each, action in segments]
        print_json({**differences.as_json(), **({"segments": named} if named else {})})
        return OK
    for each, action in segments:
        mark = "+" if action is Action.CREATED else "~"
        say(f"{mark} segment {visible(each.name)} of flag set {visible(each.flag_set)}")
    differences.print()
    return OK


def _put(output: str, content: str, *, as_it_is: bool) -> None:
    """Write the content of an export. `as_it_is`: it has no hidden characters, which mean the same escaped in JSON."""
    if output == "-":
        sys.stdout.write(content if as_it_is else visible(content, "\n"))
        return
    target = Path(output).resolve()
    if target.exists() and not target.is_file():  # a device or a pipe is written to, never replaced
        target.write_text(content, encoding="utf-8")
    else:
        _replace(target, content)


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
