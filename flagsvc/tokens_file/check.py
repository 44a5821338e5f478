"""Checks the file of tokens, for `flagsvc doctor`."""

from __future__ import annotations

from flagsvc.adapters.causes import Cause
from flagsvc.adapters.checks.steps import Finding, Steps
from flagsvc.tokens_file.follow import read


def check_tokens_file(path: str) -> list[Finding]:
    """Check that the file can be used."""
    steps = Steps("tokens", lambda error: Cause(str(error)[:300], "correct the file; docs/access.md describes it"))
    steps.run("file", lambda: f"{len(read(path))} tokens")
    return steps.findings
