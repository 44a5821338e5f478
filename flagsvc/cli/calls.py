"""Calls of a server: runs a command with a stub, and turns a failed call into a message."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any, TypeVar

import grpc
from google.rpc import error_details_pb2, status_pb2

from flagsvc.cli import tls
from flagsvc.cli.channels import channel_to, find_server
from flagsvc.cli.exit_codes import FAILED
from flagsvc.cli.failures import print_error as print_failure
from flagsvc.cli.usage import meant
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc

Stub = pb_grpc.FlagServiceStub
AnyStub = TypeVar("AnyStub")
HINT_S = 1.0
"""Seconds that may be spent to find a similar key after a misspelled one."""


def with_stub(
    args: argparse.Namespace, command: Callable[[AnyStub], int], stub: Callable[[grpc.Channel], AnyStub]
) -> int:
    """Run a command against the server; a failed call becomes a message and exit status 1."""
    find_server(args, os.environ)
    with channel_to(args, os.environ) as channel:
        try:
            return command(stub(channel))
        except grpc.RpcError as error:
            hint = similar_key(args, Stub(channel)) if error_reason(error) == "FLAG_NOT_FOUND" else ""
            print_error(error, args, hint)
            return FAILED


def keys_of(stub: Stub, flag_set: str, timeout_s: float) -> list[str]:
    """Return the keys of the first thousand flags of a set. Raises grpc.RpcError."""
    page = stub.ListFlags(pb.ListFlagsRequest(flag_set=flag_set, page_size=1_000), timeout=timeout_s)
    return [flag.key for flag in page.flags]


def print_error(error: grpc.RpcError, args: argparse.Namespace, hint: str = "") -> None:
    """Print a failed call."""
    address = args.address
    code, details, reason = error.code(), error.details(), error_reason(error)
    word = reason or code.name
    text = f"{details}{hint}{_next_step(code, reason)} ({word})"
    if code is grpc.StatusCode.UNAVAILABLE and not reason:
        word = "UNREACHABLE"
        text = f"no server is reachable at {address}; start one with: flagsvc serve"
        if hasattr(args, "store"):
            text += ", or name a store: --store URL"
        if args.encryption is not None:
            cause = tls.failure(details or "")
            text = f"no connection to {address} with TLS: {cause}" if cause else f"{text} (with TLS)"
        elif "ocket closed" in (details or ""):  # as a TLS server does
            text = f"{address} closes the connection; if it serves TLS, name its CA with --tls-ca"
    elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
        text = f"{address} did not respond in time; try a larger --timeout"
    print_failure(text, code=word, status=code.name)


def _next_step(code: grpc.StatusCode, reason: str) -> str:
    """Return what can be done where something is not permitted, behind the server's words; empty for other errors."""
    if reason == "STORE_FORBIDDEN":
        return "; flagsvc doctor --store URL names each right that the server's user of the store lacks"
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return "; flagsvc whoami shows the caller's rights, and who has the role admin can change those of a token"
    if code is not grpc.StatusCode.UNAUTHENTICATED:
        return ""
    given = [name for name in ("FLAGSVC_TOKEN_FILE", "FLAGSVC_TOKEN") if os.environ.get(name, "").strip()]
    if given:
        return f"; the token is that of {given[0]}"
    return "; for this command, put a token into a file, and the file's name into FLAGSVC_TOKEN_FILE"


def error_reason(error: grpc.RpcError) -> str:
    """Return the reason of the ErrorInfo detail, empty if there is none."""
    trailers: Any = error.trailing_metadata() or ()
    for name, value in trailers:
        if name == "grpc-status-details-bin":
            info = error_details_pb2.ErrorInfo()
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(info):
                    return str(info.reason)
    return ""


def similar_key(args: argparse.Namespace, stub: Stub) -> str:
    """Return `; did you mean X?` for the key in the arguments, which no flag has; empty if none looks like it."""
    if not getattr(args, "key", None):
        return ""
    try:
        return meant(args.key, keys_of(stub, args.flag_set, HINT_S))
    except grpc.RpcError:  # it need not list its flags to everybody who may read one
        return ""
