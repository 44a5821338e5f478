"""What an import does for flags that refer to one another: their order, and the segments that they carry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import grpc

from flagsvc.cli.calls import error_reason
from flagsvc.cli.input_files import BadFile
from flagsvc.core import segments
from flagsvc.core.changes import Author
from flagsvc.core.errors import SegmentNotFound, SegmentsMissing
from flagsvc.core.json_values import compact, strict_loads
from flagsvc.core.model import Flag, FlagId
from flagsvc.core.prerequisites import Cycle, keys_in
from flagsvc.core.prerequisites.graph import height_of
from flagsvc.core.segment_names import PREFIX, direct
from flagsvc.core.segments import Segment
from flagsvc.generated.flagsvc.v1 import segment_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import segment_service_pb2_grpc as pb_grpc
from flagsvc.ports import FlagStore
from flagsvc.ports.changes import Entry


def parents_first(flags: Sequence[Flag]) -> list[Flag]:
    """Return flags in their order, but each after its prerequisites. Those of a cycle are refused by who writes."""
    parents = {flag.id: keys_in(flag.prerequisites) for flag in flags if flag.prerequisites}

    def height(flag: Flag) -> int:
        return _height(flag.key, lambda key: parents.get(FlagId(flag.flag_set, key), ()))

    return sorted(flags, key=height) if parents else list(flags)


def segments_of(path: str, flags: Iterable[Flag]) -> list[Segment]:
    """Return the segments that the flags of a file carry, each after those that it refers to. Raises BadFile."""
    found: dict[segments.SegmentId, str] = {}
    for flag in flags:
        for name, text in flag.evaluators.items():
            if name.startswith(PREFIX):
                segment_id = segments.SegmentId(flag.flag_set, segments.checked_name(name.removeprefix(PREFIX)))
                if found.setdefault(segment_id, text) != text:
                    raise BadFile.of(path, [f"flags have different rules for {name}: correct the file"])
    made = [Segment(name=each.name, flag_set=each.flag_set, rule=text) for each, text in found.items()]
    rules = {each.id: direct(each.rule) for each in made}

    def height(segment: Segment) -> int:
        return _height(segment.name, lambda name: rules.get(segments.SegmentId(segment.flag_set, name), ()))

    return sorted(made, key=height)


async def put_in_store(wanted: Iterable[Segment], store: FlagStore, author: Author) -> list[Entry]:
    """Create or change segments in an open store. Return the flags that have changed with them."""
    entries: list[Entry] = []
    for each in wanted:
        if store.segments is None:
            raise SegmentsMissing
        try:
            await store.segments.get(each.id)
            decide = segments.update(each, ["rule"], None, author)
        except SegmentNotFound:
            decide = segments.create(each, author)
        entries += (await store.segments.write(each.id, decide)).entries
    return entries


def put_on_server(
    wanted: Iterable[Segment], stub: pb_grpc.SegmentServiceStub, actor: str, reason: str, timeout_s: float
) -> None:
    """Create or change segments on a server. Raises grpc.RpcError."""
    for each in wanted:
        segment = pb.Segment(name=each.name, flag_set=each.flag_set, rule=each.rule)
        try:
            stub.CreateSegment(pb.CreateSegmentRequest(segment=segment, actor=actor, reason=reason), timeout=timeout_s)
        except grpc.RpcError as error:
            if error_reason(error) != "SEGMENT_EXISTS":
                raise
            found = stub.GetSegment(pb.GetSegmentRequest(flag_set=each.flag_set, name=each.name), timeout=timeout_s)
            if found.segment.rule != compact(strict_loads(each.rule)):
                request = pb.UpdateSegmentRequest(segment=segment, actor=actor, reason=reason)
                request.update_mask.paths.append("rule")
                stub.UpdateSegment(request, timeout=timeout_s)


def _height(name: str, parents: Callable[[str], Sequence[str]]) -> int:
    try:
        return height_of(name, parents)
    except Cycle:
        return 0
