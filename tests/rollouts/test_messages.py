"""The server and the Python client, which have stubs of their own, read and write messages with rollouts alike."""

from __future__ import annotations

from flagsvc_client import wire_rollouts
from flagsvc_client.stubs.flagsvc.v1 import types_pb2 as client_types
from hypothesis import example, given
from hypothesis import strategies as st

from flagsvc.api.flag_service import rollout_messages
from flagsvc.core.model import Flag
from flagsvc.core.rollouts import Rollout, to_json
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.rollouts.test_shares import rollouts

_STAMPS = st.builds(dict, seconds=st.integers(-(2**40), 2**40), nanos=st.integers(0, 999_999_999))
_POINTS = st.lists(st.builds(dict, time=_STAMPS, share=st.floats(allow_nan=False)), max_size=3)
_NAMES = st.sampled_from(["", "on", "off", "targetingKey", "company.id"])
MESSAGES = st.builds(
    types.Rollout,
    from_variant=_NAMES,
    to_variant=_NAMES,
    points=_POINTS,
    linear=st.booleans(),
    bucket_by=_NAMES,
    start_share=st.floats(allow_nan=False),
    paused_at=st.none() | _STAMPS,
)


@given(MESSAGES)
@example(types.Rollout(bucket_by="targetingKey"))
def test_a_message_is_read_as_the_same_json(message: types.Rollout) -> None:
    same = client_types.Rollout.FromString(message.SerializeToString())
    assert wire_rollouts.rollout_of(same) == rollout_messages.rollout_json(message)


@given(rollouts())
def test_a_rollout_is_written_as_the_same_message(rollout: Rollout) -> None:
    ours = rollout_messages.rollout_to_message(Flag(key="a", rollout=to_json(rollout)))
    assert ours is not None
    theirs = wire_rollouts.rollout_message(to_json(rollout))
    assert theirs.SerializeToString(deterministic=True) == ours.SerializeToString(deterministic=True)
    assert wire_rollouts.rollout_of(theirs) == to_json(rollout)
