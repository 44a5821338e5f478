"""Options that several commands share."""

from __future__ import annotations

import argparse
import os

from flagsvc.cli.tls import add_tls

DEFAULT_WAIT_S = 5.0


def add_call(parser: argparse.ArgumentParser, timeout_s: float = 5.0) -> None:
    """Add the server's address, TLS, the time-out and the output format."""
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="address of the server, or unix:PATH"
        " [FLAGSVC_ADDRESS; FLAGSVC_HOST and FLAGSVC_PORT on this machine; 127.0.0.1:8013]",
    )
    parser.add_argument(
        "--timeout", metavar="S", type=float, default=timeout_s, help=f"seconds to wait for a response [{timeout_s:g}]"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_tls(parser)


def add_set_call(parser: argparse.ArgumentParser, timeout_s: float = 5.0) -> None:
    """Add the options of a call about one flag set."""
    add_call(parser, timeout_s)
    parser.add_argument("--flag-set", metavar="SET", default="default", help="flag set [default]")


def add_flag_call(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a call about one flag."""
    parser.add_argument("key", metavar="KEY", help="the flag's key")
    add_set_call(parser)


def add_author(parser: argparse.ArgumentParser) -> None:
    """Add who makes a change, and why."""
    parser.add_argument(
        "--actor", help="who makes the change, or with a token on whose behalf; recorded in the history [$USER; nobody]"
    )
    parser.add_argument("--reason", default="", help="why the change is made; recorded in the history")


def add_write(parser: argparse.ArgumentParser, *, etag: bool) -> None:
    """Add the options of a write: its author, the etag that the flag must still have, and the level to wait for."""
    add_author(parser)
    if etag:
        parser.add_argument("--etag", default="", help="change the flag only if it still has this etag")
    add_wait(parser)


def add_wait(parser: argparse.ArgumentParser) -> None:
    """Add the level of a write to wait for."""
    parser.add_argument(
        "--wait-for",
        choices=("stored", "cached", "applied"),
        help="level to wait for: stored in the store, cached in the shared cache too, or applied by every live replica;"
        " exit status 3 if the change is stored but did not reach the level in time [cached, without a report]",
    )
    parser.add_argument(
        "--wait-timeout",
        metavar="S",
        type=float,
        help=f"seconds to wait for the level, at most 60 [{DEFAULT_WAIT_S:g}]",
    )


def add_min_revision(parser: argparse.ArgumentParser) -> None:
    """Add the least revision that the response must include."""
    parser.add_argument(
        "--min-revision",
        metavar="N",
        type=int,
        default=0,
        help="revision returned by a write: fail rather than answer from an older one",
    )


def actor_of(args: argparse.Namespace) -> str:
    """Return who makes a change. A token says who calls, so nobody else is named unless somebody asks for it."""
    if args.actor is not None:
        return str(args.actor)
    has_token = any(os.environ.get(name, "").strip() for name in ("FLAGSVC_TOKEN", "FLAGSVC_TOKEN_FILE"))
    return "" if has_token else os.environ.get("USER", "")
