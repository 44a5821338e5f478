"""Options that several commands share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any, TypeAlias

from flagsvc.cli.terminal import Form

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001  argparse has no other name

DEFAULT_WAIT_S = 5.0
TLS_OPTIONS = {
    "--tls": ("FLAGSVC_TLS", "use TLS, with a server whose certificate is of a public CA"),
    "--tls-ca": ("FLAGSVC_TLS_CA", "PEM file with the CA of the server's certificate; use TLS"),
    "--tls-name": ("FLAGSVC_TLS_NAME", "name in the server's certificate, if it is not the host of the address"),
    "--tls-client-cert": ("FLAGSVC_TLS_CLIENT_CERT", "PEM file with the certificate to show to the server"),
    "--tls-client-key": ("FLAGSVC_TLS_CLIENT_KEY", "PEM file with the key of that certificate"),
}
"""Option -> the variable that it takes the place of, and help."""
ONE = (Form.JSON, Form.YAML)
MANY = (Form.WIDE, Form.JSON, Form.YAML, Form.NAME)


class _Form(argparse.Action):
    """Sets the form of the output, and whether it is for programs."""

    def __call__(self, _: Any, args: argparse.Namespace, value: Any, option: str | None = None) -> None:
        args.form = Form.JSON.value if option == "--json" else value
        args.json = args.form in (Form.JSON, Form.YAML)


def add_output(parser: argparse.ArgumentParser, forms: Sequence[Form] = ONE) -> None:
    """Add the form of the output."""
    parser.set_defaults(form=None, json=False)
    parser.add_argument("--json", action=_Form, nargs=0, dest="form", help="print JSON, errors too; as -o json")
    names = [form.value for form in forms]
    parser.add_argument(
        "-o", action=_Form, dest="form", choices=names, help="form of the output [a table; in a pipe tab-separated]"
    )


def add_call(parser: argparse.ArgumentParser, timeout_s: float = 5.0, forms: Sequence[Form] = ONE) -> None:
    """Add the server's address, TLS, the time-out and the output format."""
    add_server(parser)
    add_timeout(parser, timeout_s)
    add_output(parser, forms)


def add_timeout(parser: argparse.ArgumentParser, timeout_s: float) -> None:
    """Add the seconds that a call may take."""
    parser.add_argument(
        "--timeout", metavar="S", type=float, default=timeout_s, help=f"seconds to wait for a response [{timeout_s:g}]"
    )


def add_server(parser: argparse.ArgumentParser) -> None:
    """Add where the server is, and TLS."""
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="address of the server, or unix:PATH"
        " [FLAGSVC_ADDRESS; FLAGSVC_HOST and FLAGSVC_PORT on this machine; 127.0.0.1:8013]",
    )
    parser.add_argument(
        "--profile", metavar="NAME", help="named server and token: see flagsvc profile [FLAGSVC_PROFILE]"
    )
    add_tls(parser)


def add_tls(parser: argparse.ArgumentParser) -> None:
    """Add the options of an encrypted connection."""
    group = parser.add_argument_group("TLS", "On the server's own machine, FLAGSVC_TLS_CERT alone is enough.")
    for option, (name, about) in TLS_OPTIONS.items():
        if option == "--tls":
            group.add_argument(option, action="store_true", help=f"{about} [{name}]")
        else:
            metavar = "NAME" if option == "--tls-name" else "FILE"
            group.add_argument(option, metavar=metavar, default="", help=f"{about} [{name}]")


def add_set_call(parser: argparse.ArgumentParser, timeout_s: float = 5.0, forms: Sequence[Form] = ONE) -> None:
    """Add the options of a call about one flag set."""
    add_call(parser, timeout_s, forms)
    add_set(parser)


def add_set(parser: argparse.ArgumentParser) -> None:
    """Add the flag set; `profiles.apply` puts the default in its place."""
    parser.add_argument(
        "--flag-set", "--set", metavar="SET", dest="flag_set", help="flag set [FLAGSVC_FLAG_SET; default]"
    )
    parser.set_defaults(needs_set=True)


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


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    """Add the check of a change that writes nothing."""
    parser.add_argument("--dry-run", action="store_true", help="check the change and show it, without writing")


def add_min_revision(parser: argparse.ArgumentParser) -> None:
    """Add the least revision that the response must include."""
    parser.add_argument(
        "--min-revision",
        metavar="N",
        type=int,
        default=0,
        help="revision returned by a write: fail rather than answer from an older one",
    )


def count(word: str) -> int:
    """Read a number of entries. Raises argparse.ArgumentTypeError."""
    if not word.isdecimal() or not int(word):
        raise argparse.ArgumentTypeError(f"{word!r} must be a number from 1 on")
    return int(word)


def actor_of(args: argparse.Namespace) -> str:
    """Return who makes a change. A token says who calls, so nobody else is named unless somebody asks for it."""
    if args.actor is not None:
        return str(args.actor)
    has_token = any(os.environ.get(name, "").strip() for name in ("FLAGSVC_TOKEN", "FLAGSVC_TOKEN_FILE"))
    return "" if has_token else os.environ.get("USER", "")
