"""The arguments of the commands about flags, and of `health`."""

from __future__ import annotations

import argparse

from flagsvc.cli import options, run
from flagsvc.cli.options import MANY, Add, Commands

_STATES = {
    **dict.fromkeys(("on", "true", "enable", "enabled"), True),
    **dict.fromkeys(("off", "false", "disable", "disabled"), False),
}
_FLAG, _WRITES = "flag_commands", "plain text for texts, JSON for all others, @FILE for a file; FIELD.NAME for a part"


def add_to(commands: Commands, add: Add) -> None:
    """Add the commands."""
    _add_reads(commands, add)
    _add_history(commands, add)
    _add_writes(commands, add)


def _add_reads(commands: Commands, add: Add) -> None:
    evaluate = add(commands, "evaluate", run.on_server(_FLAG, "evaluate"))
    options.add_flag_call(evaluate)
    evaluate.add_argument("--targeting-key", default="", metavar="KEY", help="id of whom the flag is evaluated for")
    evaluate.add_argument(
        "--attribute",
        action="append",
        default=[],
        metavar="NAME=TEXT",
        help="context field with a text, or NAME:=JSON with a number, true, false, an object or a list; repeatable",
    )
    evaluate.add_argument(
        "--context", metavar="JSON", help="the context as one JSON object, with targetingKey as a field"
    )
    evaluate.add_argument(
        "--type", choices=("boolean", "string", "integer", "float", "object"), help="expected type of the value"
    )
    evaluate.add_argument("--explain", action="store_true", help="show step by step how the result was reached")
    options.add_min_revision(evaluate)
    get = add(commands, "get", run.on_server(_FLAG, "get"))
    options.add_flag_call(get)
    options.add_min_revision(get)
    simulate = add(commands, "simulate", run.on_server("simulate", "simulate"))
    options.add_flag_call(simulate)
    simulate.add_argument("fields", nargs="*", metavar="FIELD=VALUE", help="the change to try; as those of `set`")
    simulate.add_argument(
        "--contexts", metavar="FILE", required=True, help="a JSON object a line; - for standard input"
    )
    simulate.add_argument("--rule", metavar="FILE", help="the rule to try, as JSON; the same as targeting=@FILE")
    simulate.add_argument(
        "--limit", type=options.count, metavar="N", help="contexts to list [20 on a terminal, else all]"
    )
    options.add_set_call(add(commands, "list", run.on_server(_FLAG, "list_flags")), forms=MANY)
    options.add_set_call(add(commands, "watch", run.on_server("watch", "watch")))
    health = add(commands, "health", run.in_module("health", "health"))
    options.add_set_call(health)
    health.add_argument(
        "--port", metavar="N", help="gRPC port of the server on this machine, or unix:PATH [FLAGSVC_PORT; 8013]"
    )
    health.add_argument("--service", default="", help="readiness, liveness, store, cache or changes [readiness]")


def _add_history(commands: Commands, add: Add) -> None:
    history = add(commands, "history", run.in_module("history", "history"))
    history.add_argument("key", metavar="KEY", nargs="?", help="the flag's key [all flags, tokens and repairs]")
    options.add_set_call(history, forms=MANY)
    history.set_defaults(needs_set=False)
    history.add_argument("--since", metavar="TIME", help="only entries of the last 90d, 12h or 30m")
    history.add_argument(
        "--actor", "--of-actor", dest="of_actor", metavar="ACTOR", help="only of this caller, such as token:8VqkQ2"
    )
    history.add_argument("--action", help="only this action, such as ENABLED or RevokeToken")
    history.add_argument("--outcome", choices=["done", "refused"], help="only what was done, or refused")
    history.add_argument(
        "--limit", type=options.count, default=50, metavar="N", help="maximum number of entries, of one flag 1,000 [50]"
    )
    diff = add(commands, "diff", run.on_server("diff", "diff"))
    options.add_flag_call(diff)
    between = diff.add_mutually_exclusive_group()
    between.add_argument("--since", metavar="TIME", help="since 90d, 12h or 30m ago [the last change]")
    between.add_argument("--revision", metavar="N", type=int, help="since this revision")
    between.add_argument("--file", metavar="FILE", help="what an import of this file would change")
    between.add_argument("--with-set", metavar="SET", help="the same flag in another flag set")


def _add_writes(commands: Commands, add: Add) -> None:
    toggle = add(commands, "toggle", run.on_server(_FLAG, "toggle"))
    options.add_flag_call(toggle)
    toggle.add_argument("enabled", type=_state, metavar="{on,off}", help="the new state; true, enable and so on too")
    options.add_write(toggle, etag=True)
    create = add(commands, "create", run.on_server(_FLAG, "create"))
    options.add_flag_call(create)
    create.add_argument("fields", nargs="*", metavar="FIELD=VALUE", help=_WRITES)
    options.add_write(create, etag=False)
    setting = add(commands, "set", run.on_server(_FLAG, "set_fields"))
    options.add_flag_call(setting)
    setting.add_argument("fields", nargs="+", metavar="FIELD=VALUE", help=_WRITES)
    options.add_write(setting, etag=True)
    for each in (create, setting):
        each.add_argument("--dry-run", action="store_true", help="check the change and show it, without writing")
    delete = add(commands, "delete", run.on_server(_FLAG, "delete"))
    options.add_flag_call(delete)
    delete.add_argument("--yes", action="store_true", help="do not ask, on a terminal")
    options.add_write(delete, etag=True)
    editing = add(commands, "edit", run.on_server("edit", "edit"))
    options.add_flag_call(editing)
    editing.add_argument("--file", metavar="FILE", help="begin with this text, such as one that was kept")
    editing.add_argument("--yes", action="store_true", help="write without a question, on a terminal")
    options.add_author(editing)
    options.add_wait(editing)


def _state(word: str) -> bool:
    if word.lower() not in _STATES:
        raise argparse.ArgumentTypeError(f"{word!r} must be on or off (or true, false, enable, disable)")
    return _STATES[word.lower()]
