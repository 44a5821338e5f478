"""`flagsvc history --since 1h`: what was changed and refused, over all flags and tokens."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc

from flagsvc.cli import render
from flagsvc.cli.channels import channel_to, find_server
from flagsvc.cli.service_commands import print_error
from flagsvc.cli.token_targets import seconds_of
from flagsvc.cli.usage import UsageError
from flagsvc.generated.flagsvc.v1 import audit_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import audit_service_pb2_grpc as pb_grpc

_OUTCOMES = {"done": pb.AUDIT_OUTCOME_DONE, "refused": pb.AUDIT_OUTCOME_REFUSED}
_HEADS = ("at", "actor", "on behalf of", "action", "outcome", "flag set", "subject", "reason", "revision")
MAX_PAGE = 1_000


def history(args: argparse.Namespace) -> int:
    """Show entries, the newest first: of one flag where a key is given, with the values before and after."""
    request = pb.ListAuditEntriesRequest(
        actor=args.of_actor or "", action=args.action or "", flag_set=args.flag_set or "", subject=args.key or ""
    )
    if args.outcome:
        request.outcome = _OUTCOMES[args.outcome]
    if not any((args.since, args.of_actor, args.action, args.outcome, args.flag_set)):
        raise UsageError("name a flag, or what to list: --since, --of-actor, --action, --outcome or --flag-set")
    if args.since:
        request.since.FromDatetime(datetime.now(UTC) - timedelta(seconds=seconds_of(args.since, "--since")))
    find_server(args, os.environ)
    with channel_to(args, os.environ) as channel:
        try:
            entries = [_fields(each) for each in _entries(pb_grpc.AuditServiceStub(channel), request, args)]
        except grpc.RpcError as error:
            print_error(error, args)
            return 1
    if args.json:
        render.print_json(entries)
    else:
        render.print_table(_HEADS, (tuple(entry.values()) for entry in entries), "no entries")
    return 0


def _entries(
    stub: pb_grpc.AuditServiceStub, request: pb.ListAuditEntriesRequest, args: argparse.Namespace
) -> Iterator[pb.AuditEntry]:
    """Yield as many entries as are asked for, page by page."""
    left = args.limit
    while left > 0:
        request.page_size = min(left, MAX_PAGE)
        page = stub.ListAuditEntries(request, timeout=args.timeout)
        yield from page.entries
        left -= len(page.entries)
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def _fields(entry: pb.AuditEntry) -> dict[str, Any]:
    return {
        "at": entry.time.ToDatetime(tzinfo=UTC),
        "actor": entry.actor,
        "onBehalfOf": entry.on_behalf_of,
        "action": entry.action,
        "outcome": next((name for name, number in _OUTCOMES.items() if number == entry.outcome), ""),
        "flagSet": entry.flag_set,
        "subject": entry.subject,
        "reason": entry.reason,
        "revision": entry.revision or None,
    }
