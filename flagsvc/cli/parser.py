"""The argument parser: every command, its options and their help."""

from __future__ import annotations

import argparse

from flagsvc import __version__
from flagsvc.cli import options, run
from flagsvc.cli.options import add_command


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; parsed arguments have the command's function in `run`."""
    parser = argparse.ArgumentParser(
        prog="flagsvc",
        description="Feature flags over gRPC. Start with: flagsvc serve; then: flagsvc create my-flag status=ENABLED",
    )
    parser.add_argument("--version", action="version", version=f"flagsvc {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_serve(commands)
    _add_reads(commands)
    _add_writes(commands)
    _add_replicas(commands)
    _add_transfers(commands)
    return parser


def _add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    example = "  flagsvc serve\n  flagsvc serve --store 'mongodb://db/app?replicaSet=rs0' --cache redis://redis:6379"
    example += "\n  flagsvc serve --store file:flags.json --store file:overrides.yaml"
    serve = add_command(commands, "serve", run.serve, "Serve flags over gRPC until SIGTERM or Ctrl-C.", example)
    serve.add_argument(
        "--store",
        dest="store_url",
        action="append",
        metavar="URL",
        help="mongodb://..., sqlite:///FILE or (repeatable) file:FLAGS.json [FLAGSVC_STORE_URL; sqlite:///flagsvc.db]",
    )
    serve.add_argument(
        "--cache", dest="cache_url", metavar="URL", help="redis://..., rediss://... or none [FLAGSVC_CACHE_URL; none]"
    )
    serve.add_argument("--host", help="address to listen on [FLAGSVC_HOST; 0.0.0.0]")
    serve.add_argument("--port", metavar="N", help="gRPC port [FLAGSVC_PORT; 8013]")
    serve.add_argument(
        "--management-port",
        metavar="N",
        help="HTTP port of /healthz, /readyz and /metrics; -1 disables it [FLAGSVC_MANAGEMENT_PORT; 8014]",
    )
    serve.add_argument(
        "--sync-port",
        metavar="N",
        help="gRPC port for flagd's in-process providers; -1 disables it [FLAGSVC_SYNC_PORT; 8015]",
    )
    serve.add_argument(
        "--ofrep-port",
        metavar="N",
        help="HTTP port of OFREP, OpenFeature's remote evaluation protocol; -1 disables it [FLAGSVC_OFREP_PORT; 8016]",
    )
    serve.add_argument(
        "--cors-origin",
        dest="cors_origins",
        action="append",
        metavar="ORIGIN",
        help="origin whose web pages may call the OFREP port, or * for all; repeatable [FLAGSVC_CORS_ORIGINS]",
    )
    serve.add_argument(
        "--context-value",
        dest="context_values",
        action="append",
        metavar="NAME=VALUE",
        help="context field set for every evaluation; overrides the caller's; repeatable [FLAGSVC_CONTEXT_VALUES]",
    )
    serve.add_argument(
        "--context-from-header",
        dest="context_from_headers",
        action="append",
        metavar="HEADER=NAME",
        help="context field read from a request header; overrides all others; repeatable [FLAGSVC_CONTEXT_FROM_HEADERS]",
    )
    serve.add_argument(
        "--fractional-version", metavar="N", help="hash version of `fractional`, 2 or 3 [FLAGSVC_FRACTIONAL_VERSION; 3]"
    )
    serve.add_argument("--log-level", help="debug, info, warning or error [FLAGSVC_LOG_LEVEL; info]")
    serve.add_argument("--log-format", help="auto, json or console [FLAGSVC_LOG_FORMAT; auto]")


def _add_reads(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    evaluate = add_command(
        commands,
        "evaluate",
        run.on_server("evaluate"),
        "Evaluate a flag for a context. Exit status 1 if the result has an error code.",
        "  flagsvc evaluate checkout-v2\n  flagsvc evaluate banner-text --targeting-key user-1 --attribute plan=pro --json\n"
        "  flagsvc evaluate checkout-v2 --targeting-key user-1 --explain",
    )
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
    get = add_command(
        commands,
        "get",
        run.on_server("get"),
        "Show a flag's definition.",
        "  flagsvc get checkout-v2 --json\n  flagsvc get checkout-v2 --min-revision 7",
    )
    options.add_flag_call(get)
    options.add_min_revision(get)
    about = "List the flags of a set in sort order."
    listing = add_command(commands, "list", run.on_server("list_flags"), about, "  flagsvc list\n  flagsvc list --json")
    options.add_set_call(listing)
    history = add_command(
        commands,
        "history",
        run.on_server("history"),
        "Show a flag's changes, newest first.",
        "  flagsvc history checkout-v2 --limit 5",
    )
    options.add_flag_call(history)
    history.add_argument("--limit", type=int, default=50, metavar="N", help="maximum number of entries [50]")
    watch = add_command(
        commands,
        "watch",
        run.on_server("watch"),
        "Print a flag set, then every change as it is applied. Reconnects automatically; Ctrl-C stops it.",
        "  flagsvc watch\n  flagsvc watch --json | jq .flagKey",
    )
    options.add_set_call(watch)
    health = add_command(
        commands,
        "health",
        run.health,
        "Check a server's health. Exit status 0 if it is SERVING, else 1.",
        "  flagsvc health\n  flagsvc health --service liveness",
    )
    options.add_set_call(health)
    health.add_argument("--service", default="", help="readiness, liveness, store, cache or changes [readiness]")


def _add_writes(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    toggle = add_command(
        commands,
        "toggle",
        run.on_server("toggle"),
        "Switch a flag on or off. Idempotent: sending it twice has the same effect as sending it once.",
        "  flagsvc toggle checkout-v2 off --reason 'error rate'\n  flagsvc toggle checkout-v2 off --wait-for applied",
    )
    options.add_flag_call(toggle)
    toggle.add_argument("state", choices=("on", "off"), help="the new state")
    options.add_author(toggle)
    options.add_etag(toggle)
    options.add_wait_for(toggle)
    fields = "FIELD: name description category status config icon badge sortOrder variants defaultVariant targeting evaluators metadata owner expiresAt"
    create = add_command(
        commands,
        "create",
        run.on_server("create"),
        f"Create a flag. {fields}",
        "  flagsvc create checkout-v2 status=ENABLED name='New checkout'\n"
        """  flagsvc create banner 'variants={"a":"Hi","b":"Hello"}' defaultVariant=a status=ENABLED""",
    )
    options.add_flag_call(create)
    create.add_argument("fields", nargs="*", metavar="FIELD=VALUE", help="plain text for strings, JSON for all others")
    options.add_author(create)
    options.add_wait_for(create)
    setting = add_command(
        commands,
        "set",
        run.on_server("set_fields"),
        f"Change fields of a flag; an empty value clears a field. {fields}",
        "  flagsvc set checkout-v2 status=BETA owner=payments\n  flagsvc set file-upload 'config={\"maxFileSize\": 52428800}'",
    )
    options.add_flag_call(setting)
    setting.add_argument("fields", nargs="+", metavar="FIELD=VALUE", help="plain text for strings, JSON for all others")
    options.add_author(setting)
    options.add_etag(setting)
    options.add_wait_for(setting)
    about = "Delete a flag; its history is kept."
    delete = add_command(commands, "delete", run.on_server("delete"), about, "  flagsvc delete checkout-v2")
    options.add_flag_call(delete)
    options.add_author(delete)
    options.add_etag(delete)
    options.add_wait_for(delete)


def _add_replicas(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    status = add_command(
        commands,
        "status",
        run.on_server("status"),
        "Show the status of every replica. Exit status 0 if all are ready and have every change, else 1.",
        "  flagsvc status\n  flagsvc status --json | jq '.replicas[] | {replica, lag}'",
    )
    options.add_call(status)
    verify = add_command(
        commands,
        "verify",
        run.on_server("verify"),
        "Compare the shared cache with the store, flag by flag. Exit status 1 if differences remain.",
        "  flagsvc verify\n  flagsvc verify --repair",
    )
    options.add_call(verify, timeout_s=60.0)
    verify.add_argument("--repair", action="store_true", help="replace the entries that differ")


def _add_transfers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    importing = add_command(
        commands,
        "import",
        run.on_store("import_file"),
        "Import a flagd file or mongoexport lines into a store. Nothing is written unless the whole file is valid."
        " Idempotent: importing a file twice changes nothing.",
        "  flagsvc import flags.json --dry-run\n  flagsvc import flags.yaml --flag-set staging --prune\n"
        "  mongoexport --collection feature_flags > flags.ndjson\n"
        "  flagsvc import flags.ndjson --store sqlite:///flagsvc.db",
    )
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
    options.add_author(importing)
    exporting = add_command(
        commands,
        "export",
        run.on_store("export_file"),
        "Export a flag set as a flagd file or as mongoexport lines. `import` reads both.",
        "  flagsvc export --output flags.json\n  flagsvc export --flag-set staging --output flags.yaml\n"
        "  flagsvc export --store sqlite:///flagsvc.db --output flags.ndjson",
    )
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
    validating = add_command(
        commands,
        "validate",
        run.validate,
        "Check flag files and list every problem with its line and path. Exit status 1 if there are any.",
        "  flagsvc validate flags.json staging.yaml\n  flagsvc validate flags.json --json",
    )
    validating.add_argument("files", nargs="+", metavar="FILE", help="flagd's JSON or YAML, or mongoexport lines")
    validating.add_argument("--json", action="store_true", help="print JSON, one object per file")
