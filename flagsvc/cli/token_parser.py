"""The arguments of `flagsvc token` and `flagsvc whoami`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from flagsvc.cli import options, run
from flagsvc.cli.options import MANY, Verbs
from flagsvc.core.access.roles import Role


def _token(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    create = _verb(verbs, "create", "Make a token and print its secret, once.", "create")
    create.add_argument("name", metavar="NAME", help="who uses it")
    _add_fields(create, named=False)
    _add_output(create)
    create.add_argument(
        "--if-none",
        action="store_true",
        help="do nothing if the store has, or ever had, a token; safe when two programs start together",
    )
    create.add_argument(
        "--hash-only",
        action="store_true",
        help="store nothing: print the entry for a server's FLAGSVC_TOKENS_FILE; the secret goes to --output",
    )
    create.set_defaults(disabled=None)
    listing = _verb(verbs, "list", "List tokens.", "list_tokens")
    listing.add_argument("--all", action="store_true", help="revoked ones too")
    update = _verb(verbs, "update", "Change a token.", "update")
    update.add_argument("id", metavar="ID", help="the token's id")
    _add_fields(update, named=True)
    update.add_argument("--disable", dest="disabled", action="store_true", default=None, help="refuse it for now")
    update.add_argument("--enable", dest="disabled", action="store_false", help="accept it again")
    rotate = _verb(verbs, "rotate", "Give a token a new secret and print it, once.", "rotate")
    rotate.add_argument("id", metavar="ID", help="the token's id")
    rotate.add_argument(
        "--overlap", default="1h", metavar="TIME", help="how long the secret before stays valid: 0s, 30m, 1d [1h]"
    )
    _add_output(rotate)
    revoke = _verb(verbs, "revoke", "End a token for ever, with every stream of it.", "revoke")
    revoke.add_argument("id", metavar="ID", help="the token's id")
    _add_denials(verbs)


def _add_denials(verbs: Verbs) -> None:
    """Add the verbs about identities that others prove."""
    about = "Refuse the subject of a JWT, or a name of client certificates, with every stream of it."
    deny = _verb(verbs, "deny", about, "deny", module="denial_commands")
    who = "jwt:ISSUER|SUBJECT, certificate:uri:NAME or certificate:dns:NAME, as flagsvc history names the caller"
    deny.add_argument("identity", metavar="IDENTITY", help=who)
    deny.add_argument("--reason", default="", help="why, for people")
    deny.add_argument("--expires", metavar="TIME", help="time from now: 90d, 12h; or never [never]")
    allow = _verb(verbs, "allow", "Refuse a denied identity no more.", "allow", module="denial_commands")
    allow.add_argument("identity", metavar="IDENTITY", help="as it was denied")
    denied = _verb(verbs, "denied", "List denied identities.", "list_denied", module="denial_commands")
    denied.add_argument("--all", action="store_true", help="those that were lifted or have expired too")


def _verb(
    verbs: Verbs, name: str, about: str, function: str, module: str = "token_commands"
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=about, description=about)
    parser.set_defaults(run=run.in_module(module, function))
    options.add_call(parser, forms=MANY if name in ("list", "denied") else options.ONE)
    options.add_wait(parser)
    parser.add_argument(
        "--store",
        metavar="URL",
        nargs="?",
        const="",
        help="work on a store, not on a server; without URL on that of FLAGSVC_STORE_URL",
    )
    return parser


def _add_fields(parser: argparse.ArgumentParser, *, named: bool) -> None:
    if named:
        parser.add_argument("--name", help="who uses it")
    parser.add_argument("--role", required=not named, choices=[role.value for role in Role], help="what it may do")
    parser.add_argument(
        "--flag-set",
        action="append",
        metavar="SET",
        help="flag set, prefix such as team-*, or * for all; repeatable; admin and operate are always for all",
    )
    parser.add_argument(
        "--rate", metavar="N/s", help="evaluations a second, as in 500/s; or default, for the server's rate [default]"
    )
    others = parser.add_mutually_exclusive_group()
    others.add_argument(
        "--for-others", dest="for_others", action="store_true", default=None, help="it may name on whose behalf it acts"
    )
    if named:
        others.add_argument("--not-for-others", dest="for_others", action="store_false", help="it may not any more")
    headers = parser.add_mutually_exclusive_group()
    headers.add_argument(
        "--context-headers",
        dest="context_headers",
        action="store_true",
        default=None,
        help="its headers set the context fields of FLAGSVC_CONTEXT_FROM_HEADERS",
    )
    if named:
        headers.add_argument(
            "--no-context-headers", dest="context_headers", action="store_false", help="they do not any more"
        )
    parser.add_argument("--expires", metavar="TIME", help="time from now: 90d, 12h; or never [never]")


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", metavar="FILE", help="new file for the secret, which only its owner can read [standard output]"
    )


def _no_verb(_args: argparse.Namespace) -> int:
    raise AssertionError  # the parser has refused it


COMMANDS: Mapping[str, run.Described] = {
    "token": run.Described(_no_verb, _token),
    "whoami": run.Described(run.in_module("token_commands", "whoami"), options.add_call),
}
