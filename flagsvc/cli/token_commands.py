"""Commands about tokens: token create, list, update, rotate and revoke; whoami."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from typing import Any, Self

from flagsvc.access.token_writer import issued
from flagsvc.api.token_service import messages
from flagsvc.cli import render, times, wait_for
from flagsvc.cli.calls import with_stub
from flagsvc.cli.tables import Column, print_list
from flagsvc.cli.terminal import say
from flagsvc.cli.token_targets import OPERATOR, Changed, OnServer, OnStore, Target
from flagsvc.cli.usage import UsageError
from flagsvc.core.access.tokens import MAX_RATE
from flagsvc.core.errors import InvalidRequest
from flagsvc.generated.flagsvc.v1 import token_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import token_service_pb2_grpc as pb_grpc
from flagsvc.settings import Settings
from flagsvc.tokens_file.entries import line_of

_LIST = (
    *(Column("id"), Column("name", rank=1, least=12), Column("role", rank=2)),
    *(Column("flag sets", rank=3, least=12, name="flagSets"), Column("state"), Column("expires", rank=4)),
    *(Column("last used", rank=5, name="lastUsed"), Column("created by", rank=6, name="createdBy")),
)
_SECRET_MODE = 0o600
_ANOTHER = "flagsvc token create NAME --role admin --store URL"


def create(args: argparse.Namespace) -> int:
    """Make a token, and print its secret, or write it into a file that only its owner can read."""
    if args.hash_only:
        return _create_entry(args)
    if args.if_none:
        return _create_first(args)
    token = _token_of(args)
    with _Output(args.output) as output:
        return on_target(args, lambda target: output.put(args, target.create(token)))


def list_tokens(args: argparse.Namespace) -> int:
    """List tokens; with --all revoked ones too."""

    def listed(target: Target) -> int:
        found = [_fields(token) for token in target.all() if args.all or not token.HasField("revoke_time")]
        print_list(_LIST, found, "no tokens; make one with: flagsvc token create NAME --role ROLE")
        return 0

    return on_target(args, listed)


def update(args: argparse.Namespace) -> int:
    """Change the fields of a token that options name."""
    token, mask = _token_of(args), []
    token.id = args.id
    for name, given in (
        ("name", args.name),
        ("role", args.role),
        ("flag_sets", args.flag_set),
        ("expire_time", args.expires),
        ("disabled", args.disabled is not None),
        ("rate", args.rate),
        ("for_others", args.for_others is not None),
        ("context_headers", args.context_headers is not None),
    ):
        mask += [name] if given else []
    if not mask:
        raise UsageError(
            "name what to change: --name, --role, --flag-set, --expires, --rate, --for-others, --context-headers,"
            " --disable or --enable"
        )
    return on_target(args, lambda target: _show(args, target.update(token, mask)))


def rotate(args: argparse.Namespace) -> int:
    """Replace a token's secret; the one before it stays valid for the overlap."""
    overlap_s = times.seconds_of(args.overlap, "--overlap")
    with _Output(args.output) as output:
        return on_target(args, lambda target: output.put(args, target.rotate(args.id, overlap_s)))


def revoke(args: argparse.Namespace) -> int:
    """End a token for ever."""
    return on_target(args, lambda target: _show(args, target.revoke(args.id)))


def whoami(args: argparse.Namespace) -> int:
    """Show who the caller is to a server."""

    def shown(stub: pb_grpc.TokenServiceStub) -> int:
        caller = stub.GetCaller(pb.GetCallerRequest(), timeout=args.timeout)
        fields = {
            "kind": caller.kind,
            "id": caller.id,
            "name": caller.name,
            "role": _role_name(caller.role),
            "flagSets": tuple(caller.flag_sets),
            "expires": caller.expire_time.ToDatetime(UTC) if caller.HasField("expire_time") else None,
        }
        render.show(fields)
        return 0

    return with_stub(args, shown, pb_grpc.TokenServiceStub)


def _create_entry(args: argparse.Namespace) -> int:
    """Print a new token's entry for a file of tokens. No store and no server is asked."""
    if not args.output or args.if_none or args.store is not None:
        raise UsageError("--hash-only needs --output, for the secret, and neither --store nor --if-none")
    token, secret = issued(OPERATOR, messages.grant_of(_token_of(args)))
    with _Output(args.output) as output:
        output.write(secret)
    sys.stdout.write(line_of(token))
    return 0


def _create_first(args: argparse.Namespace) -> int:
    """Make the first token of a store, once, also when two programs start together."""
    if args.store is None or not args.output:
        raise UsageError("--if-none needs --store and --output: it makes the first token of a store into a file")
    target, token, path = _store_of(args), _token_of(args), Path(args.output)
    was_there = path.exists()  # before the store is looked at: another program makes the token first, then the file
    if target.all():
        hint = "" if path.exists() else f". If nobody has one that is valid, make another: {_ANOTHER}"
        say(f"the store has, or had, a token already; nothing was made (--if-none){hint}", error=args.json)
        return 0
    if was_there:
        raise UsageError(
            f"--output names {str(path)!r}, which exists, but the store has no token: the file is of another store,"
            " or the store has lost its tokens. Remove the file to make the first token of this store"
        )
    try:
        with _Output(args.output) as output:
            return output.put(args, target.create(token, as_first=True))
    except (InvalidRequest, UsageError):  # another program may have made the token, or its file too
        if not target.all():
            raise
        say("another program has made the first token at this moment", error=args.json)
        return 0


class _Output:
    """Where a secret goes: a new file that only its owner can read, or standard output.

    The file is made before the token, so that no token is made whose secret cannot be kept.
    """

    def __init__(self, path: str | None) -> None:
        self._path = Path(path) if path else None
        self._part = Path(f"{path}.{secrets.token_hex(4)}") if path else None

    def __enter__(self) -> Self:
        if self._path is not None and self._part is not None:
            if self._path.exists():
                raise UsageError(f"--output names {str(self._path)!r}, which exists; remove it, or name another file")
            os.close(os.open(self._part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _SECRET_MODE))
        return self

    def __exit__(self, *_: object) -> None:
        if self._part is not None:
            self._part.unlink(missing_ok=True)

    def put(self, args: argparse.Namespace, changed: Changed) -> int:
        """Write the secret and show the token; return the exit status."""
        if self._path is None:
            return _show(args, changed, secret=changed.secret)
        self.write(changed.secret)
        return _show(args, changed)

    def write(self, secret: str) -> None:
        """Write the secret into the file."""
        assert self._path is not None  # noqa: S101  only for an output with a file
        assert self._part is not None  # noqa: S101
        with self._part.open("w", encoding="utf-8") as file:
            file.write(secret + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._part.rename(self._path)


def on_target(args: argparse.Namespace, work: Callable[[Target], int]) -> int:
    """Run what works on a store or a server, whichever the arguments name; return the exit status."""
    if args.store is not None:
        return work(_store_of(args))
    return with_stub(args, lambda stub: work(OnServer(stub, args)), pb_grpc.TokenServiceStub)


def _store_of(args: argparse.Namespace) -> OnStore:
    return OnStore(args.store or Settings.from_env(os.environ).store_url)


def _token_of(args: argparse.Namespace) -> pb.Token:
    """Return the fields that options name. Raises UsageError."""
    token = pb.Token(name=args.name or "", flag_sets=args.flag_set or (), disabled=bool(args.disabled))
    token.rate, token.for_others = _rate_of(args.rate or "default"), bool(args.for_others)
    token.context_headers = bool(args.context_headers)
    if args.role:
        token.role = pb.Role.Value(f"ROLE_{args.role.upper()}")
        if args.role in {"admin", "operate"} and not args.flag_set:
            token.flag_sets.append("*")
    if args.expires not in (None, "never"):
        token.expire_time.FromDatetime(times.after_now(args.expires, "--expires"))
    return token


def _rate_of(text: str) -> int:
    """Return the calls a second of `500/s`; 0 for `default`. Raises UsageError."""
    number = text.removesuffix("/s")
    if text == "default":
        return 0
    if not number.isdecimal() or not 1 <= int(number) <= MAX_RATE:
        raise UsageError(f"--rate is {text!r}; it must be 1/s to {MAX_RATE}/s, or default")
    return int(number)


def _show(args: argparse.Namespace, changed: Changed, secret: str = "") -> int:
    fields = _fields(changed.token) | ({"secret": secret} if secret else {})
    if changed.spread is not None and args.json:
        fields["spread"] = wait_for.spread_fields(changed.spread)
    render.show(fields)
    if secret and not args.json:
        print("Keep the secret now: it cannot be shown again.", file=sys.stderr)
    return 0 if changed.spread is None else wait_for.report_spread(args, changed.spread)


def _fields(token: pb.Token) -> dict[str, Any]:
    return {
        "id": token.id,
        "name": token.name,
        "role": _role_name(token.role),
        "flagSets": tuple(token.flag_sets),
        "state": _state(token),
        "expires": token.expire_time.ToDatetime(UTC) if token.HasField("expire_time") else None,
        "overlapEnds": token.overlap_end_time.ToDatetime(UTC) if token.HasField("overlap_end_time") else None,
        "rate": f"{token.rate}/s" if token.rate else None,
        "forOthers": token.for_others,
        "contextHeaders": token.context_headers,
        "lastUsed": token.last_used_day or None,
        "createdBy": token.created_by,
        "created": token.create_time.ToDatetime(UTC),
        "etag": token.etag,
    }


def _state(token: pb.Token) -> str:
    if token.HasField("revoke_time"):
        return "revoked"
    if token.disabled:
        return "disabled"
    is_over = token.HasField("expire_time") and token.expire_time.ToDatetime(UTC) <= times.now()
    return "expired" if is_over else "valid"


def _role_name(role: pb.Role.ValueType) -> str:
    return pb.Role.Name(role).removeprefix("ROLE_").lower()
