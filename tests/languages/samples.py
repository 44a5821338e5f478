"""The samples of clients/: which toolchains they need, how they run, and whether their calls match the contract."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types

CLIENTS = Path(__file__).parents[2] / "clients"
EVERYTHING = "WITH_DOWNLOADS" in os.environ
"""Set by `make languages`: samples may download what they need, and each whose toolchain is installed must run."""
RUN_S = 100 if not EVERYTHING else 600
_NOT_HERE = re.compile(r"offline mode|module lookup disabled by GOPROXY=off|not been downloaded from it before")


@dataclass(frozen=True)
class Sample:
    """A program that evaluates one flag. `made`: what must have been generated before it can be built."""

    folder: Path
    source: Path
    tools: tuple[str, ...]
    made: tuple[Path, ...] = ()

    def lacking(self) -> str:
        """Return why it cannot be run here; empty when it can."""
        if tools := [tool for tool in self.tools if shutil.which(tool) is None]:
            return f"no {' and no '.join(tools)} on PATH"
        made = [path.name for path in self.made if not path.exists()]
        return "`make languages` has not been run" if made else ""


JAVA = Sample(CLIENTS / "java", CLIENTS / "java/src/main/java/example/Main.java", ("java", "mvn"))
GO = Sample(CLIENTS / "go", CLIENTS / "go/main.go", ("go",), (CLIENTS / "stubs/go/go.mod",))


def run(sample: Sample, *command: str, **offline: str) -> str | None:
    """Return the sample's output; None when its packages are not on this machine and may not be downloaded."""
    environment = {**os.environ, **({} if EVERYTHING else offline)}
    options = {"cwd": sample.folder, "env": environment, "capture_output": True, "text": True, "timeout": RUN_S}
    done = subprocess.run(command, check=False, **options)
    if done.returncode != 0 and not EVERYTHING and _NOT_HERE.search(done.stdout + done.stderr):
        return None
    assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


def contract_names() -> set[str]:
    """Every name that a sample may use, as Java and Go write it, without get, set and underscores, in lower case."""
    names = {method.name for method in pb.DESCRIPTOR.services_by_name["FlagService"].methods}
    for file in (pb.DESCRIPTOR, types.DESCRIPTOR):
        for message in file.message_types_by_name.values():
            names |= {message.name, *(field.name for field in message.fields)}
    return {name.replace("_", "").lower() for name in names}
