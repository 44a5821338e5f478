"""The arguments of `flagsvc schedule` and `flagsvc schedules`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from flagsvc.cli import options, run
from flagsvc.cli.options import MANY, Verbs

_STATES = ("pending", "held", "executed", "skipped", "failed", "missed", "cancelled")
_ID = "the schedule's id"


def _schedule(parser: argparse.ArgumentParser) -> None:
    options.add_flag_call(parser)
    parser.add_argument("fields", nargs="*", metavar="FIELD=VALUE", help="the change; as those of `set`")
    parser.add_argument(
        "--status",
        type=_status,
        choices=("ENABLED", "DISABLED", "BETA", "DEPRECATED"),
        help="the new status; the same as status=STATUS",
    )
    _add_when(parser, needed=True)
    options.add_author(parser)


def _schedules(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    listing = _verb(verbs, "list", "List schedules that have not ended, by time.", "list_schedules")
    listing.add_argument("key", metavar="KEY", nargs="?", help="only those of this flag [all flags of the set]")
    listing.add_argument("--all", action="store_true", help="those that have ended too")
    listing.add_argument("--state", action="append", choices=_STATES, help="only those in this state; repeatable")
    show = _verb(verbs, "show", "Show a schedule.", "show")
    show.add_argument("id", metavar="ID", help=_ID)
    cancel = _verb(verbs, "cancel", "End a schedule before its time. Idempotent.", "cancel")
    _add_change(cancel)
    about = "Execute a schedule now, whatever has changed: one that is pending, held, missed or failed."
    execute = _verb(verbs, "execute", about, "execute")
    _add_change(execute)
    options.add_wait(execute)
    update = _verb(verbs, "update", "Move a schedule, or plan one again that is held.", "update")
    _add_change(update)
    _add_when(update, needed=False)


def _verb(verbs: Verbs, name: str, about: str, function: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=about, description=about)
    parser.set_defaults(run=run.in_module("schedule_commands", function))
    options.add_set_call(parser, forms=MANY if name == "list" else options.ONE)
    return parser


def _add_change(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help=_ID)
    options.add_author(parser)
    parser.add_argument("--etag", default="", help="only if the schedule still has this etag")


def _add_when(parser: argparse.ArgumentParser, *, needed: bool) -> None:
    when = parser.add_mutually_exclusive_group(required=needed)
    when.add_argument("--at", metavar="TIME", help="local time in the zone, such as 2026-12-01T09:00")
    when.add_argument("--in", dest="after", metavar="TIME", help="time from now: 90d, 12h or 30m")
    parser.add_argument("--zone", metavar="ZONE", help="IANA time zone, such as Europe/Berlin [UTC]")
    parser.add_argument(
        "--on-conflict",
        choices=("hold", "apply", "skip"),
        help="if a field was changed meanwhile: wait for a decision, change it all the same, or leave it [hold]",
    )
    parser.add_argument(
        "--max-lateness", metavar="TIME", help="how late it may still be made, if the store was away: 1s to 7d [1h]"
    )


def _status(word: str) -> str:
    return {"ON": "ENABLED", "OFF": "DISABLED"}.get(word.upper(), word.upper())


def _no_verb(_args: argparse.Namespace) -> int:
    raise AssertionError  # the parser has refused it


COMMANDS: Mapping[str, run.Described] = {
    "schedule": run.Described(run.in_module("schedule_commands", "create"), _schedule),
    "schedules": run.Described(_no_verb, _schedules),
}
