"""Checks that run one after the other, and what they find."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from typing import NamedTuple

from flagsvc.adapters.causes import Cause

MAX_SKEW_S = 5.0
"""By how much two clocks may differ before times in flags and logs mislead."""


class Outcome(StrEnum):
    """What a check found. `SKIPPED`: it needs one that failed."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


class Finding(NamedTuple):
    """What one check found, and what to do about a failure."""

    subject: str
    check: str
    outcome: Outcome
    detail: str
    cure: str = ""


class CheckFailed(Exception):
    """Something works otherwise than it must; for what no driver raises an error."""

    def __init__(self, text: str, cure: str) -> None:
        super().__init__(text)
        self.cause = Cause(text, cure)


class Steps:
    """Runs the checks of one subject. Once a check that others need has failed, the others are skipped."""

    def __init__(self, subject: str, cause_of: Callable[[Exception], Cause]) -> None:
        self._subject, self._cause_of = subject, cause_of
        self._blocked_by = ""
        self.findings: list[Finding] = []

    def run(self, check: str, work: Callable[[], str], *, needed: bool = False) -> None:
        """Run one check, which returns what it found or raises. `needed`: the later ones make no sense without."""
        if self._blocked_by:
            self._add(check, Outcome.SKIPPED, f"needs: {self._blocked_by}")
            return
        try:
            detail = work()
        except CheckFailed as failed:
            cause = failed.cause
        except Exception as error:  # noqa: BLE001  whatever it is, it is what the check found
            cause = self._cause_of(error)
        else:
            self._add(check, Outcome.OK, detail)
            return
        self._add(check, Outcome.FAILED, cause.text, cause.cure)
        if needed:
            self._blocked_by = check

    def _add(self, check: str, outcome: Outcome, detail: str, cure: str = "") -> None:
        self.findings.append(Finding(self._subject, check, outcome, detail, cure))


@contextmanager
def closing_quietly(close: Callable[[], object]) -> Iterator[None]:
    """Close at the end, whatever closing says."""
    try:
        yield
    finally:
        with suppress(Exception):
            close()


def clock_detail(skew_s: float, of: str) -> str:
    """Describe by how much a server's clock differs from this machine's. Raises CheckFailed."""
    text = f"{of} is {abs(skew_s):.1f} s {'ahead of' if skew_s > 0 else 'behind'} this machine's clock"
    if abs(skew_s) > MAX_SKEW_S:
        raise CheckFailed(text, "set both clocks by NTP")
    return text
