"""The metadata of the client's package is right, and its generated form is current."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import flagsvc_client

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "clients" / "python"
PUBLISHED = metadata.metadata("flagsvc-client")


def test_version_and_licence() -> None:
    assert PUBLISHED["Version"] == flagsvc_client.__version__
    assert PUBLISHED["License-Expression"] == "Apache-2.0"
    assert PUBLISHED.get_all("License-File") == ["LICENSE"]
    assert (CLIENT / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_the_classifiers_begin_with_the_oldest_python() -> None:
    prefix = "Programming Language :: Python :: 3."
    classifiers = PUBLISHED.get_all("Classifier") or []
    minors = [int(each.removeprefix(prefix)) for each in classifiers if each.startswith(prefix + "1")]
    assert minors == list(range(11, 15))
    assert PUBLISHED["Requires-Python"] == f">=3.{minors[0]}"


def test_the_synchronous_client_is_what_the_asyncio_client_generates() -> None:
    subprocess.run([sys.executable, CLIENT / "generate_sync.py", "--check"], check=True)
