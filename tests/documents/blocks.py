"""The code blocks of the documents, in the order in which they are read, and what their markers say.

A block that is not run here has a comment above it, which a reader does not see:

    <!-- not run: REASON -->          REASON is one of `REASONS`
    <!-- run by tests/FILE.py -->     that test runs it
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
REASONS = {
    "needs docker": "containers are built and started",
    "needs grpcurl": "it is on no test machine; it was tried by hand",
    "downloads": "packages are installed or generated, which `make languages` does",
    "make languages": "a part of a program; `make languages` runs a whole one with the same calls",
    "developer": "the repository's own checks, some of them for minutes",
    "C#": "its toolchain is on no test machine",
    "a part": "lines of a larger file",
}
"""Why a block cannot run in a test, and what that means."""

SHELL, PYTHON, JAVASCRIPT = {"console"}, {"python"}, {"js", "typescript"}
OTHERS = {"go", "java", "rust", "csharp", "yaml", "json", "sh", "redis"}
"""Blocks in these languages are run by another test, or not at all; all others have to have no language."""

_BLOCK = re.compile(r"(?:^<!-- ([^\n]*) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """Code of a page. `line` is where it begins; `note` is the marker above it; `before` is the line of text before."""

    page: Path
    line: int
    language: str
    text: str
    note: str
    before: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def is_run_here(self) -> bool:
        return self.language in SHELL | PYTHON | JAVASCRIPT and not self.note

    @property
    def is_output(self) -> bool:
        """Whether this is what the block before it prints."""
        return not self.language and self.before.endswith("prints:")


def pages() -> list[Path]:
    """Return README, the pages of docs/ in the order of their index, and the clients' READMEs."""
    index = (ROOT / "docs" / "README.md").read_text()
    names = dict.fromkeys(re.findall(r"^\| \[.*?\]\((.*?\.md)\)", index, re.MULTILINE))
    found = [ROOT / "README.md", *((ROOT / "docs" / name).resolve() for name in names)]
    return found + [page for page in sorted(ROOT.glob("clients/*/README.md")) if page not in found]


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page."""
    text = page.read_text()
    found = []
    for match in _BLOCK.finditer(text):
        above = text[: match.start()].rstrip().rpartition("\n")[2]
        line = text.count("\n", 0, match.start(2)) + 1
        found.append(Block(page, line, match[2], match[3], match[1] or "", above))
    return found
