"""Denials of identities: their names, how they change, and how a replica holds and enforces them."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from flagsvc.access.denial_view import DenialView
from flagsvc.access.denials import FORGOTTEN_AT_ONCE, Denials
from flagsvc.access.proven import NotYet
from flagsvc.core.access import denials
from flagsvc.core.access.denials import MAX_DENIALS, MAX_NAME_CHARS, Denial, identity_name
from flagsvc.core.access.identity import UNCHECKED
from flagsvc.core.access.records import from_json, to_json
from flagsvc.core.errors import AccessUnknown, DenialNotFound, InvalidRequest, QuotaExceeded
from flagsvc.serving.writer import WaitFor

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
ANN = "jwt:https://login.example.com|ann"


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def denied(name: str = ANN, second: float = 0, **fields: object) -> Denial:
    made = Denial(name=name, reason="left", denied_by="token:x", denied_at=at(second))
    return replace(made, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", [ANN, "jwt:a|b|c", "certificate:uri:spiffe://prod/web", "certificate:dns:a.example", f"jwt:i|{'s' * 512}"]
)
def test_an_identity_is_named_as_logs_name_the_caller(name: str) -> None:
    assert identity_name(name) == name


def test_a_dns_name_has_no_case() -> None:
    assert identity_name("certificate:dns:Web.Example") == "certificate:dns:web.example"


@pytest.mark.parametrize(
    "name",
    [
        *("", "ann", "jwt:ann", "jwt:|ann", "jwt:issuer|", "certificate:cn:x", "certificate:uri:", "anonymous:grpc"),
        *("token:ci", f"jwt:i|{'s' * MAX_NAME_CHARS}", "jwt:i|a\u202eb"),
    ],
)
def test_what_names_nobody_is_refused_with_what_would_be_right(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"identity is .* must be jwt:ISSUER\|SUBJECT"):
        identity_name(name)


def test_a_second_denial_replaces_the_first_and_the_same_one_changes_nothing() -> None:
    first = denials.deny(denied(), None)(None)
    assert first == denied()
    assert denials.deny(denied(second=5), first)(first) is None
    longer = denied(second=5, expires_at=at(60))
    assert denials.deny(longer, first)(first) == longer
    with pytest.raises(InvalidRequest, match="expire_time"):
        denials.deny(denied(expires_at=at(0)), None)
    with pytest.raises(InvalidRequest, match="reason"):
        denials.deny(denied(reason="x" * 256), None)


def test_a_denial_is_lifted_once_and_never_before_it_was_made() -> None:
    ahead = denied(second=90)  # by a replica whose clock is ahead
    lifted = denials.lift(ANN, "token:y", at(1), None)(ahead)
    assert lifted is not None
    assert (lifted.lifted_by, lifted.lifted_at) == ("token:y", at(90.001))
    assert denials.lift(ANN, "token:y", at(200), lifted)(lifted) is None
    again = denials.deny(denied(second=2), lifted)(lifted)
    assert again is not None
    assert (again.changed_at, again.lifted_at) == (at(90.002), None)
    with pytest.raises(DenialNotFound):
        denials.lift(ANN, "token:y", at(1), None)(None)


@pytest.mark.parametrize("edit", [{}, {"expires_at": at(9)}, {"lifted_by": "token:y", "lifted_at": at(5)}])
def test_a_denial_is_read_back(edit: dict[str, object]) -> None:
    made = denied(revision=7, **edit)
    assert from_json(made.id, to_json(made)) == made


@pytest.mark.parametrize("edit", [{"denied": "ann"}, {"deniedAt": 7}, {"revision": "1"}, {"liftedAt": True}])
def test_a_malformed_denial_is_refused(edit: dict[str, object]) -> None:
    document = denials.to_document(denied()) | edit
    with pytest.raises(ValueError, match="malformed"):
        denials.from_document(denied().id, document)


def test_a_denial_with_the_id_of_another_is_refused() -> None:
    with pytest.raises(ValueError, match="id of another"):
        denials.from_document(denials.id_of("jwt:a|b"), denials.to_document(denied()))


def test_a_restored_store_lifts_no_denial_and_a_new_lift_does() -> None:
    view = DenialView()
    view.hold([denied(), denied("jwt:i|bob", second=1)], time.monotonic(), at(2))
    assert view.hold([denied("jwt:i|bob", lifted_at=at(0.5))], time.monotonic(), at(3)) is False
    assert view.in_force(at(3)) == view.lost == {ANN, "jwt:i|bob"}
    view.hold([denied("jwt:i|bob", lifted_at=at(4)), denied(second=4)], time.monotonic(), at(5))
    assert (view.in_force(at(5)), view.lost) == ({ANN}, frozenset())


def test_what_is_over_and_gone_from_the_store_is_forgotten() -> None:
    view = DenialView()
    view.hold([denied(expires_at=at(1)), denied("jwt:i|bob", lifted_at=at(1))], time.monotonic(), at(0))
    view.hold([], time.monotonic(), at(2))
    assert (dict(view.all), view.lost) == ({}, frozenset())


def test_a_load_that_began_before_a_denial_does_not_undo_it() -> None:
    view, began = DenialView(), time.monotonic()
    view.apply(denied())
    view.hold([], began, at(1))
    assert (view.in_force(at(1)), view.lost) == ({ANN}, frozenset())
    view.apply(denied(lifted_at=at(2)))
    view.hold([denied()], began, at(3))
    assert view.in_force(at(3)) == frozenset()


class Records:
    """Notes what would be written."""

    def __init__(self) -> None:
        self.forgotten: tuple[str, ...] = ()

    async def write(
        self, _id: str, decide: denials.Decide, _entry: object, _wait: WaitFor, forget: tuple[str, ...]
    ) -> tuple[Denial | None, None]:
        self.forgotten = tuple(forget)
        return decide(None), None


def test_a_denial_ends_with_its_time() -> None:
    refused: list[frozenset[str]] = []
    view = DenialView()
    made = Denials(view, Records(), refused.append)  # type: ignore[arg-type]
    soon = datetime.now(UTC) + timedelta(seconds=0.05)
    view.apply(denied(expires_at=soon))
    made.enforce()
    assert made.count == 1
    while datetime.now(UTC) < soon:
        made.check_expired()
        assert refused == [{ANN}] or datetime.now(UTC) >= soon
    made.check_expired()
    assert refused == [{ANN}, frozenset()]


async def test_denials_are_bounded_and_those_that_are_over_make_room() -> None:
    view, records = DenialView(), Records()
    made = Denials(view, records, lambda _names: None)  # type: ignore[arg-type]
    view.all = {f"jwt:i|{n}": denied(f"jwt:i|{n}", second=-n) for n in range(MAX_DENIALS)}
    with pytest.raises(QuotaExceeded, match="allow some first"):
        await made.deny(UNCHECKED, ANN, "", None, WaitFor())
    await made.deny(UNCHECKED, "jwt:i|0", "", None, WaitFor())  # it is there already
    over = {name: replace(each, lifted_at=each.denied_at) for name, each in list(view.all.items())[:150]}
    view.all = {**view.all, **over}
    await made.deny(UNCHECKED, ANN, "", None, WaitFor())
    assert records.forgotten == tuple(denials.id_of(f"jwt:i|{n}") for n in range(149, 149 - FORGOTTEN_AT_ONCE, -1))


async def test_before_denials_are_known_nobody_is_recognized_by_what_others_prove() -> None:
    others = NotYet(object())  # type: ignore[arg-type]
    for refused in (lambda: others.known("eyJ"), lambda: others.holder(b"pem")):
        with pytest.raises(AccessUnknown, match="who is denied"):
            refused()
    with pytest.raises(AccessUnknown, match="who is denied"):
        await others.verify("eyJ", "ipv4:10.0.0.1:1")
