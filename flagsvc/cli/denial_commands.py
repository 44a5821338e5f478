"""Commands about identities that others prove: token deny, allow and denied."""

from __future__ import annotations

import argparse
from datetime import UTC
from typing import Any

from flagsvc.cli import render, times, wait_for
from flagsvc.cli.tables import Column, print_list
from flagsvc.cli.token_commands import on_target
from flagsvc.cli.token_targets import Denied
from flagsvc.generated.flagsvc.v1 import token_service_pb2 as pb

_LIST = (
    *(Column("identity"), Column("state"), Column("expires", rank=2)),
    *(Column("denied by", rank=3, name="deniedBy"), Column("reason", rank=1, least=12)),
)


def deny(args: argparse.Namespace) -> int:
    """Refuse an identity."""
    request = pb.DenyIdentityRequest(identity=args.identity, reason=args.reason)
    if args.expires not in (None, "never"):
        request.expire_time.FromDatetime(times.after_now(args.expires, "--expires"))
    return on_target(args, lambda target: _show(args, target.deny(request)))


def allow(args: argparse.Namespace) -> int:
    """Lift a denial."""
    return on_target(args, lambda target: _show(args, target.allow(args.identity)))


def list_denied(args: argparse.Namespace) -> int:
    """List denials; with --all those that are over too."""

    def listed(target: Any) -> int:
        found = [_fields(each) for each in target.denied() if args.all or each.in_force]
        print_list(_LIST, found, "nobody is denied")
        return 0

    return on_target(args, listed)


def _show(args: argparse.Namespace, changed: Denied) -> int:
    fields = _fields(changed.denied)
    if changed.spread is not None and args.json:
        fields["spread"] = wait_for.spread_fields(changed.spread)
    render.show(fields)
    return 0 if changed.spread is None else wait_for.report_spread(args, changed.spread)


def _fields(denied: pb.DeniedIdentity) -> dict[str, Any]:
    return {
        "identity": denied.identity,
        "state": "denied" if denied.in_force else "allowed" if denied.lifted_by else "expired",
        "reason": denied.reason,
        "expires": denied.expire_time.ToDatetime(UTC) if denied.HasField("expire_time") else None,
        "deniedBy": denied.denied_by,
        "denied": denied.deny_time.ToDatetime(UTC),
        "liftedBy": denied.lifted_by or None,
        "lifted": denied.lift_time.ToDatetime(UTC) if denied.HasField("lift_time") else None,
    }
