"""The unmodified OFREP provider for Python against `flagsvc serve`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from openfeature.exception import ErrorCode

from tests.ofrep.python_app import PythonApp
from tests.providers.cases import CASES, SELECTED_CASES, Case
from tests.replicas import Process

PYTHON_CASES = [case for case in CASES if case.key != "integer-as-float"]
"""The provider does not accept a whole number as a float, whatever the server."""


def url_of(process: Process) -> str:
    return f"http://127.0.0.1:{process.ofrep_port}"


@pytest.fixture(scope="module")
def app(served: Process) -> Iterator[PythonApp]:
    with PythonApp(url_of(served)) as app:
        yield app


@pytest.mark.parametrize("case", PYTHON_CASES, ids=str)
def test_answers(app: PythonApp, case: Case) -> None:
    found = app.ask(case)
    assert found.value == case.value
    assert type(found.value) is type(case.value)
    assert str(found.reason) == case.reason
    assert (found.variant or None) == case.variant
    assert (found.error_code.value if found.error_code else None) == case.error


def test_a_selector_chooses_the_flag_set(served: Process) -> None:
    with PythonApp(url_of(served), headers_factory=lambda: {"Flagd-Selector": "flagSetId=tenant-a"}) as app:
        for case in SELECTED_CASES:
            found = app.ask(case)
            assert (found.value, str(found.reason)) == (case.value, case.reason)
        assert app.evaluate("string", "only-a", "-").flag_metadata == {"tier": "gold", "flagSetId": "tenant-a"}


def test_an_application_sees_metadata(app: PythonApp) -> None:
    assert app.evaluate("boolean", "boolean", False).flag_metadata == {"team": "web", "rank": 3, "live": True}


def test_a_context_over_the_limit_is_an_invalid_context(app: PythonApp) -> None:
    found = app.evaluate("string", "by-country", "mine", attributes={"country": "CH", "more": "x" * 70_000})
    assert (found.value, found.error_code) == ("mine", ErrorCode.INVALID_CONTEXT)
