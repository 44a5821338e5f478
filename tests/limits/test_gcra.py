"""The rate is kept in every window, whatever the callers do and however their calls are spread over replicas."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagsvc.limits.gcra import Lent, Limit, Wish, settle
from flagsvc.limits.share import BURST_S, LEASE_S, Share

GAPS = st.floats(0, 3, allow_nan=False)


def highest_excess(taken: Sequence[tuple[float, float]], rate: float) -> float:
    """Return by how much the most taken in any window exceeds what is regained in it."""
    level = most = 0.0
    before = taken[0][0] if taken else 0.0
    for moment, units in taken:
        level = max(level - (moment - before) * rate, 0.0) + units
        most, before = max(most, level), moment
    return most


@given(
    st.floats(1, 1e5),
    st.floats(0.01, 5),
    st.lists(st.tuples(GAPS, st.floats(0, 1e5)), max_size=60),
)
def test_what_is_lent_in_any_window_is_the_rate_times_the_window_and_the_capacity(
    rate: float, capacity_s: float, wishes: list[tuple[float, float]]
) -> None:
    limit, due, now, lent = Limit(rate, rate * capacity_s), 0.0, 0.0, []
    for gap, wanted in wishes:
        now += gap
        due, answer = settle(due, now, limit, Wish(0, 0, wanted))
        assert 0 <= answer.granted <= wanted
        lent.append((now, answer.granted))
    for first, last in itertools.combinations(range(len(lent)), 2):
        within = sum(units for _, units in lent[first : last + 1])
        assert within <= (rate * (lent[last][0] - lent[first][0]) + limit.capacity) * (1 + 1e-9) + 1e-6
    assert highest_excess(lent, rate) <= limit.capacity * (1 + 1e-9) + 1e-6


def test_what_was_used_without_a_loan_counts_beyond_the_capacity_and_what_is_returned_does_not() -> None:
    limit = Limit(10, 10)
    due, lent = settle(0, 5, limit, Wish(charged=12, returned=0, wanted=5))
    assert (due, lent) == (pytest.approx(6.2), Lent(0, 0))
    due, lent = settle(due, 5.5, limit, Wish(charged=0, returned=2, wanted=5))
    assert lent == pytest.approx(Lent(5, 0))
    _, lent = settle(due, 5.5, limit, Wish(0, 0, 5))
    assert lent == Lent(0, 0)


def test_a_clock_that_went_back_refuses_nobody_for_long() -> None:
    limit = Limit(10, 10)
    due, _ = settle(1e9, 0, limit, Wish(0, 0, 1))
    assert due == 10


class Replicas:
    """Some replicas that serve one caller, with simulated time."""

    def __init__(self, rate: float, count: int, seed: int = 0) -> None:
        self.rate, self.random, self.now, self.due = rate, random.Random(seed), 0.0, 0.0
        self.shares = [Share("", "", rate, count, 0.0) for _ in range(count)]
        self.lease_at = [self.random.uniform(0, LEASE_S) for _ in self.shares]
        self.taken: list[tuple[float, float]] = []
        self.refused = 0

    def call(self, number: int, weight: float = 1.0) -> None:
        share = self.shares[number]
        if share.left >= 1:
            share.left -= weight
            self.taken.append((self.now, weight))
        else:
            share.refused += weight
            self.refused += 1

    def wait(self, seconds: float) -> None:
        """Let time pass, with the leases of each replica."""
        end = self.now + seconds
        while min(self.lease_at) <= end:
            number = self.lease_at.index(min(self.lease_at))
            self.now = self.lease_at[number]
            share = self.shares[number]
            self.due, lent = settle(self.due, self.now, share.limit, share.wish(self.now, len(self.shares)))
            share.settle(lent)
            self.lease_at[number] += LEASE_S * self.random.uniform(0.75, 1.25)
        self.now = end

    def accepted(self, since: float) -> float:
        return sum(units for moment, units in self.taken if moment >= since)


@given(
    st.sampled_from([1.0, 3.0, 50.0, 400.0]),
    st.integers(1, 5),
    st.integers(0, 9),
    st.lists(st.tuples(st.floats(0, 1.5), st.integers(0, 4), st.integers(1, 400)), max_size=40),
)
def test_calls_accepted_in_any_window_are_the_rate_times_the_window_and_the_burst(
    rate: float, count: int, seed: int, bursts: list[tuple[float, int, int]]
) -> None:
    replicas = Replicas(rate, count, seed)
    for gap, number, calls in bursts:
        replicas.wait(gap)
        for _ in range(calls):
            replicas.call(number % count)
    most = BURST_S * rate + 2 * count  # at a low rate each replica can hold one whole call
    assert highest_excess(replicas.taken, rate) <= most


@pytest.mark.parametrize("spread", [[1, 0, 0], [1, 1, 1], [8, 1, 1]], ids=["one replica", "all", "most at one"])
@pytest.mark.parametrize("rate", [20, 150])
def test_ten_times_the_rate_gets_the_rate_within_5_percent(rate: int, spread: list[int]) -> None:
    replicas, seconds = Replicas(rate, 3), 13
    for _ in range(seconds * rate * 10):
        replicas.wait(1 / (10 * rate))
        replicas.call(replicas.random.choices(range(3), spread)[0])
    assert replicas.accepted(since=5.0) == pytest.approx(rate * (seconds - 5), rel=0.05)
    assert replicas.accepted(since=0.0) <= rate * (seconds + BURST_S)


@pytest.mark.parametrize("spread", [[1, 0, 0], [1, 1, 1]], ids=["one replica", "all"])
def test_nine_tenths_of_the_rate_is_not_refused(spread: list[int]) -> None:
    replicas = Replicas(100, 3)
    for _ in range(2_000):
        replicas.wait(1 / 90)
        replicas.call(replicas.random.choices(range(3), spread)[0])
    assert replicas.refused == 0


def test_a_call_that_takes_more_than_is_left_is_paid_back_before_the_next() -> None:
    replicas = Replicas(100, 3)
    for _ in range(1_000):
        replicas.wait(0.02)
        replicas.call(0, weight=50)
    assert replicas.accepted(since=5.0) == pytest.approx(100 * 15, rel=0.05)


@pytest.mark.parametrize("replicas", [1, 3, 6, 30])
def test_more_replicas_take_nothing_from_a_share_but_what_nobody_used(replicas: int) -> None:
    share = Share("a", "a", 5_000, 3, now=0.0)
    share.left -= 1_250
    before = share.left
    charged = share.wish(11.0, replicas).charged
    assert charged == pytest.approx(1_250)
    assert share.left == pytest.approx(min(before, 5_000 / replicas))
