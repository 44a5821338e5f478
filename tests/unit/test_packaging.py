"""What is published about the package is right, and an image has what its build needs."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

from hatchling.builders.wheel import WheelBuilder

import flagsvc
from flagsvc.cli.transfer import EXAMPLES

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_version_stands_in_one_place() -> None:
    assert metadata.version("flagsvc") == flagsvc.__version__
    compose = (ROOT / "docker-compose.prod.yml").read_text()
    assert f"image: flagsvc:${{FLAGSVC_VERSION:-{flagsvc.__version__}}}" in compose


def test_the_licence_is_published() -> None:
    published = metadata.metadata("flagsvc")
    assert published["License-Expression"] == "Apache-2.0"
    assert published.get_all("License-File") == ["LICENSE"]
    text = (ROOT / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in text
    assert text.rstrip().endswith("limitations under the License.")


def test_the_classifiers_begin_with_the_oldest_python() -> None:
    prefix = "Programming Language :: Python :: 3."
    published = metadata.metadata("flagsvc").get_all("Classifier") or []
    minors = [int(each.removeprefix(prefix)) for each in published if each.startswith(prefix)]
    assert minors == list(range(11, 15))
    assert metadata.metadata("flagsvc")["Requires-Python"] == f">=3.{minors[0]}"


def test_the_image_is_built_from_all_that_the_package_needs() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    project = PYPROJECT["project"]
    packages = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sources >= {"pyproject.toml", project["readme"], *project["license-files"], *packages}
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert sources == allowed


def test_the_wheel_has_the_example_flags() -> None:
    """And so the image, which is built from it."""
    included = {each.distribution_path for each in WheelBuilder(str(ROOT)).recurse_included_files()}
    assert EXAMPLES.relative_to(ROOT).as_posix() in included
