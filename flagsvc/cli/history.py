"""`flagsvc history`: what was changed, and what was refused, of one flag or over all flags and tokens."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, timedelta
from typing import Any

import grpc

from flagsvc.api.common.values import from_value
from flagsvc.cli import entries, render, times
from flagsvc.cli.calls import Stub, with_stub
from flagsvc.cli.exit_codes import OK
from flagsvc.cli.tables import Column, print_table
from flagsvc.cli.terminal import Form, form, is_terminal
from flagsvc.cli.token_targets import seconds_of
from flagsvc.core.model import DEFAULT_SET
from flagsvc.generated.flagsvc.v1 import audit_service_pb2 as audit
from flagsvc.generated.flagsvc.v1 import audit_service_pb2_grpc as audit_grpc
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb

_OUTCOMES = {"done": audit.AUDIT_OUTCOME_DONE, "refused": audit.AUDIT_OUTCOME_REFUSED}
_NAMES = ("flagKey", "at", "action", "previousValue", "newValue", "actor", "onBehalfOf", "reason", "revision")
_ALL_NAMES = ("subject", "at", "flagSet", "action", "outcome", *_NAMES[3:])
_TITLES = {"flagKey": "key", "previousValue": "before", "newValue": "after", "onBehalfOf": "on behalf of"}
_TITLES |= {"flagSet": "flag set"}
MAX_PAGE = 1_000
FLAG_ACTIONS = frozenset({"ENABLED", "DISABLED", "UPDATED", "CREATED", "DELETED"})


def history(args: argparse.Namespace) -> int:
    """Show entries, the newest first, with what they changed."""
    if args.key and not any((args.since, args.of_actor, args.action, args.outcome)):
        args.flag_set = args.flag_set or os.environ.get("FLAGSVC_FLAG_SET", "").strip() or DEFAULT_SET
        return with_stub(args, lambda stub: _of_flag(args, stub), Stub)
    request = audit.ListAuditEntriesRequest(
        actor=args.of_actor or "", action=args.action or "", flag_set=args.flag_set or "", subject=args.key or ""
    )
    if args.outcome:
        request.outcome = _OUTCOMES[args.outcome]
    if args.since:
        request.since.FromDatetime(times.now() - timedelta(seconds=seconds_of(args.since, "--since")))

    def shown(stubs: tuple[Stub, audit_grpc.AuditServiceStub]) -> int:
        found = [_audited(entry) for entry in _pages(stubs[1], request, args)]
        _add_values(found, stubs[0], args)
        _print(args, found, _ALL_NAMES, "no entries")
        return OK

    return with_stub(args, shown, lambda channel: (Stub(channel), audit_grpc.AuditServiceStub(channel)))


def flag_history(stub: Stub, key: str, flag_set: str, limit: int, timeout_s: float) -> list[entries.Entry]:
    """Return a flag's changes, newest first. Raises grpc.RpcError."""
    request = pb.ListFlagHistoryRequest(flag_key=key, flag_set=flag_set, page_size=limit)
    return [_entry(each) for each in stub.ListFlagHistory(request, timeout=timeout_s).entries]


def _of_flag(args: argparse.Namespace, stub: Stub) -> int:
    found = flag_history(stub, args.key, args.flag_set, args.limit, args.timeout)
    _print(args, found, _NAMES, f"no history for {args.key!r}")
    return OK


def _print(args: argparse.Namespace, found: Sequence[entries.Entry], names: Sequence[str], empty: str) -> None:
    if args.json:
        render.print_json([{name: entry.get(name) for name in names} for entry in found])
    elif is_terminal() and form() is Form.TABLE and found:
        for entry in found:
            entries.print_entry(entry)
    else:
        columns = [Column(_TITLES.get(name, name)) for name in names]
        print_table(columns, ([entry.get(name) for name in names] for entry in found), empty)


def _pages(
    stub: audit_grpc.AuditServiceStub, request: audit.ListAuditEntriesRequest, args: argparse.Namespace
) -> Iterator[audit.AuditEntry]:
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


def _add_values(found: Sequence[entries.Entry], stub: Stub, args: argparse.Namespace) -> None:
    """Add what flags' changes changed, which is in the flags' own history; not where the caller may not read that."""
    wanted: dict[tuple[str, str], list[entries.Entry]] = {}
    for entry in found:
        if entry["revision"] and entry["action"] in FLAG_ACTIONS:
            wanted.setdefault((entry["flagSet"], entry["subject"]), []).append(entry)
    for (flag_set, key), of_flag in wanted.items():
        try:
            changes = {each["revision"]: each for each in flag_history(stub, key, flag_set, MAX_PAGE, args.timeout)}
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.PERMISSION_DENIED:
                raise
            continue
        for entry in of_flag:
            change = changes.get(entry["revision"], {})
            entry.update({name: change.get(name) for name in ("previousValue", "newValue")})


def _entry(entry: pb.HistoryEntry) -> entries.Entry:
    return {
        "flagKey": entry.flag_key,
        "at": entry.created_at.ToDatetime(tzinfo=UTC),
        "action": entry.action,
        "previousValue": from_value(entry.previous_value, "p") if entry.HasField("previous_value") else None,
        "newValue": from_value(entry.new_value, "n") if entry.HasField("new_value") else None,
        "actor": entry.actor,
        "onBehalfOf": entry.on_behalf_of,
        "reason": entry.reason,
        "revision": entry.revision,
    }


def _audited(entry: audit.AuditEntry) -> entries.Entry:
    found: dict[str, Any] = {
        "subject": entry.subject,
        "at": entry.time.ToDatetime(tzinfo=UTC),
        "flagSet": entry.flag_set,
        "action": entry.action,
        "outcome": next((name for name, number in _OUTCOMES.items() if number == entry.outcome), ""),
        "previousValue": None,
        "newValue": None,
        "actor": entry.actor,
        "onBehalfOf": entry.on_behalf_of,
        "reason": entry.reason,
        "revision": entry.revision or None,
    }
    return found
