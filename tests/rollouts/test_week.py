"""A rollout of nine days with a pause, an edit and a way back moves nobody back, in each engine at 21 moments."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.rollouts.moments import START
from tests.rollouts.week import MOMENTS, VERSIONS, Measured, in_node, in_python, judged, ours, shifted, version_at

PEOPLE = tuple(f"user-{number}" for number in range(300))
ROUGHLY = 9.0
"""How far the share of 300 people may be from what it should be, in percent: three standard deviations of a half."""


@pytest.fixture
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def check(measured: Measured) -> None:
    assert (measured.moved_back, measured.joined_late, measured.out_of_order) == (0, 0, 0)
    assert measured.farthest < ROUGHLY
    assert (measured.shares[0], measured.shares[-1], len(measured.shares)) == (0, 0, 21)


@pytest.mark.usefixtures("quiet")
def test_flagds_engine_in_python_moves_the_same_people_and_nobody_back() -> None:
    moved = in_python(PEOPLE)
    assert moved == ours(PEOPLE, 3)
    check(judged(moved, len(PEOPLE)))


def test_flagds_engine_in_node_moves_the_same_people_and_nobody_back() -> None:
    moved = in_node(PEOPLE)
    assert moved == ours(PEOPLE, 2)
    check(judged(moved, len(PEOPLE)))


def test_the_judge_sees_who_moves_back_and_who_leaves_before_others() -> None:
    moved = ours(PEOPLE, 3)
    forward = [number for number, moment in enumerate(MOMENTS) if moment < VERSIONS[-1][0]]
    [first, *_] = sorted(moved[2])
    moved[5] = moved[5] - {first}
    assert judged(moved, len(PEOPLE)).moved_back == 1
    moved = ours(PEOPLE, 3)
    for number in range(forward[-1] + 1, len(MOMENTS)):
        moved[number] = moved[number] - {first}
    assert judged(moved, len(PEOPLE)).out_of_order > 0


def test_a_shifted_rollout_is_the_same_later() -> None:
    for moment in MOMENTS:
        of = version_at(moment)
        assert shifted(shifted(of, 77), -77) == of
        assert shifted(of, START).points[0].time == of.points[0].time + START
