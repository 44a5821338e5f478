"""Generates the synchronous client from the asyncio one; with --check, reports whether the committed files are current.

The two differ in these words alone. What differs in more than words is in `flagsvc_client/transport`.
"""

import re
import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).parent / "flagsvc_client"
FOLDERS = (
    CLIENT,
    *(CLIENT / name for name in ("definitions", "following", "revisions", "rollouts", "schedules", "segments")),
)
"""Each has the source, aio.py, and what it generates, sync.py."""
REPLACEMENTS = (
    (r'\A""".*?"""', '"""For threads. Generated from aio.py by `make sync-client`; do not edit."""'),
    (r"Feature flags for asyncio", "Feature flags for any number of threads"),
    (
        r"    It can be used in several event loops, one after the other or each in its thread, and be opened again",
        "    It can be opened again",
    ),
    (r"\bAsync(FlagClient|Definitions|Follower|Revisions|Rollouts|Schedules|Segments)\b", r"\1"),
    (r"`async with`", "`with`"),
    (r"\basync (def|for|with)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bAsyncIterator\b", "Iterator"),
    (r"\baclosing\b", "closing"),
    (r"\b__a(enter|exit)__\b", r"__\1__"),
    (r"\b(transport|definitions|following|revisions|rollouts|schedules|segments)\.aio\b", r"\1.sync"),
)


def generate(folder: Path) -> str:
    """Return the source with every replacement made, its imports sorted and its lines wrapped as usual."""
    text = (folder / "aio.py").read_text()
    for pattern, replacement in REPLACEMENTS:
        text = re.sub(pattern, replacement, text, flags=re.DOTALL)
    for command in (["check", "--fix-only", "--quiet", "--select=I"], ["format", "--quiet"]):
        ruff = [sys.executable, "-m", "ruff", *command, f"--stdin-filename={folder / 'sync.py'}", "-"]
        text = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True).stdout
    return text


if __name__ == "__main__":
    sources = "".join((folder / "aio.py").read_text() for folder in FOLDERS)
    for pattern, _ in REPLACEMENTS:
        if not re.search(pattern, sources, flags=re.DOTALL):
            sys.exit(f"no aio.py contains {pattern}: change REPLACEMENTS")
    for each in FOLDERS:
        if "--check" not in sys.argv:
            (each / "sync.py").write_text(generate(each))
        elif (each / "sync.py").read_text() != generate(each):
            sys.exit(f"{each.name}/sync.py is not what aio.py generates. Run: make sync-client")
