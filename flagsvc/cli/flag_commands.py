"""Commands about flags on a server: evaluate, get, list, toggle, create, set and delete."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from typing import Any

from flagsvc.api.common.values import from_value
from flagsvc.api.flag_service.flag_messages import flag_to_message, received
from flagsvc.cli import arguments, dry_run, moments, options, render, rollout_text, wait_for
from flagsvc.cli.calls import Stub, similar_key
from flagsvc.cli.exit_codes import FAILED, OK
from flagsvc.cli.explain import explanation_fields, print_explanation
from flagsvc.cli.pages import MAX_PAGE, pages
from flagsvc.cli.tables import Column, print_list
from flagsvc.cli.terminal import answer, asks, is_terminal, say, say_states
from flagsvc.cli.usage import UsageError
from flagsvc.core.model import Flag
from flagsvc.core.shown_text import visible
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types

_LIST = (
    Column("key"),
    Column("status"),
    Column("name", rank=2, least=12),
    Column("category", rank=4),
    Column("revision", rank=3),
    Column("updated", rank=1, name="updatedAt"),
)
_WITH_ROLLOUTS = (
    *_LIST[:-1],
    Column("updated", rank=2, name="updatedAt"),
    Column("rollout", rank=1, least=10, name=rollout_text.FIELD),
)


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
        as_of=moments.as_of(args.at),
    )
    response = stub.EvaluateFlag(request, timeout=args.timeout)
    evaluation = response.evaluation
    fields = _evaluation_fields(evaluation)
    if args.json:
        explained = {"explanation": explanation_fields(response.explanation)} if args.explain else {}
        then = {"asOf": moments.fields(response.as_of)} if args.at else {}
        render.print_json({**fields, **then, **explained})
    else:
        has_value = evaluation.value.WhichOneof("kind") is not None
        fields["value"] = render.text(fields["value"]) if has_value else "(none: the caller's default applies)"
        if evaluation.error_code == types.ERROR_CODE_FLAG_NOT_FOUND:
            fields["errorMessage"] += similar_key(args, stub)
        if args.at:
            fields["asOf"] = moments.shown(response.as_of)
        render.print_fields(fields)
        if args.explain:
            print_explanation(evaluation.flag_key, response.explanation)
    return FAILED if evaluation.error_code else OK


def _evaluation_fields(evaluation: pb.FlagEvaluation) -> dict[str, Any]:
    has_value, code = evaluation.value.WhichOneof("kind") is not None, evaluation.error_code
    status = types.FlagStatus.Name(evaluation.status).removeprefix("FLAG_STATUS_") if evaluation.status else None
    return {
        "flagKey": evaluation.flag_key,
        "value": from_value(evaluation.value, "value") if has_value else None,
        "variant": evaluation.variant or None,
        "reason": types.Reason.Name(evaluation.reason).removeprefix("REASON_"),
        "errorCode": types.ErrorCode.Name(code).removeprefix("ERROR_CODE_") if code else None,
        "errorMessage": evaluation.error_message or None,
        "enabled": evaluation.enabled,
        "status": status,
        "metadata": {name: from_value(value, name) for name, value in sorted(evaluation.flag_metadata.items())},
        "revision": evaluation.revision,
        "source": types.DefinitionSource.Name(evaluation.source).removeprefix("DEFINITION_SOURCE_"),
        "ageMs": evaluation.age_ms,
    }


def get(args: argparse.Namespace, stub: Stub) -> int:
    """Show the definition of a flag."""
    request = pb.GetFlagRequest(
        flag_key=args.key, flag_set=args.flag_set, min_revision=args.min_revision, as_of=moments.as_of(args.at)
    )
    render.show(render.flag_fields(received(stub.GetFlag(request, timeout=args.timeout).flag)))
    return OK


def list_flags(args: argparse.Namespace, stub: Stub) -> int:
    """List the flags of a set."""
    flags = all_flags(stub, args.flag_set, args.timeout)
    found = [{**render.flag_fields(flag), **rollout_text.rollout_now(flag)} for flag in flags]
    has_rollouts = not is_terminal() or any(rollout_text.FIELD in each for each in found)
    columns = _WITH_ROLLOUTS if has_rollouts else _LIST
    print_list(columns, found, f"no flags in set {args.flag_set!r}; create one with: flagsvc create KEY")
    return OK


def all_flags(stub: Stub, flag_set: str, timeout_s: float) -> list[Flag]:
    """Return the flags of a set, read page by page. Raises grpc.RpcError."""
    request = pb.ListFlagsRequest(flag_set=flag_set, page_size=MAX_PAGE)
    return [received(flag) for page in pages(stub.ListFlags, request, timeout_s) for flag in page.flags]


def toggle(args: argparse.Namespace, stub: Stub) -> int:
    """Switch a flag on or off, and say what it was, and where the change is now."""
    request = pb.ToggleFlagRequest(
        flag_key=args.key, flag_set=args.flag_set, enabled=args.enabled, etag=args.etag, **_author_fields(args)
    )
    request.MergeFrom(pb.ToggleFlagRequest(**wait_for.request_fields(args, otherwise=wait_for.APPLIED)))
    began = time.monotonic()
    response = stub.ToggleFlag(request, timeout=wait_for.deadline_s(args, otherwise=wait_for.APPLIED))
    took_ms = max(1, round((time.monotonic() - began) * 1000))
    flag = received(response.flag)
    before = types.FlagStatus.Name(response.previous_status).removeprefix("FLAG_STATUS_")
    if args.json:
        previous: dict[str, Any] = {"previousStatus": before if response.previous_status else None}
        previous |= {"scheduleNotes": list(response.schedule_notes)} if response.schedule_notes else {}
        render.print_json({**render.flag_fields(flag), **previous, "spread": wait_for.spread_fields(response.spread)})
    else:
        states = [*([before] if response.previous_status else []), flag.status.value]
        where = f"revision {flag.revision}, {wait_for.where(response.spread)}, {took_ms} ms"
        say_states(f"{flag.key}: {' -> '.join(states)} ({where})", states)
    _print_notes(response.schedule_notes)
    wait_for.warn_of_lag(args, response.spread)
    return wait_for.report_spread(args, response.spread)


def create(args: argparse.Namespace, stub: Stub) -> int:
    """Create a flag from KEY and FIELD=VALUE arguments."""
    edits = [*arguments.read_edits(args.fields), *arguments.required(args.requires)]
    flag = arguments.edited(Flag(key=args.key, flag_set=args.flag_set), edits)
    if args.dry_run:
        if dry_run.has_links(flag):
            checked = pb.CreateFlagRequest(flag=flag_to_message(flag), validate_only=True)
            stub.CreateFlag(checked, timeout=args.timeout)
        return dry_run.preview(args, None, flag)
    request = pb.CreateFlagRequest(flag=flag_to_message(flag), **_author_fields(args), **wait_for.request_fields(args))
    return _show_change(args, stub.CreateFlag(request, timeout=wait_for.deadline_s(args)))


def set_fields(args: argparse.Namespace, stub: Stub) -> int:
    """Change the named fields of a flag. A part of a field is changed only in the revision that was read."""
    edits = [*arguments.read_edits(args.fields), *arguments.required(args.requires)]
    if not edits:
        raise UsageError("name what is to change: FIELD=VALUE, or --requires PARENT=VARIANT")
    before = Flag(key=args.key, flag_set=args.flag_set)
    etag = args.etag
    if args.dry_run or any(edit.part for edit in edits):
        read = pb.GetFlagRequest(flag_key=args.key, flag_set=args.flag_set)
        before = received(stub.GetFlag(read, timeout=args.timeout).flag)
        etag = args.etag or before.etag
    after = arguments.edited(before, edits)
    if args.dry_run:
        if dry_run.has_links(after):
            checked = pb.UpdateFlagRequest(flag=flag_to_message(after), validate_only=True)
            checked.update_mask.paths.extend(dict.fromkeys(edit.field for edit in edits))
            stub.UpdateFlag(checked, timeout=args.timeout)
        return dry_run.preview(args, before, after)
    return send_update(args, stub, after, [edit.field for edit in edits], etag)


def send_update(args: argparse.Namespace, stub: Stub, flag: Flag, fields: list[str], etag: str) -> int:
    """Write fields of a flag, and show it. Raises grpc.RpcError."""
    request = pb.UpdateFlagRequest(flag=flag_to_message(flag), **_author_fields(args), **wait_for.request_fields(args))
    request.flag.etag = etag
    request.update_mask.paths.extend(dict.fromkeys(fields))
    return _show_change(args, stub.UpdateFlag(request, timeout=wait_for.deadline_s(args)))


def delete(args: argparse.Namespace, stub: Stub) -> int:
    """Delete a flag. On a terminal it asks first."""
    question = f"delete {visible(args.key)} of flag set {visible(args.flag_set)}?"
    if not args.yes and asks() and not answer(question, otherwise=False):
        raise UsageError("nothing was deleted; to delete without a question: --yes")
    request = pb.DeleteFlagRequest(
        flag_key=args.key,
        flag_set=args.flag_set,
        etag=args.etag,
        **_author_fields(args),
        **wait_for.request_fields(args),
    )
    response = stub.DeleteFlag(request, timeout=wait_for.deadline_s(args))
    if args.json:
        spread = wait_for.spread_fields(response.spread)
        render.print_json({"flagKey": args.key, "revision": response.revision, "spread": spread})
    else:
        say(f"deleted {args.key} (revision {response.revision}); its history is kept: flagsvc history {args.key}")
    _print_notes(response.schedule_notes)
    return wait_for.report_spread(args, response.spread)


def _author_fields(args: argparse.Namespace) -> dict[str, Any]:
    return {"actor": options.actor_of(args), "reason": args.reason}


def _show_change(args: argparse.Namespace, response: pb.CreateFlagResponse | pb.UpdateFlagResponse) -> int:
    """Show the stored flag, and report the level that the change has reached."""
    spread = {"spread": wait_for.spread_fields(response.spread)} if args.json else {}
    notes = [*response.notes, *getattr(response, "schedule_notes", ())]
    shown = {"notes": notes} if args.json and notes else {}
    render.show({**render.flag_fields(received(response.flag)), **spread, **shown})
    _print_notes(notes)
    return wait_for.report_spread(args, response.spread)


def _print_notes(notes: Iterable[str]) -> None:
    for note in notes:
        print(f"note: {visible(note)}", file=sys.stderr)
