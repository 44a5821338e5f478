"""Commands that call a running server: evaluations, reads, writes, watch and health."""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from flagsvc.api.common.values import from_value
from flagsvc.api.flag_service.flag_messages import received
from flagsvc.cli import arguments, options, render, tls, wait_for
from flagsvc.cli.channels import channel_to, find_server, open_channel
from flagsvc.cli.explain import explanation_fields, print_explanation
from flagsvc.core.model import Flag
from flagsvc.core.shown_text import visible
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from flagsvc.generated.flagsvc.v1 import types_pb2 as types

Stub = pb_grpc.FlagServiceStub


def with_stub(args: argparse.Namespace, command: Callable[[Stub], int]) -> int:
    """Run a command against the server; a failed call becomes a message and exit status 1."""
    with channel_to(args, os.environ) as channel:
        try:
            return command(pb_grpc.FlagServiceStub(channel))
        except grpc.RpcError as error:
            print_error(error, args)
            return 1


def evaluate(args: argparse.Namespace, stub: Stub) -> int:
    """Evaluate one flag; exit status 1 if the result has an error code."""
    expected = types.ValueType.Value(f"VALUE_TYPE_{args.type.upper()}") if args.type else types.VALUE_TYPE_UNSPECIFIED
    request = pb.EvaluateFlagRequest(
        flag_key=args.key,
        flag_set=args.flag_set,
        context=arguments.read_context(args),
        expected_type=expected,
        explain=args.explain,
        min_revision=args.min_revision,
    )
    response = stub.EvaluateFlag(request, timeout=args.timeout)
    evaluation, code = response.evaluation, response.evaluation.error_code
    has_value = evaluation.value.WhichOneof("kind") is not None
    fields = {
        "flagKey": evaluation.flag_key,
        "value": from_value(evaluation.value, "value") if has_value else None,
        "variant": evaluation.variant or None,
        "reason": types.Reason.Name(evaluation.reason).removeprefix("REASON_"),
        "errorCode": types.ErrorCode.Name(code).removeprefix("ERROR_CODE_") if code else None,
        "revision": evaluation.revision,
        "source": types.DefinitionSource.Name(evaluation.source).removeprefix("DEFINITION_SOURCE_"),
        "ageMs": evaluation.age_ms,
    }
    if args.json:
        explained = {"explanation": explanation_fields(response.explanation)} if args.explain else {}
        render.print_json({**fields, **explained})
    else:
        value = render.text(fields["value"]) if has_value else "(none: the caller's default applies)"
        more = {"error": evaluation.error_message, "enabled": evaluation.enabled}
        render.print_fields({**fields, "value": value, **more})
        if args.explain:
            print_explanation(evaluation.flag_key, response.explanation)
    return 1 if code else 0


def toggle(args: argparse.Namespace, stub: Stub) -> int:
    """Switch a flag on or off."""
    request = pb.ToggleFlagRequest(
        flag_key=args.key, flag_set=args.flag_set, enabled=args.state == "on", etag=args.etag, **_write_fields(args)
    )
    return _show_change(args, stub.ToggleFlag(request, timeout=wait_for.deadline_s(args)))


def get(args: argparse.Namespace, stub: Stub) -> int:
    """Show the definition of a flag."""
    request = pb.GetFlagRequest(flag_key=args.key, flag_set=args.flag_set, min_revision=args.min_revision)
    _show(args, render.flag_fields(received(stub.GetFlag(request, timeout=args.timeout).flag)))
    return 0


def list_flags(args: argparse.Namespace, stub: Stub) -> int:
    """List the flags of a set, reading page by page."""
    flags: list[Flag] = []
    page_token = ""
    while True:
        request = pb.ListFlagsRequest(flag_set=args.flag_set, page_size=1_000, page_token=page_token)
        page = stub.ListFlags(request, timeout=args.timeout)
        flags += map(received, page.flags)
        if not (page_token := page.next_page_token):
            break
    if args.json:
        render.print_json([render.flag_fields(flag) for flag in flags])
        return 0
    rows = ((f.key, f.status.value, f.name, f.category, f.revision, f.updated_at) for f in flags)
    hint = f"no flags in set {args.flag_set!r}; create one with: flagsvc create KEY"
    render.print_table(("key", "status", "name", "category", "revision", "updated"), rows, hint)
    return 0


def create(args: argparse.Namespace, stub: Stub) -> int:
    """Create a flag from KEY and FIELD=VALUE arguments."""
    flag, _ = arguments.read_flag(args)
    request = pb.CreateFlagRequest(flag=flag, **_write_fields(args))
    return _show_change(args, stub.CreateFlag(request, timeout=wait_for.deadline_s(args)))


def set_fields(args: argparse.Namespace, stub: Stub) -> int:
    """Change the named fields of a flag."""
    flag, fields = arguments.read_flag(args)
    flag.etag = args.etag
    request = pb.UpdateFlagRequest(flag=flag, **_write_fields(args))
    request.update_mask.paths.extend(fields)
    return _show_change(args, stub.UpdateFlag(request, timeout=wait_for.deadline_s(args)))


def delete(args: argparse.Namespace, stub: Stub) -> int:
    """Delete a flag."""
    request = pb.DeleteFlagRequest(flag_key=args.key, flag_set=args.flag_set, etag=args.etag, **_write_fields(args))
    response = stub.DeleteFlag(request, timeout=wait_for.deadline_s(args))
    if args.json:
        spread = wait_for.spread_fields(response.spread)
        render.print_json({"flagKey": args.key, "revision": response.revision, "spread": spread})
    else:
        render.say(
            f"deleted {args.key} (revision {response.revision}); its history is kept: flagsvc history {args.key}"
        )
    return wait_for.report_spread(args, response.spread)


def history(args: argparse.Namespace, stub: Stub) -> int:
    """Show a flag's changes, newest first."""
    request = pb.ListFlagHistoryRequest(flag_key=args.key, flag_set=args.flag_set, page_size=args.limit)
    entries = [
        {
            "at": entry.created_at.ToDatetime(tzinfo=UTC),
            "action": entry.action,
            "previousValue": from_value(entry.previous_value, "p") if entry.HasField("previous_value") else None,
            "newValue": from_value(entry.new_value, "n") if entry.HasField("new_value") else None,
            "actor": entry.actor,
            "onBehalfOf": entry.on_behalf_of,
            "reason": entry.reason,
            "revision": entry.revision,
        }
        for entry in stub.ListFlagHistory(request, timeout=args.timeout).entries
    ]
    if args.json:
        render.print_json(entries)
    else:
        rows = (tuple(entry.values()) for entry in entries)
        heads = ("at", "action", "before", "after", "actor", "on behalf of", "reason", "revision")
        render.print_table(heads, rows, f"no history for {args.key!r}")
    return 0


def watch(args: argparse.Namespace, stub: Stub) -> int:
    """Print a set and then every change until interrupted; reconnects and resumes automatically."""
    resume, pause = 0, 0.2
    while True:
        try:
            request = pb.WatchFlagsRequest(flag_set=args.flag_set, resume_revision=resume)
            for message in stub.WatchFlags(request):
                resume, pause = message.resume_revision or resume, 0.2
                _show_event(args, message)
        except grpc.RpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
                raise
            print(f"connection to {args.address} lost; reconnecting", file=sys.stderr)
        time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  jitter needs no cryptographic randomness
        pause = min(pause * 2, 10.0)


def health(args: argparse.Namespace) -> int:
    """Call grpc.health.v1; exit status 0 only for SERVING."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: PLC0415  only this command needs it

    find_server(args, os.environ)
    with open_channel(args.address, proxy=False, tls=args.encryption) as channel:
        try:
            request = health_pb2.HealthCheckRequest(service=args.service)
            response = health_pb2_grpc.HealthStub(channel).Check(request, timeout=args.timeout)
        except grpc.RpcError as error:
            print_error(error, args)
            return 1
    state = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
    if args.json:
        render.print_json({"service": args.service, "status": state})
    else:
        print(state)
    return 0 if response.status == health_pb2.HealthCheckResponse.SERVING else 1


def _write_fields(args: argparse.Namespace) -> dict[str, Any]:
    return {"actor": options.actor_of(args), "reason": args.reason, **wait_for.request_fields(args)}


def _show_change(
    args: argparse.Namespace, response: pb.CreateFlagResponse | pb.UpdateFlagResponse | pb.ToggleFlagResponse
) -> int:
    """Show the stored flag, and report the level that the change has reached."""
    spread = {"spread": wait_for.spread_fields(response.spread)} if args.json else {}
    notes = [] if isinstance(response, pb.ToggleFlagResponse) else list(response.notes)
    shown = {"notes": notes} if args.json and notes else {}
    _show(args, {**render.flag_fields(received(response.flag)), **spread, **shown})
    for note in notes:
        print(f"note: {visible(note)}", file=sys.stderr)
    return wait_for.report_spread(args, response.spread)


def _show(args: argparse.Namespace, fields: dict[str, Any]) -> None:
    if args.json:
        render.print_json(fields)
    else:
        render.print_fields(fields)


def _show_event(args: argparse.Namespace, message: pb.WatchFlagsResponse) -> None:
    match message.WhichOneof("event"):
        case "snapshot":
            flags = [received(flag) for flag in message.snapshot.flags]
            if args.json:
                payload: dict[str, Any] = {"type": "snapshot", "flags": [render.flag_fields(flag) for flag in flags]}
                render.print_json({**payload, "resumeRevision": message.resume_revision})
            else:
                print(f"snapshot: {len(flags)} flags at revision {message.resume_revision}", flush=True)
        case "change":
            change = message.change
            flag = received(change.flag) if change.HasField("flag") else None
            if args.json:
                payload = {"type": "change", "flagKey": change.flag_key, "revision": change.revision}
                render.print_json({**payload, "flag": render.flag_fields(flag) if flag else None})
            else:
                state = flag.status.value if flag else "deleted"
                now = datetime.now(UTC).strftime("%H:%M:%S.%f")[:-3]
                render.say(f"{now}  {visible(change.flag_key)}  {state}  revision {change.revision}")


def print_error(error: grpc.RpcError, args: argparse.Namespace) -> None:
    """Print a failed call for people."""
    address = args.address
    code, details, reason = error.code(), error.details(), _error_reason(error)
    text = f"{details}{_next_step(code)} ({reason or code.name})"
    if code is grpc.StatusCode.UNAVAILABLE and not reason:
        text = f"no server is reachable at {address}; start one with: flagsvc serve"
        if args.encryption is not None:
            cause = tls.failure(details or "")
            text = f"no connection to {address} with TLS: {cause}" if cause else f"{text} (with TLS)"
        elif "ocket closed" in (details or ""):  # as a TLS server does
            text = f"{address} closes the connection; if it serves TLS, name its CA with --tls-ca"
    elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
        text = f"{address} did not respond in time; try a larger --timeout"
    render.say(f"error: {text}", error=True)


def _next_step(code: grpc.StatusCode) -> str:
    """Return what a caller who is not permitted can do next, behind the server's words; empty for other errors."""
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return "; flagsvc whoami shows the caller's rights, and who has the role admin can change those of a token"
    if code is not grpc.StatusCode.UNAUTHENTICATED:
        return ""
    given = [name for name in ("FLAGSVC_TOKEN_FILE", "FLAGSVC_TOKEN") if os.environ.get(name, "").strip()]
    if given:
        return f"; the token is that of {given[0]}"
    return "; for this command, put a token into a file, and the file's name into FLAGSVC_TOKEN_FILE"


def _error_reason(error: grpc.RpcError) -> str:
    """Return the reason of the ErrorInfo detail, empty if there is none."""
    trailers: Any = error.trailing_metadata() or ()
    for name, value in trailers:
        if name == "grpc-status-details-bin":
            info = error_details_pb2.ErrorInfo()
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(info):
                    return str(info.reason)
    return ""
