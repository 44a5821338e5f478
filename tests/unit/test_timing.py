"""Every time that must fit another one does, for each allowed staleness bound; a bound that cannot hold is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flagsvc.adapters.build import store_for
from flagsvc.replication import timing as timing_module
from flagsvc.replication.timing import MIN_MONGODB_BOUND_S, PAUSE_SHARE, SUBSCRIPTION_TIMEOUT_S, Timing
from flagsvc.settings import Settings
from flagsvc.urls import SettingsError

BOUNDS = (300, 5, 3, 2.5, 1.5, 1, 0.5)
ROUND_TRIP_SHARE = 0.05
"""The share of the bound that round trips may take besides a pause of the process."""
USUAL = Timing.of_bound(5.0)


@pytest.mark.parametrize("bound_s", BOUNDS)
def test_a_healthy_replica_keeps_its_view_and_its_lease_with_room_for_a_pause_and_for_round_trips(
    bound_s: float,
) -> None:
    timing = Timing.of_bound(bound_s)
    room_s = (PAUSE_SHARE + ROUND_TRIP_SHARE) * bound_s
    # A poll verifies the view once the stream has delivered up to it: two of its waits, and one more for a gap.
    age_s = timing.poll_every_s + 2 * timing.stream_wait_s + timing.gap_wait_s
    assert timing.staleness_bound_s == bound_s
    assert timing.view_age_s == age_s
    assert age_s + room_s < bound_s
    assert age_s + timing.renew_every_s + room_s <= timing.lease_s < bound_s
    assert age_s + timing.heartbeat_every_s + room_s <= bound_s
    assert age_s + room_s <= timing.silent_stream_s < bound_s
    assert age_s < timing.max_acquire_age_s < timing.lease_s
    assert timing.poll_every_s < timing.prove_after_s < 2 * timing.poll_every_s
    assert timing.poll_retry_s < timing.poll_every_s
    assert 3 * timing.heartbeat_every_s <= timing.heartbeat_expiry_s
    assert 2 * timing.heartbeat_every_s < SUBSCRIPTION_TIMEOUT_S
    assert timing.peer_timeout_s >= bound_s


BROKEN = {
    "a healthy replica is younger than the staleness bound": {"poll_every_s": 4.0},
    "a stream counts as silent only after": {"silent_stream_s": 3.0},
    "renews the cache lease before it runs out": {"renew_every_s": 1.5},
    "the cache lease ends before the staleness bound": {"lease_s": 5.0},
    "young enough to acquire the lease": {"gap_wait_s": 0.49, "lease_s": 3.9, "renew_every_s": 0.1},
    "a peer's heartbeat proves a view within the bound": {"heartbeat_every_s": 1.75, "heartbeat_expiry_s": 20.0},
    "a heartbeat is kept until the next ones": {"heartbeat_expiry_s": 2.9},
    "heartbeats keep the subscription up": {"heartbeat_every_s": 1.5},
    "a peer is quoted for the staleness bound": {"peer_timeout_s": 4.9},
}


@pytest.mark.parametrize(("relation", "change"), BROKEN.items(), ids=BROKEN.keys())
def test_a_relation_that_does_not_hold_is_named(relation: str, change: dict[str, float]) -> None:
    USUAL.check()
    with pytest.raises(ValueError, match=relation) as refused:
        replace(USUAL, **change).check()  # type: ignore[arg-type]
    assert str(refused.value).startswith("a staleness bound of 5 s does not work: ")


def test_a_deletion_must_be_remembered_for_longer_than_a_load_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing_module, "LOAD_TIMEOUT_S", 60.0)
    with pytest.raises(ValueError, match="a deletion is remembered longer than a load takes"):
        Timing.of_bound(5.0)


@pytest.mark.parametrize("bound_s", [0.5, 0.99])
def test_mongodb_refuses_a_bound_that_cannot_hold_and_names_setting_value_and_minimum(bound_s: float) -> None:
    with pytest.raises(SettingsError) as refused:
        store_for("mongodb://localhost/flags", Settings(staleness_bound_s=bound_s))
    for words in ("FLAGSVC_STALENESS_BOUND_S", f" {bound_s:g};", "MongoDB", f"at least {MIN_MONGODB_BOUND_S:g}"):
        assert words in str(refused.value)


async def test_mongodb_takes_the_least_bound_and_the_embedded_store_a_shorter_one(tmp_path: object) -> None:
    for url, bound_s in (("mongodb://localhost/flags", MIN_MONGODB_BOUND_S), (f"sqlite:///{tmp_path}/flags.db", 0.5)):
        store = store_for(url, Settings(staleness_bound_s=bound_s))
        await store.close()
