"""The documents are true: every block runs as it stands, in the order of reading, from a clean start, twice.

The second time everything is as the first reading left it, and nothing that a page does spoils what a later one shows.
`make test` reads once, `make test-long` twice.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pymongo
import pytest

from tests.databases import with_database
from tests.documents import blocks as markers
from tests.documents.blocks import PYTHON, ROOT, SHELL, Block, blocks, pages
from tests.documents.commands import Command, commands
from tests.documents.world import World
from tests.servers import RedisServer
from tests.typescript import building

pytestmark = pytest.mark.xdist_group("typescript")  # which has built the client for Node
PAGES = pages()
NOT_RUN = {
    "needs docker": 2,
    "needs grpcurl": 1,
    "downloads": 4,
    "make languages": 2,
    "developer": 3,
    "C#": 2,
    "a part": 1,
}
"""How many blocks are not run, by reason."""
ALL = [block for page in PAGES for block in blocks(page)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, mongo_url: str) -> Iterator[World]:
    with pymongo.MongoClient(mongo_url) as client:
        client.drop_database("flagsvc_test_documents")
    database = with_database(mongo_url, "flagsvc_test_documents")
    with RedisServer() as redis, World(tmp_path_factory.mktemp("w"), database, redis.url) as world:
        yield world


RUN = [page for page in PAGES if any(block.is_run_here for block in blocks(page))]
READINGS = [
    pytest.param(reading, page, id=f"{reading}-{page.relative_to(ROOT)}", marks=[pytest.mark.long] * (reading > 1))
    for reading in (1, 2, 3)
    for page in RUN
]
"""`make test` reads once. `make test-long` reads twice: there the second is the first, from a clean start."""


@pytest.mark.parametrize(("reading", "page"), READINGS)
def test_a_page_runs(world: World, reading: int, page: Path) -> None:
    world.begin_page()
    found = blocks(page)
    for block, after in zip(found, [*found[1:], None], strict=True):
        if block.is_run_here:
            run(world, block, after.text if after and after.is_output else comments(block.text))


def run(world: World, block: Block, shown: str) -> None:
    """Run a block; a provider for OpenFeature also as a comment says for evaluation in process."""
    if block.language in SHELL:
        for command in commands(block.text):
            world.run(command)
        return
    for code in dict.fromkeys((block.text, variant(block.text))):
        here = world.put(code)
        output = world.session().run(here, str(block)) if block.language in PYTHON else node(world, here)
        difference = Command(code, tuple(shown.splitlines())).difference(output)
        assert not difference, f"{block}: {difference}"


def comments(code: str) -> str:
    """Return what the code prints according to the comments behind its prints; `...` for one without a comment."""
    lines = re.findall(r"\b(?:print|console\.log)\(.*\);?(?: {1,2}(?:#|//) (.*))?$", code, re.MULTILINE)
    return "\n".join(line or "..." for line in lines) if any(lines) else ""


def variant(code: str) -> str:
    """Return the snippet with what follows "In your process:" in place of the provider before it."""
    match = re.search(r"^(?:#|//) In your process: (.*)\n", code, re.MULTILINE)
    if not match:
        return code
    before = code[: match.start()]
    provider = r"(?:new )?FlagdProvider\((?!.*FlagdProvider\().*?\)(?=\)\s*;?\s*$)"
    return re.sub(provider, match[1], before, count=1) + code[match.end() :]


def node(world: World, code: str) -> str:
    command = [str(building.NODE), "--input-type=module-typescript", "--eval", code]
    done = subprocess.run(
        command, cwd=world.folder, env=world.environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), f"{code}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_no_page_is_left_out() -> None:
    others = set(ROOT.glob("docs/**/*.md")) - set(PAGES) - {ROOT / "docs" / "README.md"}
    assert [str(path) for path in others if blocks(path)] == []
    assert {path.parent.name for path in others} == {"adr"}


def test_every_block_is_run_or_says_why_not() -> None:
    wrong = [f"{block}: {problem}" for block in ALL if (problem := unexplained(block))]
    assert wrong == []


def unexplained(block: Block) -> str:
    """Return what is wrong with the marker above a block, or with its lack."""
    reason = block.note.removeprefix("not run: ")
    if block.note.startswith("run by "):
        other = ROOT / block.note.removeprefix("run by ")
        return "" if other.is_file() else f"there is no {other.relative_to(ROOT)}"
    if block.note.startswith("not run: "):
        return "" if reason in markers.REASONS else f"{reason!r} is no reason of tests/documents/blocks.py"
    if block.is_run_here or block.language in {"", "mermaid"}:
        return "" if not block.text.startswith("$ ") or block.language else "a console block without its language"
    return f"code in {block.language}, without a marker above it"


def test_what_is_not_run_is_counted() -> None:
    """A block that is not run any more is a decision: this number changes with it."""
    counts = Counter(block.note or "run here" for block in ALL if block.language not in {"", "mermaid"})
    assert counts.pop("run here") >= 59
    not_run = {note: count for note, count in counts.items() if note.startswith("not run")}
    assert not_run == {f"not run: {reason}": count for reason, count in NOT_RUN.items()}
