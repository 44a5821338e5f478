"""flagd's ResolveAll over the network, with 1,000 flags of three conditions each: the cost of a call for the server."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc

from benchmarks.load import cpu_s
from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2 as pb
from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2_grpc as pb_grpc
from tests.servers import free_port

FLAGS = 1_000
CALLS = 200


def measure(rule: Any, attributes: dict[str, Any]) -> tuple[float, float]:
    """Return the server's CPU time and the median latency of a call, both in milliseconds."""
    definition = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "on", "targeting": rule}
    document = {"flags": {f"flag-{number:04}": definition for number in range(FLAGS)}}
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "flags.json")
        path.write_text(json.dumps(document))
        command = [Path(sys.executable).with_name("flagsvc"), "serve", "--store", f"file:{path}", "--host", "127.0.0.1"]
        command += ["--port", str(port), "--sync-port", "-1", "--management-port", "-1", "--ofrep-port", "-1"]
        command += ["--log-level", "error"]
        server = subprocess.Popen(command, env={k: v for k, v in os.environ.items() if not k.startswith("FLAGSVC_")})
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                return _call(pb_grpc.ServiceStub(channel), server.pid, attributes)
        finally:
            server.terminate()
            server.wait()


def _call(stub: Any, pid: int, attributes: dict[str, Any]) -> tuple[float, float]:
    request = pb.ResolveAllRequest()
    request.context.update(attributes)
    deadline = time.monotonic() + 20
    while len(stub.ResolveAll(request, wait_for_ready=True, timeout=20).flags) < FLAGS:
        assert time.monotonic() < deadline, "the flags are not served"
    cpu, waits = cpu_s(pid), []
    for _ in range(CALLS):
        asked = time.perf_counter()
        stub.ResolveAll(request)
        waits.append((time.perf_counter() - asked) * 1e3)
    return (cpu_s(pid) - cpu) / CALLS * 1e3, statistics.median(waits)
