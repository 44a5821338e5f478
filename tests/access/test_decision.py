"""The decision: every role against every role and scope; grants; and what a random caller can never do."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagsvc.core.access.decision import authorize, check_grant
from flagsvc.core.access.identity import Identity, Kind
from flagsvc.core.access.roles import FOR_ALL_SETS, INCLUDED, Role
from flagsvc.core.access.scopes import EVERY_SET, Scope, only, scope_of
from flagsvc.core.errors import InvalidRequest, PermissionDenied

MAY = {
    "public": {"public"},
    "evaluate": {"public", "evaluate"},
    "read": {"public", "evaluate", "read"},
    "toggle": {"public", "evaluate", "read", "toggle"},
    "write": {"public", "evaluate", "read", "toggle", "write"},
    "operate": {"public", "evaluate", "read", "operate"},
    "admin": {"public", "evaluate", "read", "toggle", "write", "operate", "admin"},
}
names = st.text(st.sampled_from("ab-"), min_size=1, max_size=4)
scopes = st.lists(names | names.map("{}*".format) | st.just("*"), min_size=1, max_size=3).map(scope_of)


def caller(role: Role, scope: Scope = EVERY_SET, expires_at: float = float("inf")) -> Identity:
    return Identity(Kind.TOKEN, "abc", "ci", role, scope, expires_at)


@pytest.mark.parametrize("role", Role)
def test_a_role_may_what_it_includes_and_nothing_else(role: Role) -> None:
    for wanted in Role:
        if wanted in MAY[role]:
            authorize(caller(role), wanted, ["any"])
        else:
            with pytest.raises(PermissionDenied, match=f"needs the role {wanted}; the caller token:abc has {role}"):
                authorize(caller(role), wanted, ["any"])


def test_a_foreign_set_gets_the_same_words_as_one_that_does_not_exist() -> None:
    one, other = (_refusal(caller(Role.WRITE, scope_of(["mine", "team-*"])), name) for name in ("theirs", "nothing"))
    assert (
        one.replace("theirs", "X")
        == other.replace("nothing", "X")
        == 'the caller token:abc has no right to flag set "X"'
    )


def test_one_foreign_set_among_several_is_enough() -> None:
    team = caller(Role.READ, scope_of(["mine", "team-*"]))
    authorize(team, Role.READ, ["mine", "team-", "team-a"])
    for flag_set in ("team", "Team-a", "mine2", "", "x-team-a"):
        with pytest.raises(PermissionDenied):
            authorize(team, Role.READ, ["mine", flag_set])


@given(st.sampled_from(Role), scopes, st.sampled_from(Role), names)
def test_an_allowed_call_needs_both_role_and_set(role: Role, scope: Scope, wanted: Role, flag_set: str) -> None:
    covered = any(p in (flag_set, "*") or (p[-1] == "*" and flag_set.startswith(p[:-1])) for p in scope.patterns)
    allowed = wanted in MAY[role] and covered and (wanted not in FOR_ALL_SETS or "*" in scope.patterns)
    try:
        authorize(caller(role, scope), wanted, [flag_set])
    except PermissionDenied:
        assert not allowed
    else:
        assert allowed


@given(st.sampled_from(Role), scopes, st.sampled_from(Role), scopes, st.sampled_from(Role), names)
def test_nobody_gives_what_he_has_not(  # noqa: PLR0917  two callers and a call
    role: Role, scope: Scope, given_role: Role, given_scope: Scope, wanted: Role, flag_set: str
) -> None:
    giver = caller(role, scope)
    try:
        check_grant(giver, given_role, given_scope, None)
        authorize(caller(given_role, given_scope), wanted, [flag_set])
    except (PermissionDenied, InvalidRequest):
        return
    authorize(giver, wanted, [flag_set])


def test_a_grant_ends_no_later_than_the_giver() -> None:
    giver = caller(Role.ADMIN, expires_at=datetime(2027, 1, 1, tzinfo=UTC).timestamp())
    check_grant(giver, Role.READ, EVERY_SET, datetime(2027, 1, 1, tzinfo=UTC))
    for ends_at in (None, datetime(2027, 1, 2, tzinfo=UTC)):
        with pytest.raises(PermissionDenied, match="for longer than its own"):
            check_grant(giver, Role.READ, EVERY_SET, ends_at)


@pytest.mark.parametrize("role", sorted(FOR_ALL_SETS))
def test_roles_for_all_sets_take_no_other_scope(role: Role) -> None:
    with pytest.raises(InvalidRequest, match="flag_sets"):
        check_grant(caller(Role.ADMIN), role, scope_of(["default"]), None)


def test_every_role_is_in_the_table() -> None:
    assert set(INCLUDED) == set(MAY) == set(Role)


@pytest.mark.parametrize("patterns", [[], [""], ["a\0"], ["x" * 256], ["a"] * 101])
def test_a_scope_that_cannot_be(patterns: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="flag_sets"):
        scope_of(patterns)


def _refusal(identity: Identity, flag_set: str) -> str:
    with pytest.raises(PermissionDenied) as caught:
        authorize(identity, Role.READ, [flag_set])
    return str(caught.value)


@pytest.mark.parametrize("pattern", ["*a", "*a*", "a*b", "**", "a**", "", "a\n*", "x" * 256])
def test_a_pattern_that_nobody_can_mean_is_refused_by_name(pattern: str) -> None:
    with pytest.raises(InvalidRequest, match=r"flag_sets is .* it must be a flag set, a prefix such as team-\*"):
        scope_of([pattern])


def test_the_scope_of_one_set_is_no_prefix_whatever_the_name_of_the_set_is() -> None:
    for name in ("a*", "*", "a*b"):
        scope = only(name)
        assert (scope.covers(name), scope.covers("ab"), scope.is_all) == (True, False, False)
