"""Runs each command; imports what it needs only then, so that `--help` and `health` start quickly."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

Command = Callable[[argparse.Namespace], int]


class Described(NamedTuple):
    """A command, and what adds its arguments to its parser."""

    run: Command
    add_arguments: Callable[[argparse.ArgumentParser], None]


def serve(args: argparse.Namespace) -> int:
    """Serve until a signal arrives. A signal before the server has started ends the process immediately."""
    from flagsvc.settings import Settings, kubernetes_names  # noqa: PLC0415
    from flagsvc.signals import STOP, exit_at_once_on  # noqa: PLC0415

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


def on_server(module: str, name: str) -> Command:
    """Return the function that runs a command of a module of `flagsvc.cli` with a stub of a server."""

    def run(args: argparse.Namespace) -> int:
        from flagsvc.cli.calls import Stub, with_stub  # noqa: PLC0415

        command = getattr(import_module(f"flagsvc.cli.{module}"), name)
        return with_stub(args, lambda stub: int(command(args, stub)), Stub)

    return run


def in_module(module: str, name: str) -> Command:
    """Return the function that runs a command of a module of `flagsvc.cli`."""

    def run(args: argparse.Namespace) -> int:
        command: Command = getattr(import_module(f"flagsvc.cli.{module}"), name)
        return command(args)

    return run
