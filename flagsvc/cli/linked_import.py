"""What an import does for flags that refer to one another: their order, and the segments that they carry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from flagsvc.cli.input_files import BadFile
from flagsvc.cli.pages import MAX_PAGE, pages
from flagsvc.core import segments
from flagsvc.core.changes import Author
from flagsvc.core.errors import SegmentsMissing
from flagsvc.core.json_values import compact, strict_loads
from flagsvc.core.model import Action, Flag, FlagId
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


def differing(wanted: Iterable[Segment], stored: Iterable[Segment]) -> list[tuple[Segment, Action]]:
    """Return the segments that an import creates or changes, in their order."""
    rules = {each.id: each.rule for each in stored}
    found = [(each, Action.UPDATED if each.id in rules else Action.CREATED) for each in wanted]
    return [(each, action) for each, action in found if compact(strict_loads(each.rule)) != rules.get(each.id)]


async def in_store(flag_sets: Iterable[str], store: FlagStore) -> list[Segment]:
    """Read the segments of sets of an open store. Raises SegmentsMissing."""
    if store.segments is None:
        raise SegmentsMissing
    return [each for name in dict.fromkeys(flag_sets) for each in await store.segments.of_set(name)]


async def put_in_store(changes: Iterable[tuple[Segment, Action]], store: FlagStore, author: Author) -> list[Entry]:
    """Create or change segments in an open store. Return the flags that have changed with them."""
    entries: list[Entry] = []
    for each, action in changes:
        if store.segments is None:
            raise SegmentsMissing
        is_new = action is Action.CREATED
        decide = segments.create(each, author) if is_new else segments.update(each, ["rule"], None, author)
        entries += (await store.segments.write(each.id, decide)).entries
    return entries


def on_server(flag_sets: Iterable[str], stub: pb_grpc.SegmentServiceStub, timeout_s: float) -> list[Segment]:
    """Read the segments of sets of a server. Raises grpc.RpcError."""
    found: list[Segment] = []
    for name in dict.fromkeys(flag_sets):
        request = pb.ListSegmentsRequest(flag_set=name, page_size=MAX_PAGE)
        for page in pages(stub.ListSegments, request, timeout_s):
            found += [Segment(name=each.name, flag_set=each.flag_set, rule=each.rule) for each in page.segments]
    return found


def put_on_server(
    changes: Iterable[tuple[Segment, Action]],
    stub: pb_grpc.SegmentServiceStub,
    actor: str,
    reason: str,
    timeout_s: float,
) -> None:
    """Create or change segments on a server. Raises grpc.RpcError."""
    for each, action in changes:
        segment = pb.Segment(name=each.name, flag_set=each.flag_set, rule=each.rule)
        if action is Action.CREATED:
            stub.CreateSegment(pb.CreateSegmentRequest(segment=segment, actor=actor, reason=reason), timeout=timeout_s)
        else:
            request = pb.UpdateSegmentRequest(segment=segment, actor=actor, reason=reason)
            request.update_mask.paths.append("rule")
            stub.UpdateSegment(request, timeout=timeout_s)


def _height(name: str, parents: Callable[[str], Sequence[str]]) -> int:
    try:
        return height_of(name, parents)
    except Cycle:
        return 0
