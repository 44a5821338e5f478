"""The argument parser: every command, its options and their help."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn, TypeAlias

from flagsvc import __version__
from flagsvc.cli import options, run, token_parser
from flagsvc.core.model import BUCKETINGS
from flagsvc.urls import masked

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001  argparse has no other name
_FIELDS = "FIELD: name description category status config icon badge sortOrder variants defaultVariant targeting evaluators metadata owner expiresAt exposure"
STRICT = "a warning is an error: odd flags, which are served as flagd serves them, are refused"
_SUMMARIES = {
    "serve": "Serve flags over gRPC until SIGTERM or Ctrl-C.",
    "evaluate": "Evaluate a flag for a context. Exit status 1 if the result has an error code.",
    "get": "Show a flag's definition.",
    "list": "List the flags of a set in sort order.",
    "history": "Show a flag's changes, or what was changed and refused over all flags, newest first.",
    "watch": "Print a flag set, then every change as it is applied. Reconnects automatically; Ctrl-C stops it.",
    "health": "Check a server's health. Exit status 0 if it is SERVING, else 1.",
    "toggle": "Switch a flag on or off. Idempotent: sending it twice has the same effect as sending it once.",
    "create": f"Create a flag. {_FIELDS}",
    "set": f"Change fields of a flag; an empty value clears a field. {_FIELDS}",
    "delete": "Delete a flag; its history is kept.",
    "status": "Show the status of every replica. Exit status 0 if all are ready and have every change, else 1.",
    "verify": "Compare the shared cache with the store, flag by flag. Exit status 1 if differences remain.",
    "resync": "Make every replica drop what it holds and read the store again, after a restore. Without --confirm: say what that would do.",
    "bucketing": "Show how the splits of a flag set choose, or change it. Without --force: say which flags would give people other variants.",
    "token": "Make, list, change, rotate or revoke tokens, on a server or, with --store, on its store.",
    "whoami": "Show who the caller is to a server, by FLAGSVC_TOKEN or FLAGSVC_TOKEN_FILE, and what it may do.",
    "doctor": "Try the store and the cache as a replica uses them: connection, rights, scripts, change stream, clocks. Changes no flag. Exit status 1 if a check fails.",
    "import": "Import a flagd file or mongoexport lines into a store. Nothing is written unless the whole file is valid. Idempotent: importing a file twice changes nothing.",
    "export": "Export a flag set as a flagd file or as mongoexport lines. `import` reads both.",
    "check": "Find the keys of flags that Python code uses and the server does not know. Exit status 1 if there are any.",
    "validate": "Check flag files and list every problem with its line and path. Exit status 1 if there are any.",
}
_EXAMPLES = {
    "serve": (
        "flagsvc serve",
        "flagsvc serve --store 'mongodb://db/app?replicaSet=rs0' --cache redis://redis:6379",
        "flagsvc serve --store file:flags.json --store file:overrides.yaml",
    ),
    "evaluate": (
        "flagsvc evaluate checkout-v2",
        "flagsvc evaluate banner-text --targeting-key user-1 --attribute plan=pro --json",
        "flagsvc evaluate checkout-v2 --targeting-key user-1 --explain",
    ),
    "get": ("flagsvc get checkout-v2 --json", "flagsvc get checkout-v2 --min-revision 7"),
    "list": ("flagsvc list", "flagsvc list --json"),
    "history": ("flagsvc history checkout-v2 --limit 5", "flagsvc history --since 1h"),
    "watch": ("flagsvc watch", "flagsvc watch --json | jq .flagKey"),
    "health": ("flagsvc health", "flagsvc health --port 9013", "flagsvc health --service liveness"),
    "toggle": (
        "flagsvc toggle checkout-v2 off --reason 'error rate'",
        "flagsvc toggle checkout-v2 off --wait-for applied",
    ),
    "create": (
        "flagsvc create checkout-v2 status=ENABLED name='New checkout'",
        'flagsvc create banner \'variants={"a":"Hi","b":"Hello"}\' defaultVariant=a status=ENABLED',
    ),
    "set": (
        "flagsvc set checkout-v2 status=BETA owner=payments",
        "flagsvc set file-upload 'config={\"maxFileSize\": 52428800}'",
    ),
    "delete": ("flagsvc delete checkout-v2",),
    "status": ("flagsvc status", "flagsvc status --json | jq '.replicas[] | {replica, lag}'"),
    "verify": ("flagsvc verify", "flagsvc verify --repair"),
    "resync": ("flagsvc resync", "flagsvc resync --confirm"),
    "bucketing": ("flagsvc bucketing", "flagsvc bucketing --flag-set staging 3", "flagsvc bucketing 3 --force"),
    "token": (
        "flagsvc token create admin --role admin --store URL --output admin.token",
        "flagsvc token create checkout --role evaluate --flag-set default --flag-set 'team-*' --expires 90d",
        "flagsvc token list",
        "flagsvc token rotate ID --overlap 1d",
        "flagsvc token revoke ID --wait-for applied",
    ),
    "whoami": ("FLAGSVC_TOKEN_FILE=admin.token flagsvc whoami",),
    "doctor": (
        "flagsvc doctor",
        "flagsvc doctor --store 'mongodb://db/app?replicaSet=rs0' --cache redis://redis:6379",
        "flagsvc doctor --json | jq '.checks[] | select(.outcome == \"failed\")'",
    ),
    "import": (
        "flagsvc import flags.json --dry-run",
        "flagsvc import flags.yaml --flag-set staging --prune",
        "mongoexport --collection feature_flags > flags.ndjson",
        "flagsvc import flags.ndjson --store sqlite:///flagsvc.db",
    ),
    "export": (
        "flagsvc export --output flags.json",
        "flagsvc export --flag-set staging --output flags.yaml",
        "flagsvc export --store sqlite:///flagsvc.db --output flags.ndjson",
    ),
    "check": ("flagsvc check src/", "flagsvc check src/ tests/ --flags flags.json"),
    "validate": ("flagsvc validate flags.json staging.yaml", "flagsvc validate flags.json --json"),
}
_SERVE_OPTIONS = {
    "--store URL": "mongodb://..., sqlite:///FILE or (repeatable) file:FLAGS.json [FLAGSVC_STORE_URL; sqlite:///flagsvc.db]",
    "--cache URL": "redis://..., rediss://... or none [FLAGSVC_CACHE_URL; none]",
    "--auth MODE": "whether callers are authenticated: off or required; needed where other machines can connect [FLAGSVC_AUTH]",
    "--anonymous ROLES": "role of callers without a credential, by listener: grpc=evaluate@default;sync=read@* [FLAGSVC_ANONYMOUS]",
    "--host": "address to listen on; 0.0.0.0 for all of IPv4, :: for IPv6 and IPv4 [FLAGSVC_HOST; 127.0.0.1]",
    "--port N": "gRPC port, or unix:PATH [FLAGSVC_PORT; 8013]",
    "--management-host": "address of the management port [FLAGSVC_MANAGEMENT_HOST; as --host]",
    "--management-port N": "HTTP port of /healthz, /readyz and /metrics, or unix:PATH; -1 disables it [FLAGSVC_MANAGEMENT_PORT; 8014]",
    "--sync-port N": "gRPC port for flagd's in-process providers, or unix:PATH; -1 disables it [FLAGSVC_SYNC_PORT; 8015]",
    "--ofrep-port N": "HTTP port of OFREP, OpenFeature's remote evaluation protocol, or unix:PATH; -1 disables it [FLAGSVC_OFREP_PORT; 8016]",
    "--tls-cert FILE": "PEM file with the certificate and its chain: every port but the management port serves TLS [FLAGSVC_TLS_CERT]",
    "--tls-key FILE": "PEM file with the certificate's private key [FLAGSVC_TLS_KEY]",
    "--tls-client-ca FILE": "PEM file with the CAs of client certificates, which are then required; or for single listeners: grpc=FILE;sync=FILE;ofrep=FILE [FLAGSVC_TLS_CLIENT_CA]",
    "--default-flag-set SET": "flag set that flagd's and OFREP's callers without a selector get, or one for each listener: grpc=A;sync=B;ofrep=C [FLAGSVC_DEFAULT_FLAG_SET; default]",
    "--cors-origin ORIGIN": "origin whose web pages may call the OFREP port, or * for all; repeatable [FLAGSVC_CORS_ORIGINS]",
    "--context-value NAME=VALUE": "context field set for every evaluation; overrides the caller's; repeatable [FLAGSVC_CONTEXT_VALUES]",
    "--context-from-header HEADER=NAME": "context field read from a request header; overrides all others; repeatable [FLAGSVC_CONTEXT_FROM_HEADERS]",
    "--log-level": "debug, info, warning or error [FLAGSVC_LOG_LEVEL; info]",
    "--log-format": "auto, json or console [FLAGSVC_LOG_FORMAT; auto]",
}
"""Option and metavariable -> help."""
_SERVE_ACTIONS = {
    "--store": ("store_url", "append"),
    "--cache": ("cache_url", "store"),
    "--cors-origin": ("cors_origins", "append"),
    "--context-value": ("context_values", "append"),
    "--context-from-header": ("context_from_headers", "append"),
}
"""Option -> field of the settings and action, where they do not follow from its name."""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors repeat no URL: one may hold a password."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 and a message."""
        super().error(masked(message))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; parsed arguments have the command's function in `run`."""
    parser: argparse.ArgumentParser = _Parser(
        prog="flagsvc",
        description="Feature flags over gRPC. Start with: flagsvc serve; then: flagsvc create my-flag status=ENABLED",
    )
    parser.add_argument("--version", action="version", version=f"flagsvc {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_add_serve, _add_reads, _add_writes, _add_replicas, _add_transfers):
        add(commands)
    token_parser.add_to(commands, _add_command)
    return parser


def _add_command(commands: _Commands, name: str, command: run.Command) -> argparse.ArgumentParser:
    about, epilog = _SUMMARIES[name], "\n  ".join(("examples:", *_EXAMPLES[name]))
    formatter = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser(name, help=about, description=about, epilog=epilog, formatter_class=formatter)
    parser.set_defaults(run=command)
    return parser


def _add_serve(commands: _Commands) -> None:
    serve = _add_command(commands, "serve", run.serve)
    for option, about in _SERVE_OPTIONS.items():
        name, _, metavar = option.partition(" ")
        dest, action = _SERVE_ACTIONS.get(name, (None, "store"))
        serve.add_argument(name, dest=dest, action=action, metavar=metavar or None, help=about)


def _add_reads(commands: _Commands) -> None:
    evaluate = _add_command(commands, "evaluate", run.on_server("evaluate"))
    options.add_flag_call(evaluate)
    evaluate.add_argument("--targeting-key", default="", metavar="KEY", help="id of whom the flag is evaluated for")
    evaluate.add_argument(
        "--attribute",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="context field, as JSON or plain text; repeatable",
    )
    evaluate.add_argument(
        "--context", metavar="JSON", help="the context as one JSON object, with targetingKey as a field"
    )
    evaluate.add_argument(
        "--type", choices=("boolean", "string", "integer", "float", "object"), help="expected type of the value"
    )
    evaluate.add_argument("--explain", action="store_true", help="show step by step how the result was reached")
    options.add_min_revision(evaluate)
    get = _add_command(commands, "get", run.on_server("get"))
    options.add_flag_call(get)
    options.add_min_revision(get)
    listing = _add_command(commands, "list", run.on_server("list_flags"))
    options.add_set_call(listing)
    history = _add_command(commands, "history", run.history)
    history.add_argument("key", metavar="KEY", nargs="?", help="the flag's key [all flags, tokens and repairs]")
    options.add_set_call(history)
    history.set_defaults(flag_set=None)
    history.add_argument("--since", metavar="TIME", help="only entries of the last 90d, 12h or 30m")
    history.add_argument("--of-actor", metavar="ACTOR", help="only entries of this caller, such as token:8VqkQ2")
    history.add_argument("--action", help="only this action, such as ENABLED or RevokeToken")
    history.add_argument("--outcome", choices=["done", "refused"], help="only what was done, or refused")
    history.add_argument("--limit", type=int, default=50, metavar="N", help="maximum number of entries [50]")
    watch = _add_command(commands, "watch", run.on_server("watch"))
    options.add_set_call(watch)
    health = _add_command(commands, "health", run.in_module("service_commands", "health"))
    options.add_set_call(health)
    health.add_argument(
        "--port", metavar="N", help="gRPC port of the server on this machine, or unix:PATH [FLAGSVC_PORT; 8013]"
    )
    health.add_argument("--service", default="", help="readiness, liveness, store, cache or changes [readiness]")


def _add_writes(commands: _Commands) -> None:
    toggle = _add_command(commands, "toggle", run.on_server("toggle"))
    options.add_flag_call(toggle)
    toggle.add_argument("state", choices=("on", "off"), help="the new state")
    options.add_write(toggle, etag=True)
    create = _add_command(commands, "create", run.on_server("create"))
    options.add_flag_call(create)
    create.add_argument("fields", nargs="*", metavar="FIELD=VALUE", help="plain text for strings, JSON for all others")
    options.add_write(create, etag=False)
    setting = _add_command(commands, "set", run.on_server("set_fields"))
    options.add_flag_call(setting)
    setting.add_argument("fields", nargs="+", metavar="FIELD=VALUE", help="plain text for strings, JSON for all others")
    options.add_write(setting, etag=True)
    delete = _add_command(commands, "delete", run.on_server("delete"))
    options.add_flag_call(delete)
    options.add_write(delete, etag=True)


def _add_replicas(commands: _Commands) -> None:
    status = _add_command(commands, "status", run.on_server("status"))
    options.add_call(status)
    verify = _add_command(commands, "verify", run.on_server("verify"))
    options.add_call(verify, timeout_s=60.0)
    verify.add_argument("--repair", action="store_true", help="replace the entries that differ")
    resync = _add_command(commands, "resync", run.on_server("resync"))
    options.add_call(resync, timeout_s=60.0)
    resync.add_argument("--confirm", action="store_true", help="do it; definitions may go back to older revisions")
    bucketing = _add_command(commands, "bucketing", run.on_server("bucketing"))
    bucketing.add_argument(
        "version", nargs="?", type=int, choices=BUCKETINGS, help="2: as flagd's daemon; 3: values of all types"
    )
    options.add_set_call(bucketing, timeout_s=60.0)
    bucketing.add_argument("--force", action="store_true", help="do it: people get other variants")
    options.add_author(bucketing)
    doctor = _add_command(commands, "doctor", run.in_module("doctor", "doctor"))
    doctor.add_argument("--store", metavar="URL", help="store to try [FLAGSVC_STORE_URL; sqlite:///flagsvc.db]")
    doctor.add_argument("--cache", metavar="URL", help="shared cache to try [FLAGSVC_CACHE_URL; none]")
    doctor.add_argument("--timeout", metavar="S", type=float, default=3.0, help="seconds to wait for an answer [3]")
    doctor.add_argument("--json", action="store_true", help="print JSON")


def _add_transfers(commands: _Commands) -> None:
    importing = _add_command(commands, "import", run.on_store("import_file"))
    importing.add_argument(
        "file",
        metavar="FILE",
        help="flagd's JSON or YAML (.yaml, .yml), or Extended JSON: one document per line or one array; - for standard input",
    )
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
    exporting = _add_command(commands, "export", run.on_store("export_file"))
    exporting.add_argument(
        "--output", metavar="FILE", default="-", help="file to write, replaced atomically [standard output]"
    )
    exporting.add_argument(
        "--format",
        choices=("flagd", "flagd-yaml", "mongoexport"),
        help="file format [from the name of --output: .json is flagd, .yaml and .yml are flagd-yaml, else mongoexport]",
    )
    for parser, sets in ((importing, "from the file; default"), (exporting, "default")):
        parser.add_argument("--store", metavar="URL", help="store to use [FLAGSVC_STORE_URL; sqlite:///flagsvc.db]")
        parser.add_argument("--flag-set", metavar="SET", help=f"flag set [{sets}]")
        parser.add_argument("--json", action="store_true", help="print JSON")
    checking = _add_command(commands, "check", run.in_module("check", "check"))
    checking.add_argument("paths", nargs="+", metavar="PATH", type=Path, help="Python files, or folders with them")
    checking.add_argument("--flags", metavar="FILE", help="flagd file with the known flags, in place of a server")
    options.add_set_call(checking)
    validating = _add_command(commands, "validate", run.in_module("flagd_files", "validate"))
    validating.add_argument("--strict", action="store_true", help=STRICT)
    validating.add_argument("files", nargs="+", metavar="FILE", help="flagd's JSON or YAML, or mongoexport lines")
    validating.add_argument("--json", action="store_true", help="print JSON, one object per file")
