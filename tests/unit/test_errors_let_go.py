"""What a refused call had built is freed with the call, although gRPC keeps its error in a circle."""

from __future__ import annotations

import gc
import weakref

import pytest

from flagsvc.api.common.failures import failure_for
from flagsvc.core.errors import AnswerTooLarge, StoreUnavailable


class Parts(list[bytes]):
    """Something large, of which it can be seen whether it is freed."""


def fail(error: Exception, built: list[weakref.ref[Parts]], *, has_cause: bool) -> None:
    parts = Parts([b"x"])
    built.append(weakref.ref(parts))
    if not has_cause:
        raise error
    try:
        int("x")
    except ValueError as cause:
        raise error from cause


@pytest.mark.parametrize("has_cause", [False, True])
@pytest.mark.parametrize("error", [AnswerTooLarge(1, "send less"), StoreUnavailable(), RuntimeError("a bug")])
def test_the_frames_of_a_refused_call_are_let_go(error: Exception, has_cause: bool) -> None:
    built: list[weakref.ref[Parts]] = []
    gc.disable()
    try:
        try:
            fail(error, built, has_cause=has_cause)
        except type(error) as caught:
            assert built[0]() is not None
            failure_for("/flagsvc.v1.FlagService/BatchEvaluateFlags", caught)
        assert built[0]() is None, "although the error is still there"
    finally:
        gc.enable()
