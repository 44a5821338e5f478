"""`flagsvc diff KEY`: what has changed in a flag, or would by importing a file, or between two flag sets."""

from __future__ import annotations

import argparse
from typing import Any

import grpc

from flagsvc.api.flag_service.flag_messages import received
from flagsvc.cli import changed_fields, moments, render, times
from flagsvc.cli.calls import Stub, error_reason
from flagsvc.cli.changed_fields import Fields
from flagsvc.cli.exit_codes import FAILED, OK
from flagsvc.cli.history import flag_history
from flagsvc.cli.pages import MAX_PAGE
from flagsvc.cli.terminal import say
from flagsvc.cli.usage import UsageError, meant
from flagsvc.core.changes import Author
from flagsvc.core.model import Flag
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb

_MOMENTS = 2


def diff(args: argparse.Namespace, stub: Stub) -> int:
    """Show the difference; exit status 1 if there is one."""
    if args.between:
        if args.since or args.revision is not None or args.file or args.with_set:
            raise UsageError("the moments N M have no meaning with --since, --revision, --file or --with-set")
        title, fields = _between(args, stub)
    elif args.file:
        title, fields = _with_file(args, stub)
    elif args.with_set:
        title = f"{args.flag_set} -> {args.with_set}"
        fields = changed_fields.flag_changes(_stored(args, stub, args.flag_set), _stored(args, stub, args.with_set))
    else:
        title, fields = _since(args, stub)
    if args.json:
        render.print_json({"flagKey": args.key, "flagSet": args.flag_set, "between": title, "fields": fields})
    else:
        say(f"{args.key}: {title}" + ("" if fields else ": no difference"))
        for line in changed_fields.lines_of(fields):
            print(line)
    return FAILED if fields else OK


def stored_or_none(args: argparse.Namespace, stub: Stub, at: str | None = None) -> Flag | None:
    """Return the flag as it is or, at a moment, was; None where it does not exist. Raises grpc.RpcError."""
    try:
        return _stored(args, stub, args.flag_set, at)
    except grpc.RpcError as error:
        if error_reason(error) != "FLAG_NOT_FOUND":
            raise
        return None


def _between(args: argparse.Namespace, stub: Stub) -> tuple[str, Fields]:
    """Return what differs between two moments, or between one and now."""
    if len(args.between) > _MOMENTS:
        raise UsageError(f"diff compares two moments; {len(args.between)} are given")
    first, second = args.between[0], args.between[1] if len(args.between) == _MOMENTS else None
    before, after = (stored_or_none(args, stub, at) for at in (first, second))
    if before is None and after is None:
        _stored(args, stub, args.flag_set, second)  # fails, and says which flag there is
    names = [f"revision {at}" if at.isdecimal() else at for at in args.between]
    return f"{names[0]} -> {names[1] if second else 'now'}", changed_fields.flag_changes(before, after)


def _with_file(args: argparse.Namespace, stub: Stub) -> tuple[str, Fields]:
    """Return what an import of a file would change in the flag."""
    from flagsvc.cli.transfer import planned_changes  # noqa: PLC0415  reads files only if one is named

    author = Author(times.now())
    planned, *_ = planned_changes(args.file, args.flag_set, author, strict=False)
    found = {each.flag_id.key: each.decide for each in planned}
    if args.key not in found:
        raise UsageError(f"{args.file} has no flag {args.key!r}{meant(args.key, found)}")
    before = _stored(args, stub, args.flag_set)
    change = found[args.key](before)
    after = before if change is None else change.after
    return f"stored -> {args.file}", changed_fields.flag_changes(before, after)


def _since(args: argparse.Namespace, stub: Stub) -> tuple[str, Fields]:
    """Return what has changed since a time or a revision, else by the last change."""
    entries = flag_history(stub, args.key, args.flag_set, MAX_PAGE, args.timeout)
    if not entries:
        _stored(args, stub, args.flag_set)  # fails where there is no such flag
    newest = entries[0]["revision"] if entries else 0
    if args.revision is not None:
        later = [each for each in entries if each["revision"] > args.revision]
        title = f"revision {args.revision} -> {newest}"
    elif args.since:
        start = times.before_now(args.since, "--since")
        later = [each for each in entries if each["at"] >= start]
        title = f"{args.since} ago -> now"
    else:
        later = entries[:1]
        title = f"the last change, revision {newest}" if entries else "it has no history"
    old: dict[str, Any] = {}
    new: dict[str, Any] = {}
    for entry in later:  # newest first: the last value before counts, and the first one after
        old.update(entry["previousValue"] or dict.fromkeys(entry["newValue"] or {}))
        new = {**(entry["newValue"] or dict.fromkeys(entry["previousValue"] or {})), **new}
    return title, changed_fields.fields_between(old, new)


def _stored(args: argparse.Namespace, stub: Stub, flag_set: str, at: str | None = None) -> Flag:
    request = pb.GetFlagRequest(flag_key=args.key, flag_set=flag_set, as_of=moments.as_of(at, "N M"))
    return received(stub.GetFlag(request, timeout=args.timeout).flag)
