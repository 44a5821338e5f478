"""Runs each command; imports what it needs only then, so that `--help` and `health` start quickly."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from importlib import import_module

from flagsvc.settings import Settings, kubernetes_names
from flagsvc.signals import STOP, exit_at_once_on

Command = Callable[[argparse.Namespace], int]


def serve(args: argparse.Namespace) -> int:
    """Serve until a signal arrives. A signal before the server has started ends the process immediately."""
    exit_at_once_on(*STOP)
    given = {name: value for name, value in vars(args).items() if name not in ("command", "run") and value is not None}
    overrides = {name: ",".join(value) if isinstance(value, list) else value for name, value in given.items()}
    settings = Settings.from_env(os.environ, overrides)  # an error is shown before anything large is imported
    import asyncio  # noqa: PLC0415  only `serve` needs it

    import structlog  # noqa: PLC0415
    import uvloop  # noqa: PLC0415

    from flagsvc.server import run  # noqa: PLC0415
    from flagsvc.telemetry import configure_logging  # noqa: PLC0415

    configure_logging(settings.log_level, settings.log_format)
    if names := kubernetes_names(os.environ):
        detail = "Kubernetes sets these for Services whose names begin with flagsvc; they are not settings."
        structlog.get_logger(__name__).info("kubernetes_variables_ignored", names=names, detail=detail)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run(settings))


def on_store(name: str) -> Command:
    """Return the function that runs a command of `transfer` on a store."""

    def run(args: argparse.Namespace) -> int:
        settings = Settings.from_env(os.environ)
        args.store = args.store or settings.store_url
        args.cache = getattr(args, "cache", None) or settings.cache_url
        return in_module("transfer", name)(args)

    return run


def on_server(name: str) -> Command:
    """Return the function that runs a command of `service_commands` or `replica_commands` against a server."""

    def run(args: argparse.Namespace) -> int:
        from flagsvc.cli import replica_commands, service_commands  # noqa: PLC0415
        from flagsvc.cli.channels import server_address  # noqa: PLC0415

        args.address = server_address(args, os.environ)
        others = name in ("status", "verify", "resync", "bucketing")
        command = getattr(replica_commands if others else service_commands, name)
        return service_commands.with_stub(args, lambda stub: int(command(args, stub)))

    return run


def in_module(module: str, name: str) -> Command:
    """Return the function that runs a command of a module of `flagsvc.cli`."""

    def run(args: argparse.Namespace) -> int:
        command: Command = getattr(import_module(f"flagsvc.cli.{module}"), name)
        return command(args)

    return run
