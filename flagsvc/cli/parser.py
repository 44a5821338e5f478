"""The command line's words and their help."""

from __future__ import annotations

import argparse

from flagsvc import __version__
from flagsvc.cli import options, run
from flagsvc.cli.options import add_command


def parser() -> argparse.ArgumentParser:
    """Give the parser of all commands; a parsed one has `run`."""
    whole = argparse.ArgumentParser(
        prog="flagsvc",
        description="Feature flags over gRPC. Start with: flagsvc serve; then: flagsvc create my-flag status=ENABLED",
    )
    whole.add_argument("--version", action="version", version=f"flagsvc {__version__}")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_serve(commands)
    _add_reads(commands)
    _add_writes(commands)
    _add_replicas(commands)
    _add_transfers(commands)
    return whole


def _add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    example = "  flagsvc serve\n  flagsvc serve --store 'mongodb://db/app?replicaSet=rs0' --cache redis://redis:6379"
    example += "\n  flagsvc serve --store file:flags.json --store file:overrides.yaml"
    serve = add_command(commands, "serve", run.serve, "Serve flags over gRPC until SIGTERM.", example)
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
        help="HTTP port of /healthz, /readyz, /metrics; -1: none [FLAGSVC_MANAGEMENT_PORT; 8014]",
    )
    serve.add_argument(
        "--sync-port",
        metavar="N",
        help="second gRPC port, for flagd's in-process providers; -1: none [FLAGSVC_SYNC_PORT; 8015]",
    )
    serve.add_argument(
        "--ofrep-port",
        metavar="N",
        help="HTTP port of OpenFeature's remote evaluation protocol; -1: none [FLAGSVC_OFREP_PORT; 8016]",
    )
    serve.add_argument(
        "--cors-origin",
        dest="cors_origins",
        action="append",
        metavar="ORIGIN",
        help="an origin whose web pages may call that port, * for all; repeatable [FLAGSVC_CORS_ORIGINS]",
    )
    serve.add_argument(
        "--context-value",
        dest="context_values",
        action="append",
        metavar="NAME=VALUE",
        help="a context field that every evaluation gets, over the caller's; repeatable [FLAGSVC_CONTEXT_VALUES]",
    )
    serve.add_argument(
        "--context-from-header",
        dest="context_from_headers",
        action="append",
        metavar="HEADER=NAME",
        help="a context field read from a call's header, over all others; repeatable [FLAGSVC_CONTEXT_FROM_HEADERS]",
    )
    serve.add_argument(
        "--fractional-version", metavar="N", help="how `fractional` hashes, 3 or 2 [FLAGSVC_FRACTIONAL_VERSION; 3]"
    )
    serve.add_argument("--log-level", help="debug, info, warning or error [FLAGSVC_LOG_LEVEL; info]")
    serve.add_argument("--log-format", help="auto, json or console [FLAGSVC_LOG_FORMAT; auto]")


def _add_reads(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    evaluate = add_command(
        commands,
        "evaluate",
        run.call("evaluate"),
        "Evaluate a flag for a context; exit status 1 when there is an error code.",
        "  flagsvc evaluate checkout-v2\n  flagsvc evaluate banner-text --targeting-key user-1 --attribute plan=pro --json\n"
        "  flagsvc evaluate checkout-v2 --targeting-key user-1 --explain",
    )
    options.add_flag_call(evaluate)
    evaluate.add_argument("--targeting-key", default="", metavar="KEY", help="who the flag is evaluated for")
    evaluate.add_argument(
        "--attribute",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a fact of the context; repeatable; JSON or text",
    )
    evaluate.add_argument("--context", metavar="JSON", help="the whole context as an object; targetingKey is its key")
    evaluate.add_argument(
        "--type", choices=("boolean", "string", "integer", "float", "object"), help="type that is needed"
    )
    evaluate.add_argument("--explain", action="store_true", help="show how it came about, step by step")
    options.add_min_revision(evaluate)
    get = add_command(
        commands,
        "get",
        run.call("get"),
        "Show a flag's definition.",
        "  flagsvc get checkout-v2 --json\n  flagsvc get checkout-v2 --min-revision 7",
    )
    options.add_flag_call(get)
    options.add_min_revision(get)
    listing = add_command(
        commands,
        "list",
        run.call("list_flags"),
        "List a flag set by sort order.",
        "  flagsvc list\n  flagsvc list --json",
    )
    options.add_set_call(listing)
    history = add_command(
        commands,
        "history",
        run.call("history"),
        "Show a flag's changes, newest first.",
        "  flagsvc history checkout-v2 --limit 5",
    )
    options.add_flag_call(history)
    history.add_argument("--limit", type=int, default=50, metavar="N", help="most entries to show [50]")
    watch = add_command(
        commands,
        "watch",
        run.call("watch"),
        "Print a flag set, then every change as it is applied; reconnects by itself; Ctrl-C ends it.",
        "  flagsvc watch\n  flagsvc watch --json | jq .flagKey",
    )
    options.add_set_call(watch)
    health = add_command(
        commands,
        "health",
        run.health,
        "Exit 0 when the server is SERVING, else 1.",
        "  flagsvc health\n  flagsvc health --service liveness",
    )
    options.add_set_call(health)
    health.add_argument(
        "--service", default="", help="readiness, liveness, store, cache or changes [readiness of the whole]"
    )


def _add_writes(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    toggle = add_command(
        commands,
        "toggle",
        run.call("toggle"),
        "Switch a flag on or off. Sent twice, it stays as wanted.",
        "  flagsvc toggle checkout-v2 off --reason 'error rate'\n  flagsvc toggle checkout-v2 off --wait-for applied",
    )
    options.add_flag_call(toggle)
    toggle.add_argument("state", choices=("on", "off"), help="the wanted state")
    options.add_author(toggle)
    options.add_etag(toggle)
    options.add_waiting(toggle)
    fields = "FIELD: name description category status config icon badge sortOrder variants defaultVariant targeting evaluators metadata owner expiresAt"
    create = add_command(
        commands,
        "create",
        run.call("create"),
        f"Create a flag. {fields}",
        "  flagsvc create checkout-v2 status=ENABLED name='New checkout'\n"
        """  flagsvc create banner 'variants={"a":"Hi","b":"Hello"}' defaultVariant=a status=ENABLED""",
    )
    options.add_flag_call(create)
    create.add_argument("fields", nargs="*", metavar="FIELD=VALUE", help="texts as they are, the rest as JSON")
    options.add_author(create)
    options.add_waiting(create)
    setting = add_command(
        commands,
        "set",
        run.call("set_fields"),
        f"Change fields of a flag; an empty value clears one. {fields}",
        "  flagsvc set checkout-v2 status=BETA owner=payments\n  flagsvc set file-upload 'config={\"maxFileSize\": 52428800}'",
    )
    options.add_flag_call(setting)
    setting.add_argument("fields", nargs="+", metavar="FIELD=VALUE", help="texts as they are, the rest as JSON")
    options.add_author(setting)
    options.add_etag(setting)
    options.add_waiting(setting)
    delete = add_command(
        commands, "delete", run.call("delete"), "Delete a flag; its history stays.", "  flagsvc delete checkout-v2"
    )
    options.add_flag_call(delete)
    options.add_author(delete)
    options.add_etag(delete)
    options.add_waiting(delete)


def _add_replicas(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    status = add_command(
        commands,
        "status",
        run.replicas("status"),
        "Show how every replica stands; exit status 0 when all are ready and have every change.",
        "  flagsvc status\n  flagsvc status --json | jq '.replicas[] | {replica, lag}'",
    )
    options.add_call(status)
    verify = add_command(
        commands,
        "verify",
        run.replicas("verify"),
        "Compare the shared cache with the store, flag by flag; exit status 0 when nothing wrong is left.",
        "  flagsvc verify\n  flagsvc verify --repair",
    )
    options.add_call(verify, timeout_s=60.0)
    verify.add_argument("--repair", action="store_true", help="put right what is wrong")


def _add_transfers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    importing = add_command(
        commands,
        "import",
        run.transfer("import_file"),
        "Import a flagd file or mongoexport lines into a store. The file is checked whole first; twice changes nothing.",
        "  flagsvc import flags.json --dry-run\n  flagsvc import flags.yaml --flag-set staging --prune\n"
        "  mongoexport --collection feature_flags > flags.ndjson\n"
        "  flagsvc import flags.ndjson --store sqlite:///flagsvc.db",
    )
    importing.add_argument(
        "file",
        metavar="FILE",
        help="flagd's JSON or (.yaml, .yml) YAML, or Extended JSON, a document a line (or one array); - is standard input",
    )
    importing.add_argument(
        "--cache", metavar="URL", help="shared cache to update and announce on [FLAGSVC_CACHE_URL; none]"
    )
    importing.add_argument("--dry-run", action="store_true", help="show what would change, write nothing")
    importing.add_argument("--prune", action="store_true", help="delete flags of the file's sets that it does not have")
    options.add_author(importing)
    exporting = add_command(
        commands,
        "export",
        run.transfer("export_file"),
        "Export a flag set as a flagd file or as mongoexport lines; import reads either back.",
        "  flagsvc export --output flags.json\n  flagsvc export --flag-set staging --output flags.yaml\n"
        "  flagsvc export --store sqlite:///flagsvc.db --output flags.ndjson",
    )
    exporting.add_argument(
        "--output", metavar="FILE", default="-", help="file to write, replaced atomically [standard output]"
    )
    exporting.add_argument(
        "--format",
        choices=("flagd", "flagd-yaml", "mongoexport"),
        help="[by the output's name: .json is flagd, .yaml and .yml flagd-yaml, all else mongoexport]",
    )
    for parser, sets in ((importing, "as the file says; default"), (exporting, "default")):
        parser.add_argument("--store", metavar="URL", help="store to use [FLAGSVC_STORE_URL; sqlite:///flagsvc.db]")
        parser.add_argument("--flag-set", metavar="SET", help=f"flag set [{sets}]")
        parser.add_argument("--json", action="store_true", help="print JSON for programs")
    validating = add_command(
        commands,
        "validate",
        run.validate,
        "Check flag files and list everything that is wrong with line and path; exit status 1 when something is.",
        "  flagsvc validate flags.json staging.yaml\n  flagsvc validate flags.json --json",
    )
    validating.add_argument("files", nargs="+", metavar="FILE", help="flagd's JSON or YAML, or mongoexport lines")
    validating.add_argument("--json", action="store_true", help="print JSON for programs, an object a file")
