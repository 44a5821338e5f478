"""The arguments of the commands about replicas, files, profiles and the command line itself."""

from __future__ import annotations

import argparse
from pathlib import Path

from flagsvc.cli import options, run
from flagsvc.cli.options import MANY, Add, Commands

BUCKETINGS = (2, 3)
STRICT = "a warning is an error: odd flags, which are served as flagd serves them, are refused"


def add_to(commands: Commands, add: Add) -> None:
    """Add the commands."""
    _add_replicas(commands, add)
    _add_transfers(commands, add)
    _add_own(commands, add)


def _add_replicas(commands: Commands, add: Add) -> None:
    status = add(commands, "status", run.on_server("replica_commands", "status"))
    options.add_call(status, forms=MANY)
    verify = add(commands, "verify", run.on_server("replica_commands", "verify"))
    options.add_call(verify, timeout_s=60.0, forms=MANY)
    verify.add_argument("--repair", action="store_true", help="replace the entries that differ")
    resync = add(commands, "resync", run.on_server("replica_commands", "resync"))
    options.add_call(resync, timeout_s=60.0)
    resync.add_argument("--confirm", action="store_true", help="do it; definitions may go back to older revisions")
    bucketing = add(commands, "bucketing", run.on_server("replica_commands", "bucketing"))
    bucketing.add_argument(
        "version", nargs="?", type=int, choices=BUCKETINGS, help="2: as flagd's daemon; 3: values of all types"
    )
    options.add_set_call(bucketing, timeout_s=60.0)
    bucketing.add_argument("--force", action="store_true", help="do it: people get other variants")
    options.add_author(bucketing)
    doctor = add(commands, "doctor", run.in_module("doctor", "doctor"))
    doctor.add_argument("--store", metavar="URL", help="store to try [FLAGSVC_STORE_URL; sqlite:///flagsvc.db]")
    doctor.add_argument("--cache", metavar="URL", help="shared cache to try [FLAGSVC_CACHE_URL; none]")
    doctor.add_argument("--timeout", metavar="S", type=float, default=3.0, help="seconds to wait for an answer [3]")
    options.add_output(doctor, MANY)


def _add_transfers(commands: Commands, add: Add) -> None:
    importing = add(commands, "import", run.in_module("transfer", "import_file"))
    what = importing.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help="flagd's JSON or YAML (.yaml, .yml), or lines or an array of Extended JSON; - for standard input",
    )
    what.add_argument("--examples", action="store_true", help="import the five example flags of flagsvc's documents")
    importing.add_argument(
        "--cache", metavar="URL", help="shared cache to update, and to announce changes on [FLAGSVC_CACHE_URL; none]"
    )
    importing.add_argument("--dry-run", action="store_true", help="show what would change, without writing")
    importing.add_argument(
        "--prune", action="store_true", help="delete the flags of the file's sets that are not in the file"
    )
    importing.add_argument(
        "--if-empty", action="store_true", help="do nothing if the store has, or ever had, a flag; never change one"
    )
    importing.add_argument("--strict", action="store_true", help=STRICT)
    options.add_author(importing)
    exporting = add(commands, "export", run.in_module("transfer", "export_file"))
    exporting.add_argument(
        "--output", metavar="FILE", default="-", help="file to write, replaced atomically [standard output]"
    )
    exporting.add_argument(
        "--format",
        choices=("flagd", "flagd-yaml", "mongoexport"),
        help="file format [from the name of --output: .json is flagd, .yaml and .yml are flagd-yaml, else mongoexport]",
    )
    importing.add_argument(
        "--flag-set", "--set", metavar="SET", dest="flag_set", help="flag set [from the file; default]"
    )
    options.add_set(exporting)
    for parser in (importing, exporting):
        _add_target(parser)
        options.add_output(parser)
    checking = add(commands, "check", run.in_module("check", "check"))
    checking.add_argument("paths", nargs="+", metavar="PATH", type=Path, help="Python files, or folders with them")
    checking.add_argument("--flags", metavar="FILE", help="flagd file with the known flags, in place of a server")
    options.add_set_call(checking)
    validating = add(commands, "validate", run.in_module("flagd_files", "validate"))
    validating.add_argument("--strict", action="store_true", help=STRICT)
    validating.add_argument("files", nargs="*", metavar="FILE", help="flagd's JSON or YAML, or mongoexport lines")
    _add_target(validating)
    options.add_set(validating)
    options.add_output(validating)


def _add_target(parser: argparse.ArgumentParser) -> None:
    """Add the store or the server on which a command works."""
    parser.add_argument("--store", metavar="URL", help="work on a store, not through a server [FLAGSVC_STORE_URL]")
    options.add_server(parser)
    options.add_timeout(parser, 30.0)


def _add_own(commands: Commands, add: Add) -> None:
    profile = add(commands, "profile", run.in_module("profiles", "show"))
    verbs = profile.add_subparsers(dest="verb", metavar="VERB")
    options.add_output(profile, MANY)
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
        parser = verbs.add_parser(verb, help=about)
        parser.add_argument("name", metavar="NAME", help="a profile")
        parser.set_defaults(run=run.in_module("profiles", verb))
    completion = add(commands, "completion", run.in_module("completion", "show_script"))
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell that reads it")
    helping = add(commands, "help", run.in_module("help", "show_help"))
    helping.add_argument("topic", nargs="*", metavar="COMMAND", help="a command, or exit-codes")
    add(commands, "version", run.in_module("help", "show_version"))
