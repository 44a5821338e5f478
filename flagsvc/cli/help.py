"""`flagsvc help` and `flagsvc version`."""

from __future__ import annotations

import argparse

from flagsvc import __version__
from flagsvc.cli.exit_codes import EXIT_CODES, OK
from flagsvc.cli.parser import build_parser

_TOPICS = "exit-codes"


def show_help(args: argparse.Namespace) -> int:
    """Print the help of the command line, of a command, or of the exit codes."""
    if args.topic == [_TOPICS]:
        for code, about in EXIT_CODES.items():
            print(f"{code:>3}  {about}")
        return OK
    build_parser().parse_args([*args.topic, "--help"])
    return OK  # not reached: --help ends the process


def show_version(_args: argparse.Namespace) -> int:
    """Print the version."""
    print(f"flagsvc {__version__}")
    return OK
