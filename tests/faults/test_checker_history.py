"""The checker on the history in MongoDB: P9."""

from __future__ import annotations

from tests.faults.handmade import FLAG, PASSING, Handmade, broken, only
from tests.faults.record import NEVER


def test_p9_an_acknowledged_write_is_lost(made: Handmade) -> None:
    made.write("toggle", FLAG, 10)
    made.story.ending.history.pop()
    verdict = broken(made)
    assert "not in the history" in verdict.explained["P9"][0]


def test_p9_a_write_is_in_the_history_twice(made: Handmade) -> None:
    made.write("toggle", FLAG, 10, acknowledged=False, end=NEVER)
    again = made.story.ending.history[-1] | {"revision": 3}
    made.story.ending.history.append(again)
    made._documents[FLAG]["revision"] = 3
    only("P9", made)


def test_p9_a_row_that_does_not_follow_from_the_one_before(made: Handmade) -> None:
    made.write("update", FLAG, 10)
    made.story.ending.history[-1]["previousValue"] = {"variants": {"v": 77}}
    assert "77" in only("P9", made)


def test_p9_a_document_without_its_history(made: Handmade) -> None:
    made.write("update", FLAG, 10, acknowledged=False, end=NEVER)
    made.story.ending.history.pop()
    assert "the document has" in only("P9", made)


def test_p9_a_history_without_its_document(made: Handmade) -> None:
    made.write("update", FLAG, 10, acknowledged=False, end=NEVER)
    made._documents[FLAG] |= {"variants": {"v": 1}, "revision": 1}
    assert "the history ends with" in only("P9", made)


def test_p9_a_document_with_an_older_revision(made: Handmade) -> None:
    made.write("toggle", FLAG, 10)
    made._documents[FLAG] |= {"revision": 1}
    assert "the document has revision 1" in only("P9", made)


def test_p9_one_revision_for_two_changes(made: Handmade) -> None:
    made.write("create", PASSING, 10)
    made.story.ending.history[-1]["revision"] = 1
    made.story.writes[-1].revision = 1
    made._documents[PASSING]["revision"] = 1
    assert "2 times" in only("P9", made)
