"""`flagsvc rollback`: gives a flag, or a whole flag set, the definitions of an earlier revision back."""

from __future__ import annotations

import argparse

from flagsvc.api.flag_service.flag_messages import received
from flagsvc.cli import changed_fields, options, render, wait_for
from flagsvc.cli.calls import Stub
from flagsvc.cli.diff import stored_or_none
from flagsvc.cli.exit_codes import OK
from flagsvc.cli.terminal import answer, asks, say
from flagsvc.cli.usage import UsageError
from flagsvc.core.shown_text import visible
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb

_MARKS = {"CREATED": "+", "DELETED": "-"}


def rollback(args: argparse.Namespace, stub: Stub) -> int:
    """Roll back a flag, or with --all its flag set."""
    if bool(args.key) == args.all:
        raise UsageError("name a flag's KEY, or --all for every flag of the flag set")
    if args.all and args.etag:
        raise UsageError("--etag is one flag's; it has no meaning with --all")
    return _set(args, stub) if args.all else _flag(args, stub)


def _flag(args: argparse.Namespace, stub: Stub) -> int:
    before = stored_or_none(args, stub)
    request = pb.RollbackFlagRequest(
        flag_key=args.key,
        flag_set=args.flag_set,
        revision=args.to,
        etag=args.etag,
        actor=options.actor_of(args),
        reason=args.reason,
        validate_only=args.dry_run,
        **({} if args.dry_run else wait_for.request_fields(args)),
    )
    response = stub.RollbackFlag(request, timeout=wait_for.deadline_s(args))
    flag = received(response.flag)
    fields = changed_fields.flag_changes(before, flag)
    if args.json:
        spread = {} if args.dry_run else {"spread": wait_for.spread_fields(response.spread)}
        shown = {"flagKey": args.key, "dryRun": args.dry_run, "restoredRevision": args.to, "revision": flag.revision}
        render.print_json({**shown, "fields": fields, **spread})
    else:
        done = "nothing was written (--dry-run)" if args.dry_run else f"it is revision {flag.revision} now"
        say(f"{args.key}: as of revision {args.to}; {done}" + ("" if fields else "; no field differs"))
        for line in changed_fields.lines_of(fields):
            print(line)
    return OK if args.dry_run else wait_for.report_spread(args, response.spread)


def _set(args: argparse.Namespace, stub: Stub) -> int:
    request = pb.RollbackFlagSetRequest(
        flag_set=args.flag_set, revision=args.to, actor=options.actor_of(args), reason=args.reason, validate_only=True
    )
    if args.dry_run or (asks() and not args.yes):
        planned = stub.RollbackFlagSet(request, timeout=args.timeout)
        if args.dry_run:
            return _show_set(args, planned)
        _print_changes(planned)
        question = f"roll back {_number(planned)} of flag set {visible(args.flag_set)} to revision {args.to}?"
        if not answer(question, otherwise=False):
            raise UsageError("nothing was rolled back; to roll back without a question: --yes")
    request.validate_only = False
    request.MergeFrom(pb.RollbackFlagSetRequest(**wait_for.request_fields(args)))
    return _show_set(args, stub.RollbackFlagSet(request, timeout=wait_for.deadline_s(args)))


def _show_set(args: argparse.Namespace, response: pb.RollbackFlagSetResponse) -> int:
    has_spread = response.HasField("spread")
    if args.json:
        flags = [
            {"flagKey": each.flag_key, "action": each.action, "revision": each.revision, "fields": list(each.fields)}
            for each in response.flags
        ]
        segments = [{"name": each.name, "action": each.action} for each in response.segments]
        spread = {"spread": wait_for.spread_fields(response.spread)} if has_spread else {}
        shown = {"dryRun": args.dry_run, "restoredRevision": args.to, "flags": flags, "segments": segments}
        render.print_json({**shown, **spread})
    else:
        _print_changes(response)
        done = "would return" if args.dry_run else "returned"
        then = "nothing was written" if args.dry_run else "each is a new revision"
        none = f"every flag is as it was at revision {args.to}"
        say(
            f"{_number(response)} {done} to revision {args.to}; {then}" if response.flags or response.segments else none
        )
    return wait_for.report_spread(args, response.spread) if has_spread else OK


def _number(response: pb.RollbackFlagSetResponse) -> str:
    segments = f" and {len(response.segments)} segments" if response.segments else ""
    return f"{len(response.flags)} flags{segments}"


def _print_changes(response: pb.RollbackFlagSetResponse) -> None:
    for segment in response.segments:
        say(f"{_MARKS.get(segment.action, '~')} segment {render.text(segment.name)}")
    for each in response.flags:
        names = f": {', '.join(map(render.text, each.fields))}" if each.fields else ""
        say(f"{_MARKS.get(each.action, '~')} {render.text(each.flag_key)}{names}")
