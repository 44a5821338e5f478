"""Options that several commands share, and how a command is added."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

DEFAULT_ADDRESS = "127.0.0.1:8013"
DEFAULT_WAIT_S = 5.0


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    work: Callable[[argparse.Namespace], int],
    about: str,
    examples: str,
) -> argparse.ArgumentParser:
    """Add a command that `work` runs; `examples` stand below its help."""
    parser = commands.add_parser(
        name,
        help=about,
        description=about,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=work)
    return parser


def add_call(parser: argparse.ArgumentParser, timeout_s: float = 5.0) -> None:
    """Which server to ask, how long, and how to print."""
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        default=os.environ.get("FLAGSVC_ADDRESS", DEFAULT_ADDRESS),
        help=f"server to ask [FLAGSVC_ADDRESS; {DEFAULT_ADDRESS}]",
    )
    parser.add_argument(
        "--timeout",
        metavar="S",
        type=float,
        default=timeout_s,
        help=f"seconds to wait for an answer [{timeout_s:g}]",
    )
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def add_set_call(parser: argparse.ArgumentParser) -> None:
    """A call that is about one flag set."""
    add_call(parser)
    parser.add_argument("--flag-set", metavar="SET", default="default", help="set the flag belongs to [default]")


def add_flag_call(parser: argparse.ArgumentParser) -> None:
    """A call that is about one flag."""
    parser.add_argument("key", metavar="KEY", help="the flag's key")
    add_set_call(parser)


def add_author(parser: argparse.ArgumentParser) -> None:
    """Who changes, and why."""
    parser.add_argument(
        "--actor", default=os.environ.get("USER", ""), help="who makes the change, for the history [$USER]"
    )
    parser.add_argument("--reason", default="", help="why, for the history")


def add_etag(parser: argparse.ArgumentParser) -> None:
    """Which state is meant to be changed."""
    parser.add_argument("--etag", default="", help="refuse unless the flag still has this etag")


def add_waiting(parser: argparse.ArgumentParser) -> None:
    """How far a change must have spread."""
    parser.add_argument(
        "--wait-for",
        choices=("stored", "cached", "applied"),
        help="how far the change must have spread: stored, in the shared cache too, or applied by every live replica;"
        " exit status 3 when it is stored and did not get so far in time [cached, but not told]",
    )
    parser.add_argument(
        "--wait-timeout",
        metavar="S",
        type=float,
        help=f"most seconds to wait for that, up to 60 [{DEFAULT_WAIT_S:g}]",
    )


def add_min_revision(parser: argparse.ArgumentParser) -> None:
    """What the answer must contain."""
    parser.add_argument(
        "--min-revision",
        metavar="N",
        type=int,
        default=0,
        help="revision that a write answered: never answer from anything older, rather fail",
    )
