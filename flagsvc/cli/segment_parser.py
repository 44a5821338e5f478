"""The arguments of `flagsvc segment` and `flagsvc segments`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from flagsvc.cli import options, run
from flagsvc.cli.options import MANY, Verbs

_NAME = "the segment's name: letters, digits, _ and -"
_RULE = "the rule: JSON, @FILE for a file, or @- for standard input"


def _segments(parser: argparse.ArgumentParser) -> None:
    options.add_set_call(parser, forms=MANY)


def _segment(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    get = _verb(verbs, "get", "Show a segment, and the flags and segments that use it.")
    get.add_argument("name", metavar="NAME", help=_NAME)
    create = _verb(verbs, "create", "Create a segment.", "create")
    create.add_argument("name", metavar="NAME", help=_NAME)
    create.add_argument("rule", metavar="RULE", help=_RULE)
    _add_description(create)
    options.add_author(create)
    options.add_dry_run(create)
    change = _verb(verbs, "set", "Change a segment, and every flag that uses it, in one transaction.", "set_fields")
    change.add_argument("name", metavar="NAME", help=_NAME)
    change.add_argument("rule", metavar="RULE", nargs="?", help=_RULE)
    _add_description(change)
    options.add_write(change, etag=True)
    options.add_dry_run(change)
    delete = _verb(verbs, "delete", "Delete a segment that nothing uses.", "delete")
    delete.add_argument("name", metavar="NAME", help=_NAME)
    delete.add_argument("--etag", default="", help="delete the segment only if it still has this etag")
    options.add_author(delete)
    options.add_dry_run(delete)


def _verb(verbs: Verbs, name: str, about: str, function: str = "show") -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=about, description=about)
    parser.set_defaults(run=run.in_module("segment_commands", function))
    options.add_set_call(parser, timeout_s=10.0)
    return parser


def _add_description(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--description", metavar="TEXT", help="description for people")


def _no_verb(_args: argparse.Namespace) -> int:
    raise AssertionError  # the parser has refused it


COMMANDS: Mapping[str, run.Described] = {
    "segments": run.Described(run.in_module("segment_commands", "list_segments"), _segments),
    "segment": run.Described(_no_verb, _segment),
}
