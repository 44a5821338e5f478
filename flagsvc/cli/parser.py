"""The argument parser: every command, its options and their help."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from flagsvc import __version__
from flagsvc.cli import flag_parser, run, schedule_parser, segment_parser, token_parser, tool_parser
from flagsvc.cli.parsing import Parser, formatter

_FIELDS = "FIELD: name description category status config icon badge sortOrder variants defaultVariant targeting evaluators metadata owner expiresAt exposure rollout prerequisites"
_SUMMARIES = {
    "serve": "Serve flags over gRPC until SIGTERM or Ctrl-C.",
    "evaluate": "Evaluate a flag for a context. Exit status 1 if the result has an error code.",
    "simulate": "Show which variant each of many contexts gets, and which another one after a change. Nothing is written.",
    "get": "Show a flag's definition.",
    "list": "List the flags of a set in sort order.",
    "history": "Show a flag's changes, or what was changed and refused over all flags, newest first.",
    "diff": "Show what changed in a flag, by its last change, since a time or between two revisions; or what a file would change. Exit status 1 if anything.",
    "rollback": "Give a flag the definition of an earlier revision back, as a new revision; with --all every flag of the set.",
    "edit": "Open a flag in $EDITOR, show the difference, and write it if nobody else has changed the flag meanwhile.",
    "watch": "Print a flag set, then every change as it is applied. Reconnects automatically; Ctrl-C stops it.",
    "health": "Check a server's health. Exit status 0 if it is SERVING, else 1.",
    "toggle": "Switch a flag on or off. Idempotent: sending it twice has the same effect as sending it once.",
    "create": f"Create a flag. {_FIELDS}",
    "set": f"Change fields of a flag; an empty value clears a field. {_FIELDS}",
    "delete": "Delete a flag; its history is kept.",
    "rollout": "Show the share of callers that a flag's rollout has moved; begin or change one, pause it, resume it, roll it back. Each change begins at the share that stands.",
    "schedule": "Plan a change of a flag for a time. It is made exactly once, by whichever replica comes first.",
    "schedules": "List, show, move, execute or cancel planned changes.",
    "segments": "List the segments of a set: named rules that its flags share.",
    "segment": "Show, create, change or delete a segment. A change of one changes every flag that uses it, in one transaction.",
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
    "profile": "Add, list, choose or remove profiles: named servers with a token file, a flag set and TLS.",
    "completion": "Print what makes a shell complete commands, options, flags' keys, fields and profiles.",
    "help": "Show the help of a command, or the exit codes.",
    "version": "Show the version.",
}
_EXAMPLES = {
    "serve": (
        "flagsvc serve",
        "flagsvc serve --store 'mongodb://db/app?replicaSet=rs0' --cache redis://redis:6379",
        "flagsvc serve --store file:flags.json --store file:overrides.yaml",
    ),
    "evaluate": (
        "flagsvc evaluate checkout-v2",
        "flagsvc evaluate banner-text --targeting-key user-1 --attribute plan=pro --attribute age:=31 --json",
        "flagsvc evaluate checkout-v2 --targeting-key user-1 --explain",
        "flagsvc evaluate checkout-v2 --targeting-key user-1 --at 2026-11-30T09:02:00Z",
    ),
    "simulate": (
        "flagsvc simulate checkout-v2 --contexts users.ndjson",
        "flagsvc simulate checkout-v2 --contexts users.ndjson --rule new.json",
        "flagsvc simulate checkout-v2 --contexts users.ndjson status=ENABLED targeting=@new.json --json",
    ),
    "get": ("flagsvc get checkout-v2 --json", "flagsvc get checkout-v2 --min-revision 7"),
    "list": ("flagsvc list", "flagsvc list --json"),
    "history": (
        "flagsvc history checkout-v2 --limit 5",
        "flagsvc history --since 1h --actor token:8VqkQ2 --set staging",
    ),
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
        "flagsvc set file-upload config.maxFileSize=52428800 --dry-run",
        "flagsvc set checkout-v2 targeting=@rule.json",
        "flagsvc set checkout-v2 --requires payments=on --requires region=eu,us",
    ),
    "delete": ("flagsvc delete checkout-v2", "flagsvc delete checkout-v2 --yes"),
    "rollback": (
        "flagsvc rollback checkout-v2 --to 41 --reason 'error rate'",
        "flagsvc rollback --all --to 41 --dry-run",
    ),
    "schedule": (
        "flagsvc schedule checkout-v2 --status enabled --at 2026-12-01T09:00 --zone Europe/Berlin",
        "flagsvc schedule checkout-v2 targeting=@rule.json --in 12h --on-conflict skip --reason 'launch'",
    ),
    "segments": ("flagsvc segments", "flagsvc segments --json"),
    "segment": (
        """flagsvc segment create pro '{"==": [{"var": "plan"}, "pro"]}' --description 'Who pays'""",
        "flagsvc segment set pro @pro.json --dry-run",
        "flagsvc segment get pro",
        "flagsvc segment delete pro",
    ),
    "schedules": ("flagsvc schedules list", "flagsvc schedules show ID", "flagsvc schedules cancel ID"),
    "edit": ("EDITOR=nano flagsvc edit checkout-v2 --reason 'ask support first'",),
    "rollout": (
        "flagsvc rollout checkout-v2 --to on --over 3d",
        "flagsvc rollout checkout-v2 --to on --steps 1%,10%@+1h,100%@+1d",
        "flagsvc rollout checkout-v2",
        "flagsvc rollout checkout-v2 --pause",
        "flagsvc rollout checkout-v2 --rollback --over 10m",
    ),
    "diff": (
        "flagsvc diff checkout-v2",
        "flagsvc diff checkout-v2 --since 1h",
        "flagsvc diff checkout-v2 41 47",
        "flagsvc diff checkout-v2 --file flags.yaml",
        "flagsvc diff checkout-v2 --with-set staging",
    ),
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
    "profile": (
        "flagsvc profile add prod --address flags.example:8013 --tls-ca ca.pem --token-file ops.token",
        "flagsvc profile use prod",
        "flagsvc list --profile prod",
    ),
    "completion": (
        'eval "$(flagsvc completion bash)"   # in ~/.bashrc',
        'eval "$(flagsvc completion zsh)"    # in ~/.zshrc, after compinit',
        "flagsvc completion fish > ~/.config/fish/completions/flagsvc.fish",
    ),
    "help": ("flagsvc help toggle", "flagsvc help exit-codes"),
    "version": ("flagsvc version",),
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


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; parsed arguments have the command's function in `run`."""
    parser: argparse.ArgumentParser = Parser(
        prog="flagsvc",
        formatter_class=formatter,
        description="Feature flags over gRPC. Start with: flagsvc serve; then: flagsvc create my-flag status=ENABLED",
    )
    parser.add_argument("--version", action="version", version=f"flagsvc {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in _commands().items():
        about, epilog = _SUMMARIES[name], "\n  ".join(("examples:", *_EXAMPLES[name]))
        each = commands.add_parser(
            name,
            help=about,
            description=about,
            epilog=epilog,
            formatter_class=formatter,
            add_later=command.add_arguments,
        )
        each.set_defaults(run=command.run)
    return parser


def _commands() -> Mapping[str, run.Described]:
    serve = run.Described(run.serve, _serve)
    return {
        "serve": serve,
        **flag_parser.COMMANDS,
        **schedule_parser.COMMANDS,
        **segment_parser.COMMANDS,
        **token_parser.COMMANDS,
        **tool_parser.COMMANDS,
    }


def _serve(parser: argparse.ArgumentParser) -> None:
    for option, about in _SERVE_OPTIONS.items():
        name, _, metavar = option.partition(" ")
        dest, action = _SERVE_ACTIONS.get(name, (None, "store"))
        parser.add_argument(name, dest=dest, action=action, metavar=metavar or None, help=about)
