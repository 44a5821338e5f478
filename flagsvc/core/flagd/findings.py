"""What is found in a flag file: its flags, and what is wrong or odd, each with its path."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import Violation
from ..json_values import Path
from ..model import Flag

_MAX_PATH_STEPS = 12
"""Reported paths into deeply nested rules are cut after this many steps."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A violation or a warning (what is wrong, and what is valid) or a note (what is ignored) at a path in the file."""

    path: Path
    text: str


@dataclass(slots=True)
class FlagFile:
    """The content of a file. With violations it must not be used; `flags` then has only the valid flags.

    `warnings`: what is odd, and served as flagd serves it.
    """

    flags: list[Flag] = field(default_factory=list)
    violations: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    _seen: set[Finding] = field(default_factory=set)

    def wrong(self, path: Path, text: str) -> None:
        """Add a violation."""
        self.add(path, text, is_odd=False)

    def odd(self, path: Path, text: str) -> None:
        """Add a warning."""
        self.add(path, text, is_odd=True)

    def note(self, path: Path, text: str) -> None:
        """Add a note."""
        self.notes.append(Finding(path, text))

    def add(self, path: Path, text: str, *, is_odd: bool) -> None:
        """Add a warning where it is only odd, else a violation: each once."""
        finding = Finding(path[:_MAX_PATH_STEPS], text)
        if finding not in self._seen:
            self._seen.add(finding)
            (self.warnings if is_odd else self.violations).append(finding)


def path_of(violated: str, path: Path) -> Path:
    """Return the path in the file of a field as validation names it, such as `flag.variants[on]`."""
    name, _, rest = violated.removeprefix("flag.").partition("[")
    steps = {"flag": (), "key": (), "flag_set": ("metadata", "flagSetId"), "default_variant": ("defaultVariant",)}
    return (*path, *steps.get(name, (name,)), *((rest[:-1],) if rest else ()))


def text_of(violation: Violation) -> str:
    """Return a violation as a text for a finding."""
    return f"{violation.found}; it must be {violation.wanted}" if violation.wanted else violation.found
