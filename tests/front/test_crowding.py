"""While gRPC refuses calls, the front reads each connection in larger portions, and only then."""

from __future__ import annotations

import asyncio
import struct

from hypothesis import given
from hypothesis import strategies as st

from flagsvc.front.crowding import MIN_CALLS, PORTION_S, CallCounter, Crowding
from flagsvc.front.pipe import End
from tests.unreading import PREFACE


def frame(kind: int, length: int) -> bytes:
    return struct.pack(">I", length)[1:] + bytes([kind, 0]) + struct.pack(">I", 1) + b"\1" * length


@given(st.lists(st.tuples(st.sampled_from([0, 1, 3, 6, 8, 9]), st.integers(0, 300))), st.data())
def test_calls_are_counted_wherever_the_bytes_are_cut(frames: list[tuple[int, int]], data: st.DataObject) -> None:
    crowding = Crowding(lambda: 0)
    sent = PREFACE + b"".join(frame(kind, length) for kind, length in frames)
    counter, at = CallCounter(crowding), 0
    while at < len(sent):
        size = data.draw(st.integers(1, 500))
        counter.count(sent[at : at + size])
        at += size
    assert crowding.came == sum(kind == 1 for kind, _ in frames)


def test_reads_pause_only_while_many_calls_are_not_taken_up() -> None:
    taken = [0]
    crowding = Crowding(lambda: taken[0])
    for came, taken_up, pause_s in (
        (1_000, 1_000, 0.0),  # as many as it can, all answered
        (1_000, 750, 0.0),  # a burst: some wait
        (1_000, 300, PORTION_S),
        (100, 350, 0.0),  # those that waited are taken up
        (MIN_CALLS - 1, 0, 0.0),
    ):
        crowding.came += came
        taken[0] += taken_up
        crowding.measure()
        assert crowding.pause_s == pause_s, (came, taken_up)


class Transport:
    """Stands for a connection's transport: what was written, and whether it is read."""

    def __init__(self) -> None:
        self.written, self.is_read = b"", True

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.is_read = False

    def resume_reading(self) -> None:
        self.is_read = True


async def test_an_end_is_read_again_only_when_both_reasons_are_gone() -> None:
    crowding = Crowding(lambda: 0)
    crowding.pause_s = 0.001
    one, other = End(crowding), End(crowding)
    one.transport, other.transport = read, _ = Transport(), Transport()  # type: ignore[assignment]
    one.join(other)
    one.data_received(b"bytes")
    other.pause_writing()
    assert not read.is_read
    await asyncio.sleep(0.01)
    assert not read.is_read, "the other end is full"
    crowding.pause_s = 10
    one.data_received(b"more")
    other.resume_writing()
    assert not read.is_read, "it waits"
    crowding.pause_s = 0
    one.hold(waits=False)
    assert read.is_read
    assert other.transport.written == b"bytesmore"  # type: ignore[attr-defined]
