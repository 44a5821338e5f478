"""The arguments of the commands about replicas, files, profiles and the command line itself."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from flagsvc.cli import options, run
from flagsvc.cli.options import MANY

BUCKETINGS = (2, 3)
STRICT = "a warning is an error: odd flags, which are served as flagd serves them, are refused"
_LONG_S = 60.0
_REPLICAS = "replica_commands"


def _status(parser: argparse.ArgumentParser) -> None:
    options.add_call(parser, forms=MANY)


def _verify(parser: argparse.ArgumentParser) -> None:
    options.add_call(parser, timeout_s=_LONG_S, forms=MANY)
    parser.add_argument("--repair", action="store_true", help="replace the entries that differ")


def _resync(parser: argparse.ArgumentParser) -> None:
    options.add_call(parser, timeout_s=_LONG_S)
    parser.add_argument("--confirm", action="store_true", help="do it; definitions may go back to older revisions")


def _bucketing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "version", nargs="?", type=int, choices=BUCKETINGS, help="2: as flagd's daemon; 3: values of all types"
    )
    options.add_set_call(parser, timeout_s=_LONG_S)
    parser.add_argument("--force", action="store_true", help="do it: people get other variants")
    options.add_author(parser)


def _doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", metavar="URL", help="store to try [FLAGSVC_STORE_URL; sqlite:///flagsvc.db]")
    parser.add_argument("--cache", metavar="URL", help="shared cache to try [FLAGSVC_CACHE_URL; none]")
    parser.add_argument("--timeout", metavar="S", type=float, default=3.0, help="seconds to wait for an answer [3]")
    options.add_output(parser, MANY)


def _import(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help="flagd's JSON or YAML (.yaml, .yml), or lines or an array of Extended JSON; - for standard input",
    )
    what.add_argument("--examples", action="store_true", help="import the five example flags of flagsvc's documents")
    parser.add_argument(
        "--cache", metavar="URL", help="shared cache to update, and to announce changes on [FLAGSVC_CACHE_URL; none]"
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would change, without writing")
    parser.add_argument(
        "--prune", action="store_true", help="delete the flags of the file's sets that are not in the file"
    )
    parser.add_argument(
        "--if-empty", action="store_true", help="do nothing if the store has, or ever had, a flag; never change one"
    )
    parser.add_argument("--strict", action="store_true", help=STRICT)
    options.add_author(parser)
    parser.add_argument("--flag-set", "--set", metavar="SET", dest="flag_set", help="flag set [from the file; default]")
    _add_target(parser)


def _export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", metavar="FILE", default="-", help="file to write, replaced atomically [standard output]"
    )
    parser.add_argument(
        "--format",
        choices=("flagd", "flagd-yaml", "mongoexport"),
        help="file format [from the name of --output: .json is flagd, .yaml and .yml are flagd-yaml, else mongoexport]",
    )
    options.add_set(parser)
    _add_target(parser)


def _check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", type=Path, help="Python files, or folders with them")
    parser.add_argument("--flags", metavar="FILE", help="flagd file with the known flags, in place of a server")
    options.add_set_call(parser)


def _validate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--strict", action="store_true", help=STRICT)
    parser.add_argument("files", nargs="*", metavar="FILE", help="flagd's JSON or YAML, or mongoexport lines")
    options.add_set(parser)
    _add_target(parser)


def _add_target(parser: argparse.ArgumentParser) -> None:
    """Add the store or the server on which a command works, and the form of its output."""
    parser.add_argument("--store", metavar="URL", help="work on a store, not through a server [FLAGSVC_STORE_URL]")
    options.add_server(parser)
    options.add_timeout(parser, 30.0)
    options.add_output(parser)


def _profile(parser: argparse.ArgumentParser) -> None:
    options.add_output(parser, MANY)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    new = verbs.add_parser("add", help="add a profile, or replace it")
    new.add_argument("name", metavar="NAME")
    new.add_argument("--address", metavar="HOST:PORT", required=True, help="address of the server, or unix:PATH")
    new.add_argument("--token-file", metavar="FILE", help="file with the token; the token itself is not kept here")
    new.add_argument("--flag-set", "--set", metavar="SET", dest="flag_set", help="flag set [default]")
    options.add_tls(new)
    new.add_argument("--use", action="store_true", help="make it the current profile, as the first one always is")
    new.set_defaults(run=run.in_module("profiles", "add"))
    listing = verbs.add_parser("list", help="list profiles")
    options.add_output(listing, MANY)
    listing.set_defaults(run=run.in_module("profiles", "show"))
    for verb, about in (("use", "make a profile the current one"), ("remove", "remove a profile")):
        chosen = verbs.add_parser(verb, help=about)
        chosen.add_argument("name", metavar="NAME", help="a profile")
        chosen.set_defaults(run=run.in_module("profiles", verb))


def _completion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell that reads it")


def _help(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("topic", nargs="*", metavar="COMMAND", help="a command, or exit-codes")


def _nothing(_parser: argparse.ArgumentParser) -> None:
    """Add nothing."""


COMMANDS: Mapping[str, run.Described] = {
    "status": run.Described(run.on_server(_REPLICAS, "status"), _status),
    "verify": run.Described(run.on_server(_REPLICAS, "verify"), _verify),
    "resync": run.Described(run.on_server(_REPLICAS, "resync"), _resync),
    "bucketing": run.Described(run.on_server(_REPLICAS, "bucketing"), _bucketing),
    "doctor": run.Described(run.in_module("doctor", "doctor"), _doctor),
    "import": run.Described(run.in_module("transfer", "import_file"), _import),
    "export": run.Described(run.in_module("transfer", "export_file"), _export),
    "check": run.Described(run.in_module("check", "check"), _check),
    "validate": run.Described(run.in_module("flagd_files", "validate"), _validate),
    "profile": run.Described(run.in_module("profiles", "show"), _profile),
    "completion": run.Described(run.in_module("completion", "show_script"), _completion),
    "help": run.Described(run.in_module("help", "show_help"), _help),
    "version": run.Described(run.in_module("help", "show_version"), _nothing),
}
