"""flagd's files, JSON or YAML: their bytes checked and read into flags, every finding with its line."""

from __future__ import annotations

from dataclasses import dataclass, field

from flagsvc.adapters.files.parse import parse
from flagsvc.adapters.files.text import FlagText
from flagsvc.core.flagd import reading
from flagsvc.core.flagd.reading import Finding
from flagsvc.core.json_values import Path, json_path
from flagsvc.core.model import Flag

_WITHIN_A_FLAG = 3
"""Steps of a path to one of a flag's fields: when a text has a problem inside of it, nothing else is said of it."""
_LONGEST_STEP = 100


@dataclass(frozen=True, slots=True, order=True)
class Located:
    """A finding: its line from 1, its JSONPath, and what is wrong there or ignored."""

    line: int
    path: str
    text: str

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.line}: {self.path}: {self.text}"


@dataclass(slots=True)
class CheckedFile:
    """What a file holds, and all that is to be said about it, in the order of its lines."""

    flags: list[Flag] = field(default_factory=list)
    violations: list[Located] = field(default_factory=list)
    notes: list[Located] = field(default_factory=list)


def checked(name: str, raw: bytes, flag_set: str | None = None) -> CheckedFile:
    """Read and check a file's bytes; its name says whether it is YAML. `flag_set` overrules the sets it names."""
    text = parse(name, raw)
    if not text.parsed:
        return CheckedFile(violations=_located(text, text.problems))
    content = reading.read(text.document, flag_set)
    told = {problem.path[:length] for problem in text.problems for length in range(_WITHIN_A_FLAG, len(problem.path))}
    told |= {problem.path for problem in text.problems}
    violations = text.problems + [each for each in content.violations if each.path not in told]
    return CheckedFile(content.flags, _located(text, violations), _located(text, text.notes + content.notes))


def _located(text: FlagText, findings: list[Finding]) -> list[Located]:
    return sorted(Located(text.lines(each.path), _shown(each.path), each.text) for each in findings)


def _shown(path: Path) -> str:
    """Show a path, very long names cut, and what no output can encode escaped."""
    longest = _LONGEST_STEP
    short = tuple(f"{s[:longest]}..." if isinstance(s, str) and len(s) > longest else s for s in path)
    return json_path(short).encode("utf-8", "backslashreplace").decode()
