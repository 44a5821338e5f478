"""Reads and validates flagd's files, JSON or YAML, and reports every finding with its line."""

from __future__ import annotations

from dataclasses import dataclass, field

from flagsvc.adapters.files.parse import parse
from flagsvc.adapters.files.text import FlagText
from flagsvc.core.flagd import reading
from flagsvc.core.flagd.findings import Finding
from flagsvc.core.json_values import Path, json_path
from flagsvc.core.model import Flag

_FIELD_STEPS = 3
"""Path steps to a flag's field. If the text has a problem within a field, other findings on the field are dropped."""
_MAX_STEP_CHARS = 100


@dataclass(frozen=True, slots=True, order=True)
class Located:
    """A finding with its line (from 1) and its JSONPath."""

    line: int
    path: str
    text: str

    def __str__(self) -> str:
        """Return the finding as one line."""
        return f"{self.line}: {self.path}: {self.text}"


@dataclass(slots=True)
class CheckedFile:
    """The flags of a file, and all findings in the order of their lines: see `FlagFile`."""

    flags: list[Flag] = field(default_factory=list)
    violations: list[Located] = field(default_factory=list)
    warnings: list[Located] = field(default_factory=list)
    notes: list[Located] = field(default_factory=list)


def checked(name: str, raw: bytes, flag_set: str | None = None, *, is_write: bool = True) -> CheckedFile:
    """Read and validate a file, YAML or JSON by its name. `flag_set` takes precedence over the sets that it names.

    `is_write`: its flags are to be written to a store, which limits their sizes.
    """
    text = parse(name, raw)
    if not text.parsed:
        return CheckedFile(violations=_located(text, text.problems))
    content = reading.read(text.document, flag_set, is_write=is_write)
    reported = {problem.path[:length] for problem in text.problems for length in range(_FIELD_STEPS, len(problem.path))}
    reported |= {problem.path for problem in text.problems}
    violations = text.problems + [each for each in content.violations if each.path not in reported]
    findings = violations, text.warnings + content.warnings, text.notes + content.notes
    return CheckedFile(content.flags, *(_located(text, each) for each in findings))


def _located(text: FlagText, findings: list[Finding]) -> list[Located]:
    return sorted(Located(text.lines(each.path), _path_text(each.path), each.text) for each in findings)


def _path_text(path: Path) -> str:
    """Return a path as text, with long names cut and lone surrogates escaped."""
    limit = _MAX_STEP_CHARS
    short = tuple(f"{s[:limit]}..." if isinstance(s, str) and len(s) > limit else s for s in path)
    return json_path(short).encode("utf-8", "backslashreplace").decode()
