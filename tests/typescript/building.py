"""The TypeScript client, built as its users would."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "clients" / "typescript"
NODE = Path(sys.executable).with_name("node")
BUILD_S = 300


def npm(*arguments: str, seconds: float, **environment: str) -> str:
    """Run this environment's npm in the client's folder and return its output."""
    beside = Path(sys.executable).parent
    env = {**os.environ, "PATH": f"{beside}{os.pathsep}{os.environ.get('PATH', '')}", **environment}
    options: dict[str, Any] = {"cwd": FOLDER, "env": env, "capture_output": True, "text": True, "timeout": seconds}
    done = subprocess.run([str(beside / "npm"), "--loglevel=error", *arguments], check=False, **options)
    assert done.returncode == 0, f"`npm {' '.join(arguments)}` failed:\n{done.stdout[-6000:]}{done.stderr[-2000:]}"
    return done.stdout


@cache
def build() -> None:
    """Install the packages that the lock file names, unless they are there, and compile the contract as it is; once."""
    lock, stamp = FOLDER / "package-lock.json", FOLDER / "node_modules" / ".installed"
    if not stamp.exists() or stamp.stat().st_mtime < lock.stat().st_mtime:
        npm("ci", "--ignore-scripts", "--no-audit", "--no-fund", seconds=BUILD_S)
        stamp.touch()
    npm("run", "build", seconds=BUILD_S)
