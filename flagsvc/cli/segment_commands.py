"""Commands about segments: `segments` lists them, `segment` shows, creates, changes and deletes one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import UTC
from typing import Any

from flagsvc.cli import arguments, options, render, wait_for
from flagsvc.cli.calls import with_stub
from flagsvc.cli.exit_codes import OK
from flagsvc.cli.pages import MAX_PAGE, pages
from flagsvc.cli.tables import Column, print_list
from flagsvc.cli.terminal import say
from flagsvc.cli.usage import UsageError
from flagsvc.core.json_values import NotJson, compact, strict_loads
from flagsvc.generated.flagsvc.v1 import segment_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import segment_service_pb2_grpc as pb_grpc

Stub = pb_grpc.SegmentServiceStub
_LIST = (
    *(Column("name"), Column("rule", rank=1, least=12), Column("description", rank=2, least=12)),
    *(Column("revision", rank=4), Column("updated", rank=3)),
)
_NOTHING = "nothing was written (--dry-run)"


def list_segments(args: argparse.Namespace) -> int:
    """List the segments of a set by name."""
    request = pb.ListSegmentsRequest(flag_set=args.flag_set, page_size=MAX_PAGE)

    def listed(stub: Stub) -> int:
        found = [_fields(each) for page in pages(stub.ListSegments, request, args.timeout) for each in page.segments]
        print_list(_LIST, found, f"no segments in set {args.flag_set!r}; create one with: flagsvc segment create NAME")
        return OK

    return with_stub(args, listed, Stub)


def show(args: argparse.Namespace) -> int:
    """Show a segment and who uses it."""
    request = pb.GetSegmentRequest(flag_set=args.flag_set, name=args.name)

    def shown(stub: Stub) -> int:
        found = stub.GetSegment(request, timeout=args.timeout)
        users = found.users
        used = {
            "flags": list(users.flag_keys),
            "flagCount": users.flags,
            "segments": list(users.segment_names),
        }
        render.show({**_fields(found.segment), "usedBy": used})
        return OK

    return with_stub(args, shown, Stub)


def create(args: argparse.Namespace) -> int:
    """Create a segment."""
    segment = pb.Segment(
        name=args.name, flag_set=args.flag_set, rule=_rule(args.rule), description=args.description or ""
    )
    request = pb.CreateSegmentRequest(segment=segment, validate_only=args.dry_run, **_author_fields(args))

    def created(stub: Stub) -> int:
        made = stub.CreateSegment(request, timeout=args.timeout).segment
        return _show_change(args, made, [], {})

    return with_stub(args, created, Stub)


def set_fields(args: argparse.Namespace) -> int:
    """Change a segment, and the flags that use it."""
    given = {"rule": args.rule, "description": args.description}
    fields = [name for name, value in given.items() if value is not None]
    if not fields:
        raise UsageError("name what to change: RULE, or --description TEXT")
    segment = pb.Segment(name=args.name, flag_set=args.flag_set, etag=args.etag, description=args.description or "")
    segment.rule = _rule(args.rule) if args.rule is not None else ""
    request = pb.UpdateSegmentRequest(
        segment=segment,
        validate_only=args.dry_run,
        **_author_fields(args),
        **({} if args.dry_run else wait_for.request_fields(args)),
    )

    request.update_mask.paths.extend(fields)

    def changed(stub: Stub) -> int:
        done = stub.UpdateSegment(request, timeout=wait_for.deadline_s(args))
        has_spread = done.HasField("spread")
        spread = {"spread": wait_for.spread_fields(done.spread)} if has_spread and args.json else {}
        _show_change(args, done.segment, done.flags, spread)
        return wait_for.report_spread(args, done.spread) if has_spread else OK

    return with_stub(args, changed, Stub)


def delete(args: argparse.Namespace) -> int:
    """Delete a segment that nothing uses."""
    request = pb.DeleteSegmentRequest(
        flag_set=args.flag_set, name=args.name, etag=args.etag, validate_only=args.dry_run, **_author_fields(args)
    )

    def deleted(stub: Stub) -> int:
        stub.DeleteSegment(request, timeout=args.timeout)
        if args.json:
            render.print_json({"name": args.name, "dryRun": args.dry_run})
        else:
            say(f"nothing uses {args.name}; {_NOTHING}" if args.dry_run else f"deleted {args.name}")
        return OK

    return with_stub(args, deleted, Stub)


def _show_change(
    args: argparse.Namespace, segment: pb.Segment, flags: Sequence[pb.FlagOfSegment], spread: dict[str, Any]
) -> int:
    if args.json:
        changed = [{"flagKey": each.flag_key, "revision": each.revision or None} for each in flags]
        render.print_json({"dryRun": args.dry_run, **_fields(segment), "flags": changed, **spread})
        return OK
    render.print_fields(_fields(segment))
    for each in flags:
        say(f"~ {render.text(each.flag_key)}" + (f" (revision {each.revision})" if each.revision else ""))
    if args.dry_run:
        say(f"valid; {_NOTHING}")
    return OK


def _rule(given: str) -> str:
    """Return a rule as text. Raises UsageError and BadFile."""
    text = arguments.text_or_file(given)
    try:
        return compact(strict_loads(text))
    except NotJson as error:
        raise UsageError(f"RULE is not valid JSON: {error}: {text[:60]!r}") from None


def _author_fields(args: argparse.Namespace) -> dict[str, Any]:
    return {"actor": options.actor_of(args), "reason": args.reason}


def _fields(segment: pb.Segment) -> dict[str, Any]:
    return {
        "name": segment.name,
        "flagSet": segment.flag_set,
        "rule": render.parsed_rule(segment.rule),
        "description": segment.description or None,
        "revision": segment.revision,
        "etag": segment.etag,
        "created": segment.create_time.ToDatetime(UTC) if segment.HasField("create_time") else None,
        "updated": segment.update_time.ToDatetime(UTC) if segment.HasField("update_time") else None,
    }
