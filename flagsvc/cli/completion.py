"""Shell completion of commands, options, states, fields, profiles, and the keys of the server's flags."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from typing import Any

import argcomplete
import argcomplete.shell_integration
from argcomplete.completers import BaseCompleter, FilesCompleter

from flagsvc.cli.exit_codes import OK
from flagsvc.cli.parsing import Parser

KEYS_S = 1.0
"""Seconds that a server has to name its flags' keys."""
_PATHS = ("FILE", "URL")


def complete(parser: argparse.ArgumentParser, **more: Any) -> None:
    """Print what may stand at the cursor of the shell's command line, and end the process."""
    for action in _actions(parser):
        if action.choices is None and action.nargs != 0:
            setattr(action, "completer", _completer_of(action))  # noqa: B010  argcomplete reads it, argparse has none
    argcomplete.autocomplete(parser, default_completer=_Nothing(), **more)


def show_script(args: argparse.Namespace) -> int:
    """Print the script for a shell."""
    print(argcomplete.shell_integration.shellcode(["flagsvc"], shell=args.shell))
    return OK


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    if isinstance(parser, Parser):
        parser.fill()
    for action in parser._actions:  # noqa: SLF001  argparse lists them nowhere else
        yield action
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for child in action.choices.values():
                yield from _actions(child)


def _completer_of(action: argparse.Action) -> Callable[..., Any]:
    if action.dest == "profile":
        return _profiles
    if action.dest == "key":
        return _keys
    if action.dest == "enabled":
        return lambda **_: ("on", "off")
    if action.dest == "fields":
        return _fields
    if action.metavar in _PATHS or action.dest == "file":
        return FilesCompleter()
    return _Nothing()


class _Nothing(BaseCompleter):
    """Offers nothing, for texts that nobody can know."""

    def __call__(self, **_: Any) -> tuple[str, ...]:
        return ()


def _profiles(**_: Any) -> list[str]:
    from flagsvc.cli import profiles  # noqa: PLC0415  each completer imports what it needs, for quick others

    return list(profiles.load(os.environ)["profiles"])


def _fields(prefix: str, **_: Any) -> list[str]:
    from flagsvc.core.model import STORED_NAMES, WRITABLE, Status  # noqa: PLC0415

    if prefix.startswith("status="):
        return [f"status={status}" for status in Status]
    return [f"{STORED_NAMES[name]}=" for name in WRITABLE]


def _keys(parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """Return the keys of the server's flags; none where it cannot be asked."""
    from flagsvc.cli import profiles  # noqa: PLC0415
    from flagsvc.cli.calls import Stub, keys_of  # noqa: PLC0415
    from flagsvc.cli.channels import channel_to, find_server  # noqa: PLC0415

    try:
        profiles.apply(parsed_args, os.environ)
        find_server(parsed_args, os.environ)
        with channel_to(parsed_args, os.environ) as channel:
            return keys_of(Stub(channel), parsed_args.flag_set or "default", KEYS_S)
    except Exception:  # noqa: BLE001  whatever it is, a shell that completes shows no error
        return []
