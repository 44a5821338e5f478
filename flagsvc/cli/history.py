"""`flagsvc history`: what was changed, and what was refused, of one flag or over all flags and tokens."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from datetime import UTC
from itertools import islice
from typing import Any

import grpc

from flagsvc.api.common.values import from_value
from flagsvc.cli import entries, times
from flagsvc.cli.calls import Stub, similar_key, with_stub
from flagsvc.cli.exit_codes import OK
from flagsvc.cli.pages import MAX_PAGE, pages
from flagsvc.cli.tables import Column, print_list
from flagsvc.cli.terminal import Form, form, is_terminal
from flagsvc.core.model import DEFAULT_SET
from flagsvc.generated.flagsvc.v1 import audit_service_pb2 as audit
from flagsvc.generated.flagsvc.v1 import audit_service_pb2_grpc as audit_grpc
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb

_OUTCOMES = {"done": audit.AUDIT_OUTCOME_DONE, "refused": audit.AUDIT_OUTCOME_REFUSED}
_CHANGE = (
    *(Column("before", name="previousValue"), Column("after", name="newValue"), Column("actor")),
    *(Column("on behalf of", name="onBehalfOf"), Column("reason"), Column("revision")),
)
_OF_FLAG = (Column("key", name="flagKey"), Column("at"), Column("action"), *_CHANGE, Column("via"))
_OF_ALL = (
    *(Column("subject"), Column("at"), Column("flag set", name="flagSet"), Column("action"), Column("outcome")),
    *_CHANGE,
)
FLAG_ACTIONS = frozenset({"ENABLED", "DISABLED", "UPDATED", "CREATED", "DELETED"})


def history(args: argparse.Namespace) -> int:
    """Show entries, the newest first, with what they changed."""
    if args.key and not args.outcome:  # a flag's own history needs fewer rights, and has no refused calls
        args.flag_set = args.flag_set or os.environ.get("FLAGSVC_FLAG_SET", "").strip() or DEFAULT_SET
        return with_stub(args, lambda stub: _of_flag(args, stub), Stub)
    request = audit.ListAuditEntriesRequest(
        actor=args.of_actor or "", action=args.action or "", flag_set=args.flag_set or "", subject=args.key or ""
    )
    if args.outcome:
        request.outcome = _OUTCOMES[args.outcome]
    if args.since:
        request.since.FromDatetime(times.before_now(args.since, "--since"))
    request.page_size = min(args.limit, MAX_PAGE)

    def shown(stubs: tuple[Stub, audit_grpc.AuditServiceStub]) -> int:
        read = pages(stubs[1].ListAuditEntries, request, args.timeout)
        found = [_audited(entry) for entry in islice((each for page in read for each in page.entries), args.limit)]
        _add_values(found, stubs[0], args)
        _print(_OF_ALL, found, "no entries")
        return OK

    return with_stub(args, shown, lambda channel: (Stub(channel), audit_grpc.AuditServiceStub(channel)))


def flag_history(stub: Stub, key: str, flag_set: str, limit: int, timeout_s: float) -> list[entries.Entry]:
    """Return a flag's changes, newest first. Raises grpc.RpcError."""
    request = pb.ListFlagHistoryRequest(flag_key=key, flag_set=flag_set, page_size=limit)
    return [_entry(each) for each in stub.ListFlagHistory(request, timeout=timeout_s).entries]


def _of_flag(args: argparse.Namespace, stub: Stub) -> int:
    since = times.before_now(args.since, "--since") if args.since else None
    is_filtered = args.since or args.of_actor or args.action
    found = flag_history(stub, args.key, args.flag_set, MAX_PAGE if is_filtered else args.limit, args.timeout)
    wanted = (
        entry
        for entry in found
        if (since is None or entry["at"] >= since)
        and args.of_actor in (None, entry["actor"])
        and args.action in (None, entry["action"])
    )
    empty = "no such entries" if found else f"no history for {args.key!r}{similar_key(args, stub)}"
    _print(_OF_FLAG, list(islice(wanted, args.limit)), empty)
    return OK


def _print(columns: Sequence[Column], found: Sequence[entries.Entry], empty: str) -> None:
    if is_terminal() and form() is Form.TABLE and found:
        for entry in found:
            entries.print_entry(entry)
    else:
        print_list(columns, found, empty)


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
        "via": entry.via,
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
