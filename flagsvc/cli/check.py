"""`flagsvc check`: the keys that Python code uses, and the server or a file does not know."""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import grpc

from flagsvc.adapters.files.checked import checked
from flagsvc.cli import render
from flagsvc.cli.channels import channel_to, find_server
from flagsvc.cli.code_keys import Use, uses_in
from flagsvc.cli.pages import MAX_PAGE, pages
from flagsvc.cli.terminal import say
from flagsvc.cli.usage import UsageError
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc

_MAX_NAMED = 5


class _Problem(NamedTuple):
    """One line of the report, and one object of its JSON."""

    file: str
    line: int
    problem: str
    flagKey: str = ""  # noqa: N815  a name in JSON
    didYouMean: str = ""  # noqa: N815


def check(args: argparse.Namespace) -> int:
    """Report every use of an unknown key; exit status 1 if there is one, or a file that cannot be read."""
    try:
        uses, unreadable = uses_in(args.paths)
    except FileNotFoundError as error:
        raise UsageError(str(error)) from None
    known = sorted(_of_file(args.flags, args.flag_set) if args.flags else _of_server(args))
    unknown = [use for use in uses if use.key is not None and use.key not in known]
    computed = [use for use in uses if use.key is None]
    problems = [_Problem(each.path, each.line, f"cannot be read: {each.why}") for each in unreadable]
    problems = sorted(problems + [_problem(use, known) for use in unknown])
    if args.json:
        render.print_json(
            {
                "problems": [problem._asdict() for problem in problems],
                "keys": sorted({use.key for use in uses if use.key is not None}),
                "computed": [{"file": use.path, "line": use.line} for use in computed],
            }
        )
    else:
        for problem in problems:
            say(f"{problem.file}:{problem.line}: {problem.problem}")
        say(_summary(uses, unknown, computed), error=True)
    return 1 if problems else 0


def _problem(use: Use, known: list[str]) -> _Problem:
    key = use.key or ""
    similar = next(iter(difflib.get_close_matches(key, known, 1)), "")
    meant = f'; did you mean "{similar}"?' if similar else ""
    return _Problem(use.path, use.line, f'unknown flag "{key}"{meant}', key, similar)


def _summary(uses: list[Use], unknown: list[Use], computed: list[Use]) -> str:
    keys = {use.key for use in uses if use.key is not None}
    lines = [f"{len(uses) - len(computed)} uses of {len(keys)} keys; {len({use.key for use in unknown})} unknown"]
    if computed:
        places = ", ".join(f"{use.path}:{use.line}" for use in computed[:_MAX_NAMED])
        more = ", ..." if len(computed) > _MAX_NAMED else ""
        lines.append(f"computed, so not checked: {places}{more}")
    return "\n".join(lines)


def _of_file(name: str, flag_set: str) -> Iterator[str]:
    """Yield the keys in a flagd file. Raises UsageError for one that cannot be used."""
    try:
        content = checked(name, Path(name).read_bytes(), flag_set)
    except OSError as error:
        raise UsageError(f"--flags {name}: {type(error).__name__}") from None
    if content.violations:
        raise UsageError(f"--flags {name}:{content.violations[0]}; for all of it run: flagsvc validate")
    yield from (flag.key for flag in content.flags)


def _of_server(args: argparse.Namespace) -> Iterator[str]:
    """Yield the keys of the server's set. Raises UsageError if it does not answer: then nothing can be said."""
    find_server(args, os.environ)
    request = pb.ListFlagsRequest(flag_set=args.flag_set, page_size=MAX_PAGE)
    with channel_to(args, os.environ) as channel:
        try:
            for page in pages(pb_grpc.FlagServiceStub(channel).ListFlags, request, args.timeout):
                yield from (flag.key for flag in page.flags)
        except grpc.RpcError as error:
            raise UsageError(
                f"the flags cannot be listed at {args.address}: {error.details()} ({error.code().name});"
                " or name a file: --flags FILE"
            ) from None
