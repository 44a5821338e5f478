"""`flagsvc edit KEY`: a flag's definition in an editor, written back only in the revision that was read."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc

from flagsvc.adapters.files.yaml_text import parse_yaml, write_yaml
from flagsvc.api.flag_service.flag_messages import received
from flagsvc.cli import arguments, changed_fields, dry_run, options, render
from flagsvc.cli.calls import Stub, error_reason, print_error
from flagsvc.cli.exit_codes import FAILED, OK
from flagsvc.cli.failures import print_error as print_failure
from flagsvc.cli.flag_commands import send_update
from flagsvc.cli.terminal import answer, asks, say
from flagsvc.cli.usage import UsageError
from flagsvc.core.documents import json_safe
from flagsvc.core.errors import InvalidRequest
from flagsvc.core.model import Flag
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb

_CONFLICT = "FLAG_VERSION_CONFLICT"
MAX_BYTES = 1024 * 1024


def edit(args: argparse.Namespace, stub: Stub) -> int:
    """Open a flag in an editor, show what would change, and write it. What is not written is kept in a file."""
    request = pb.GetFlagRequest(flag_key=args.key, flag_set=args.flag_set)
    before = received(stub.GetFlag(request, timeout=args.timeout).flag)
    text = _read(Path(args.file)) if args.file else _text_of(before)
    file = _new_file(text)
    while True:
        _open_editor(file)
        try:
            after = _flag_in(file, before)
            fields = changed_fields.flag_changes(before, after)
            if not fields:
                return _unchanged(file)
            dry_run.check(before, after, options.actor_of(args), args.reason)
        except (UsageError, InvalidRequest) as error:
            print_failure(str(error), code="INVALID_FLAG")
            if asks() and answer("edit it again?", otherwise=True):
                continue
            return _kept(args, file)
        break
    for line in changed_fields.lines_of(fields, "  "):
        print(line, file=sys.stderr if args.json else sys.stdout)
    question = f"write this to {render.text(args.key)} (revision {before.revision})?"
    if not args.yes and asks() and not answer(question, otherwise=True):
        return _kept(args, file)
    names = [arguments.FIELDS[name] for name in fields]
    try:
        status = send_update(args, stub, after, names, before.etag)
    except grpc.RpcError as error:
        conflict = error_reason(error) == _CONFLICT
        print_error(error, args, "; it was changed while you edited it" if conflict else "")
        if conflict:
            _put_changes_on_newest(args, stub, file, after, names)
        return _kept(args, file)
    file.unlink()
    return status


def _put_changes_on_newest(args: argparse.Namespace, stub: Stub, file: Path, edited: Flag, names: list[str]) -> None:
    """Make the kept text the newest definition with the edited fields, so that no change of others is taken back."""
    request = pb.GetFlagRequest(flag_key=args.key, flag_set=args.flag_set, min_revision=edited.revision + 1)
    with contextlib.suppress(grpc.RpcError):  # it may be deleted: then the text stays as it was edited
        newest = received(stub.GetFlag(request, timeout=args.timeout).flag)
        fields: dict[str, Any] = {name: getattr(edited, name) for name in names}
        file.write_text(_text_of(replace(newest, **fields)), encoding="utf-8")


def _text_of(flag: Flag) -> str:
    fields = {name: value for name, value in render.flag_fields(flag).items() if name in arguments.FIELDS}
    return (
        f"# {flag.key} of flag set {flag.flag_set}, revision {flag.revision}.\n"
        "# A field that you take out is cleared. Nothing is written before you have seen the difference.\n"
        f"{write_yaml(json_safe(fields))}"
    )


def _flag_in(file: Path, before: Flag) -> Flag:
    """Return the flag that a file describes. Raises UsageError."""
    found = parse_yaml(_read(file))
    if found.problems:
        first = found.problems[0]
        raise UsageError(f"line {found.lines(first.path)}: {first.text}")
    if not isinstance(found.document, Mapping):
        raise UsageError("the text must have a flag's fields, one NAME: VALUE a line")
    return arguments.rewritten(before, found.document)


def _open_editor(file: Path) -> None:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        status = subprocess.run([*shlex.split(editor), str(file)], check=False).returncode  # noqa: S603  the user's own
    except (OSError, ValueError) as error:
        file.unlink()
        raise UsageError(f"the editor {editor!r} cannot be started ({error}); set EDITOR") from None
    if status:
        raise UsageError(
            f"the editor {editor!r} ended with status {status}; nothing was written, the text is in {file}"
        )


def _unchanged(file: Path) -> int:
    file.unlink()
    say("nothing was changed", error=True)
    return OK


def _kept(args: argparse.Namespace, file: Path) -> int:
    where = "" if args.flag_set == "default" else f" --flag-set {args.flag_set}"
    again = f"flagsvc edit {args.key}{where} --file {file}"
    say(f"nothing was written; your text is kept. See: flagsvc diff {args.key}{where}\nthen: {again}", error=True)
    return FAILED


def _new_file(text: str) -> Path:
    with tempfile.NamedTemporaryFile("w", prefix="flagsvc-", suffix=".yaml", delete=False, encoding="utf-8") as file:
        file.write(text)
    return Path(file.name)


def _read(file: Path) -> str:
    try:
        raw = file.read_bytes()
        if len(raw) <= MAX_BYTES:
            return raw.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: cannot be read: {error}") from None
    raise UsageError(f"{file}: {len(raw)} bytes; it must be at most {MAX_BYTES}")
