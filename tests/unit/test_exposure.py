"""A flag's exposure in documents, in flagd's files and on the command line. What is in doubt is not public."""

from __future__ import annotations

from typing import Any

import pytest

from flagsvc.cli.arguments import edited, read_edits
from flagsvc.cli.usage import UsageError
from flagsvc.core.documents import dumps, from_document, loads, to_document
from flagsvc.core.flagd.merging import merged
from flagsvc.core.flagd.reading import read
from flagsvc.core.flagd.writing import write
from flagsvc.core.model import Exposure, Flag, JsonValue, Status

ON = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "on"}
PUBLIC = Flag(key="a", status=Status.ENABLED, exposure=Exposure.PUBLIC, metadata={"team": "web"})
INTERNAL = Flag(key="b", status=Status.ENABLED, metadata={"team": "web"})


def test_a_document_has_it_only_where_the_flag_is_public() -> None:
    assert to_document(PUBLIC)["exposure"] == "PUBLIC"
    assert "exposure" not in to_document(INTERNAL)
    assert loads(dumps(PUBLIC)) == PUBLIC
    assert not from_document({"key": "a", "status": "ENABLED"}).is_public, "a document of the existing system"


@pytest.mark.parametrize("value", ["public", "", "ALL", True, 1, ["PUBLIC"], {}])
def test_a_stored_word_that_is_none_is_a_problem_and_not_public(value: JsonValue) -> None:
    flag = from_document({"key": "a", "exposure": value})
    assert (flag.is_public, flag.problem) == (False, "The stored definition is malformed: exposure")


def file(metadata: Any = None, **flags: Any) -> dict[str, Any]:
    return {"flags": {key: {**ON, "metadata": own} for key, own in flags.items()}, "metadata": metadata or {}}


def exposures(document: dict[str, Any], *, is_write: bool = True) -> dict[str, str]:
    return {flag.key: flag.exposure.value for flag in read(document, is_write=is_write).flags}


def test_a_file_has_it_in_the_metadata_and_evaluations_do_not() -> None:
    document = file(a={"flagsvcExposure": "PUBLIC", "team": "web"}, b={"flagsvcExposure": "INTERNAL"}, c={})
    found = read(document)
    assert exposures(document) == {"a": "PUBLIC", "b": "INTERNAL", "c": "INTERNAL"}
    assert [flag.metadata for flag in found.flags] == [{"team": "web"}, {}, {}]
    assert (found.violations, found.warnings) == ([], [])
    assert exposures(file({"flagsvcExposure": "PUBLIC"}, a={}, b={"flagsvcExposure": "INTERNAL"})) == {
        "a": "PUBLIC",
        "b": "INTERNAL",
    }


@pytest.mark.parametrize("value", ["public", "", 1, True, ["PUBLIC"]])
@pytest.mark.parametrize("is_own", [True, False])
def test_another_word_is_refused_and_served_as_internal(value: JsonValue, is_own: bool) -> None:
    wrong = {"flagsvcExposure": value}
    document = file({} if is_own else wrong, a=wrong if is_own else {})
    [violation] = [each for each in read(document).violations if 'must be "INTERNAL"' in each.text]
    wanted = ("flags", "a", "metadata", "flagsvcExposure") if is_own else ("metadata", "flagsvcExposure")
    assert violation.path == wanted
    served = read(document, is_write=False)
    assert exposures(document, is_write=False) == {"a": "INTERNAL"}
    assert [each.path for each in served.warnings if 'must be "INTERNAL"' in each.text] == [wanted]


@pytest.mark.parametrize("flags", [[PUBLIC, INTERNAL], [PUBLIC], [INTERNAL]])
def test_an_export_and_an_import_change_nothing(flags: list[Flag]) -> None:
    document = write(flags)
    assert exposures(document) == {flag.key: flag.exposure.value for flag in flags}
    assert [flag.metadata for flag in read(document).flags] == [{"team": "web"}] * len(flags)


def test_an_import_takes_it_like_all_metadata() -> None:
    stored = Flag(key="a", status=Status.ENABLED, exposure=Exposure.PUBLIC)
    for metadata, exposure in (({}, Exposure.INTERNAL), ({"flagsvcExposure": "PUBLIC"}, Exposure.PUBLIC)):
        [wanted] = read(file(a=metadata)).flags
        assert merged(stored, wanted).exposure is exposure
        assert merged(Flag(key="a", status=Status.ENABLED), wanted).exposure is exposure


def test_the_command_line_sets_it_by_its_word() -> None:
    def given(value: str) -> Exposure:
        return edited(Flag(key="a", exposure=Exposure.PUBLIC), read_edits([f"exposure={value}"])).exposure

    assert given("PUBLIC") is Exposure.PUBLIC
    assert given("INTERNAL") is given("") is Exposure.INTERNAL
    with pytest.raises(UsageError, match="exposure is 'publik'; it must be INTERNAL or PUBLIC; did you mean PUBLIC"):
        given("publik")
