"""The arguments of the commands about flags, and of `health`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from flagsvc.cli import options, run
from flagsvc.cli.options import MANY

_STATES = {
    **dict.fromkeys(("on", "true", "enable", "enabled"), True),
    **dict.fromkeys(("off", "false", "disable", "disabled"), False),
}
_MOMENT = "a revision such as 41, a time such as 2026-11-30T09:00:00Z, 2h for two hours ago, +2h for in two hours"
_WHEN = f"answer as of another moment: {_MOMENT}"
_FLAG, _WRITES = "flag_commands", "plain text for texts, JSON for all others, @FILE for a file; FIELD.NAME for a part"


def _evaluate(parser: argparse.ArgumentParser) -> None:
    options.add_flag_call(parser)
    parser.add_argument("--targeting-key", default="", metavar="KEY", help="id of whom the flag is evaluated for")
    parser.add_argument(
        "--attribute",
        action="append",
        default=[],
        metavar="NAME=TEXT",
        help="context field with a text, or NAME:=JSON with a number, true, false, an object or a list; repeatable",
    )
    parser.add_argument(
        "--context", metavar="JSON", help="the context as one JSON object, with targetingKey as a field"
    )
    parser.add_argument(
        "--type", choices=("boolean", "string", "integer", "float", "object"), help="expected type of the value"
    )
    parser.add_argument("--explain", action="store_true", help="show step by step how the result was reached")
    options.add_min_revision(parser)
    parser.add_argument("--at", metavar="WHEN", help=_WHEN)


def _simulate(parser: argparse.ArgumentParser) -> None:
    options.add_flag_call(parser)
    parser.add_argument("fields", nargs="*", metavar="FIELD=VALUE", help="the change to try; as those of `set`")
    parser.add_argument("--contexts", metavar="FILE", required=True, help="a JSON object a line; - for standard input")
    parser.add_argument("--rule", metavar="FILE", help="the rule to try, as JSON; the same as targeting=@FILE")
    parser.add_argument("--limit", type=options.count, metavar="N", help="contexts to list [on a terminal 20]")


def _get(parser: argparse.ArgumentParser) -> None:
    options.add_flag_call(parser)
    options.add_min_revision(parser)
    parser.add_argument("--at", metavar="WHEN", help=_WHEN)


def _list(parser: argparse.ArgumentParser) -> None:
    options.add_set_call(parser, forms=MANY)


def _health(parser: argparse.ArgumentParser) -> None:
    options.add_set_call(parser)
    parser.add_argument(
        "--port", metavar="N", help="gRPC port of the server on this machine, or unix:PATH [FLAGSVC_PORT; 8013]"
    )
    parser.add_argument("--service", default="", help="readiness, liveness, store, cache or changes [readiness]")


def _history(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", nargs="?", help="the flag's key [all flags, tokens and repairs]")
    options.add_set_call(parser, forms=MANY)
    parser.set_defaults(needs_set=False)
    parser.add_argument("--since", metavar="TIME", help="only entries of the last 90d, 12h or 30m")
    parser.add_argument(
        "--actor", "--of-actor", dest="of_actor", metavar="ACTOR", help="only of this caller, such as token:8VqkQ2"
    )
    parser.add_argument("--action", help="only this action, such as ENABLED or RevokeToken")
    parser.add_argument("--outcome", choices=["done", "refused"], help="only what was done, or refused")
    parser.add_argument(
        "--limit", type=options.count, default=50, metavar="N", help="maximum number of entries, of one flag 1,000 [50]"
    )


def _diff(parser: argparse.ArgumentParser) -> None:
    options.add_flag_call(parser)
    parser.add_argument("between", nargs="*", metavar="N M", help=f"between two moments, or one and now: {_MOMENT}")
    between = parser.add_mutually_exclusive_group()
    between.add_argument("--since", metavar="TIME", help="since 90d, 12h or 30m ago [the last change]")
    between.add_argument("--revision", metavar="N", type=int, help="since this revision")
    between.add_argument("--file", metavar="FILE", help="what an import of this file would change")
    between.add_argument("--with-set", metavar="SET", help="the same flag in another flag set")


def _toggle(parser: argparse.ArgumentParser) -> None:
    options.add_flag_call(parser)
    parser.add_argument("enabled", type=_state, metavar="{on,off}", help="the new state; true, enable and so on too")
    options.add_write(parser, etag=True)


def _create(parser: argparse.ArgumentParser) -> None:
    options.add_flag_call(parser)
    parser.add_argument("fields", nargs="*", metavar="FIELD=VALUE", help=_WRITES)
    _add_requires(parser)
    options.add_write(parser, etag=False)
    options.add_dry_run(parser)


def _set(parser: argparse.ArgumentParser) -> None:
    options.add_flag_call(parser)
    parser.add_argument("fields", nargs="*", metavar="FIELD=VALUE", help=_WRITES)
    _add_requires(parser)
    options.add_write(parser, etag=True)
    options.add_dry_run(parser)


def _add_requires(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--requires",
        action="append",
        default=[],
        metavar="PARENT=VARIANT",
        help="flag that must have this variant, or PARENT=A,B one of these; repeatable: all of them; '' for none",
    )


def _delete(parser: argparse.ArgumentParser) -> None:
    options.add_flag_call(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask, on a terminal")
    options.add_write(parser, etag=True)


def _rollback(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", nargs="?", default="", help="the flag's key")
    options.add_set_call(parser, timeout_s=10.0)
    parser.add_argument("--to", metavar="N", type=options.count, required=True, help="revision to return to")
    parser.add_argument("--all", action="store_true", help="every flag of the flag set, in one transaction")
    parser.add_argument("--yes", action="store_true", help="do not ask, on a terminal")
    options.add_write(parser, etag=True)
    options.add_dry_run(parser)


def _edit(parser: argparse.ArgumentParser) -> None:
    options.add_flag_call(parser)
    parser.add_argument("--file", metavar="FILE", help="begin with this text, such as one that was kept")
    parser.add_argument("--yes", action="store_true", help="write without a question, on a terminal")
    options.add_author(parser)
    options.add_wait(parser)


def _rollout(parser: argparse.ArgumentParser) -> None:
    options.add_flag_call(parser)
    parser.add_argument("--to", metavar="VARIANT", help="begin: the variant that callers move to")
    parser.add_argument(
        "--from",
        metavar="VARIANT",
        dest="from_variant",
        help="the variant of all others [the other one, or the default]",
    )
    parser.add_argument(
        "--over",
        metavar="TIME",
        help="evenly in 3d, 12h or 30m; with --rollback the time of the way back, 0s for at once",
    )
    parser.add_argument("--steps", metavar="STEPS", help="in steps, such as 1%%,10%%@+1h,100%%@2026-12-01T09:00:00Z")
    parser.add_argument("--by", metavar="FIELD", help="context field whose text says who is first [targetingKey]")
    parser.add_argument("--pause", action="store_true", help="keep the share of now")
    parser.add_argument("--resume", action="store_true", help="go on after a pause")
    parser.add_argument("--rollback", action="store_true", help="back as it came, last in first out, or with --over")
    options.add_write(parser, etag=True)


def _state(word: str) -> bool:
    if word.lower() not in _STATES:
        raise argparse.ArgumentTypeError(f"{word!r} must be on or off (or true, false, enable, disable)")
    return _STATES[word.lower()]


COMMANDS: Mapping[str, run.Described] = {
    "evaluate": run.Described(run.on_server(_FLAG, "evaluate"), _evaluate),
    "get": run.Described(run.on_server(_FLAG, "get"), _get),
    "simulate": run.Described(run.on_server("simulate", "simulate"), _simulate),
    "list": run.Described(run.on_server(_FLAG, "list_flags"), _list),
    "watch": run.Described(run.on_server("watch", "watch"), options.add_set_call),
    "health": run.Described(run.in_module("health", "health"), _health),
    "history": run.Described(run.in_module("history", "history"), _history),
    "diff": run.Described(run.on_server("diff", "diff"), _diff),
    "toggle": run.Described(run.on_server(_FLAG, "toggle"), _toggle),
    "create": run.Described(run.on_server(_FLAG, "create"), _create),
    "set": run.Described(run.on_server(_FLAG, "set_fields"), _set),
    "delete": run.Described(run.on_server(_FLAG, "delete"), _delete),
    "rollback": run.Described(run.on_server("rollback", "rollback"), _rollback),
    "edit": run.Described(run.on_server("edit", "edit"), _edit),
    "rollout": run.Described(run.in_module("rollout", "rollout"), _rollout),
}
