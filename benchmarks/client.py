"""Measures the Python client against its budgets: local evaluation, calls, import, and a thousand local clients."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from flagsvc_client.stubs.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc_client.stubs.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from flagsvc_client.stubs.flagsvc.v1 import types_pb2 as types
from rich.console import Console
from rich.table import Table

from benchmarks import client_cost, client_fleet
from benchmarks.client_cost import RULE, RULE_KEY, SWITCH_KEY, Figure
from benchmarks.client_picture import draw
from benchmarks.tiers import process
from tests.servers import free_port

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
PROGRESS = Console(stderr=True)
PARTS: dict[str, Callable[[str], list[Figure]]] = {
    "local": client_cost.local,
    "network": client_cost.network,
    "import": lambda _: client_cost.importing(),
    "fleet": lambda target: client_fleet.propagation(target, PROGRESS.print),
}


def main() -> None:
    """Measure and print the table; after a complete run, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=list(PARTS), help="measure one part, and write no files")
    args = parser.parse_args()
    console = Console(width=120)
    versions = f"grpcio {grpc.__version__}, Python {platform.python_version()}, {os.cpu_count()} CPUs"
    console.print(versions)
    figures: dict[str, list[Figure]] = {}
    with serving() as target:
        for name in [args.only] if args.only else PARTS:
            PROGRESS.print(f"measuring: {name}")
            figures[name] = PARTS[name](target)
    console.print(_table(figures))
    if args.only:
        return
    OUT.mkdir(parents=True, exist_ok=True)
    values = {name: {figure.name: figure.values for figure in part} for name, part in figures.items()}
    record = {"command": "python -m benchmarks.client", "versions": versions, "figures": values}
    (OUT / "client.json").write_text(json.dumps(record, indent=1) + "\n")
    draw(figures, OUT / "client.png")
    console.print(f"written: {OUT / 'client.png'} and client.json")


@contextmanager
def serving() -> Iterator[str]:
    """Serve an embedded store with both flags in a separate process; yield the target."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [Path(sys.executable).with_name("flagsvc"), "serve", "--store", f"sqlite:///{folder}/flags.db"]
        command += ["--cache", "none", "--host", "127.0.0.1", "--port", str(port), "--management-port", "-1"]
        command += ["--sync-port", "-1", "--ofrep-port", "-1", "--log-level", "error"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FLAGSVC_")}
        with process(command, environment):
            _fill(f"127.0.0.1:{port}")
            yield f"127.0.0.1:{port}"


def _fill(target: str) -> None:
    rule = types.Flag(key=RULE_KEY, status="FLAG_STATUS_ENABLED", targeting=RULE, default_variant="on")
    for name in ("on", "off"):
        rule.variants[name].boolean_value = name == "on"
    with grpc.insecure_channel(target) as channel:
        create = pb_grpc.FlagServiceStub(channel).CreateFlag
        deadline = time.monotonic() + 15
        for flag in (rule, types.Flag(key=SWITCH_KEY, status="FLAG_STATUS_ENABLED")):
            create(pb.CreateFlagRequest(flag=flag), timeout=deadline - time.monotonic(), wait_for_ready=True)


def _table(figures: dict[str, list[Figure]]) -> Table:
    table = Table(title="the Python client, median of the rounds (min to max)")
    table.add_column("")
    for column in ("measured", "budget", ""):
        table.add_column(column, justify="right")
    for part in figures.values():
        for figure in part:
            budget = "-" if figure.budget is None else f"{figure.budget:g} {figure.unit}"
            verdict = "" if figure.budget is None else ("met" if figure.met else "MISSED")
            table.add_row(figure.name, _cell(figure), budget, verdict)
        table.add_section()
    return table


def _cell(figure: Figure) -> str:
    digits = 2 if figure.median < 10 else 0
    low, high = min(figure.values), max(figure.values)
    return f"{figure.median:,.{digits}f} {figure.unit} ({low:,.{digits}f} to {high:,.{digits}f})"


if __name__ == "__main__":
    main()
