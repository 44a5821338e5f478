"""The Java and Go samples: compiled and run against `flagsvc serve` where their toolchains exist, otherwise read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.languages.conftest import Say
from tests.languages.samples import EVERYTHING, GO, JAVA, Sample, contract_names, run
from tests.providers.cases import SWITCH, flag
from tests.providers.servers import serving

pytestmark = pytest.mark.timeout(900 if EVERYTHING else 120)
FOR_ONE = {"if": [{"==": [{"var": "targetingKey"}, "user-7"]}, "on", "off"]}
FLAGS = [flag("checkout-v2", SWITCH, "off", targeting=FOR_ONE)]
CALLS = re.compile(
    r"newBuilder\(\)((?:\.set\w+\([^()]*\))+)|\.(evaluateFlag|EvaluateFlag)\(|\.[gG]et(\w+)\(\)|^\s*(\w+):",
    re.MULTILINE,
)


@pytest.mark.parametrize("sample", [JAVA, GO], ids=["java", "go"])
def test_what_a_sample_calls_is_in_the_contract(sample: Sample) -> None:
    called = set()
    for setters, method, getter, field in CALLS.findall(sample.source.read_text()):
        called |= {name for name in (method, getter, field) if name}
        called |= set(re.findall(r"\.set(\w+)\(", setters))
    called -= {"Instance", "Client", "BooleanDetails"}
    names = contract_names()
    assert len(called) >= 6
    assert [name for name in called if name.lower() not in names] == []


@pytest.mark.long
def test_java_asks_through_its_stub_and_through_the_flagd_provider(tmp_path: Path, say: Say) -> None:
    if lacking := JAVA.lacking():
        say(f"the Java sample was not run: {lacking}")
        return
    with serving(tmp_path / "flags.db", FLAGS) as (process, _):
        asked = f"127.0.0.1 {process.port} {process.sync_port} checkout-v2 user-7"
        options = ("--batch-mode", "--quiet", *(() if EVERYTHING else ("--offline",)))
        arguments = ("compile", "exec:java", f"-Dexec.args={asked}")
        output = run(JAVA, "mvn", *options, *arguments, MAVEN_OPTS="-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
    if output is None:
        say("the Java sample was not run: its packages are not here yet; `make languages` downloads them")
        return
    assert _answers(output) == [
        "stub: true on REASON_TARGETING_MATCH",
        "flagd rpc: true on TARGETING_MATCH",
        "flagd in-process: true on TARGETING_MATCH",
    ]


def test_go_asks_through_its_stub(tmp_path: Path, say: Say) -> None:
    if lacking := GO.lacking():
        say(f"the Go sample was not run: {lacking}")
        return
    with serving(tmp_path / "flags.db", FLAGS) as (process, _):
        output = run(GO, "go", "run", ".", process.address, "checkout-v2", "user-7", GOPROXY="off")
    if output is None:
        say("the Go sample was not run: its modules are not here yet; `make languages` downloads them")
        return
    assert _answers(output) == ["stub: true on REASON_TARGETING_MATCH"]


def _answers(output: str) -> list[str]:
    """The sample's output lines, without the terminal codes that Maven prints."""
    return re.findall(r"(?:stub|flagd [\w-]+): .*", output)
