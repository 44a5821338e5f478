"""What a flag has to do with others of its set in MongoDB: the segments that it refers to, and its prerequisites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pymongo.read_concern import ReadConcern

from flagsvc.adapters.mongo import documents
from flagsvc.adapters.mongo.transactions import maybe_await
from flagsvc.core.errors import InvalidRequest
from flagsvc.core.model import Change, Flag, FlagId
from flagsvc.core.prerequisites import MAX_DEPTH
from flagsvc.core.prerequisites.checks import check, needs_graph, parents_of
from flagsvc.core.segments import further, segments_of, with_segments
from flagsvc.turns import off_loop

SEGMENTS = "flagsvc_segments"
"""The collection of segments. They are not among the flags, which the existing system reads."""
PREREQUISITE = "prerequisites.flagKey"
_SNAPSHOT = ReadConcern("snapshot")


class Links:
    """The segments and dependencies of one database."""

    def __init__(self, database: Any) -> None:
        self._flags, self._segments = database["feature_flags"], database[SEGMENTS]
        self._counters = database["flagsvc_revisions"]

    async def linked(self, change: Change, session: Any) -> Change:
        """Return a change with the segments that its flag refers to, in its transaction. Raises InvalidRequest."""
        if change.after is None:
            return change
        rules = await self._rules_of(change.after, session)
        return await off_loop(with_segments, change, rules)

    async def rules_of(self, flag: Flag, session: Any) -> Mapping[str, str] | None:
        """Return the rules of the segments that a flag refers to; None where one is missing, or the flag is malformed.

        Another program has written it: what is wrong in it is found when it is evaluated.
        """
        if flag.problem:
            return None
        try:
            return await self._rules_of(flag, session)
        except InvalidRequest:
            return None

    async def _rules_of(self, flag: Flag, session: Any) -> Mapping[str, str]:
        found: dict[str, str] = {}
        wanted = await off_loop(segments_of, flag)
        while wanted:
            query = {"flagSet": flag.flag_set, "name": {"$in": wanted}}
            found |= {raw["name"]: raw["rule"] async for raw in self._segments.find(query, session=session)}
            wanted = further(found, wanted)
        return found

    async def check(self, flag_set: str, changes: Sequence[Change], session: Any) -> None:
        """Check the dependencies of changes of one set in their transaction. Raises FlagInUse and InvalidRequest."""
        if not needs_graph(changes):
            return
        edges = {PREREQUISITE: {"$exists": True}} | documents.in_set(flag_set)
        rows = self._flags.find(edges, {"key": 1, "flagSet": 1, "prerequisites": 1}, session=session)
        graph = {raw["key"]: documents.plain(raw["prerequisites"]) async for raw in rows if documents.identifiable(raw)}
        parents = {"key": {"$in": parents_of(changes)}} | documents.in_set(flag_set)
        found = [documents.to_flag(raw) async for raw in self._flags.find(parents, session=session)]
        await off_loop(check, changes, graph, {flag.key: flag for flag in found})

    async def family(self, flag_id: FlagId) -> tuple[int, list[Mapping[str, Any]]]:
        """Read a set's counter, a flag and those that it depends on, in one snapshot that a majority has.

        The counter is 0 where there is no such flag.
        """
        of_set = documents.in_set(flag_id.flag_set)
        up = {
            "from": self._flags.name,
            "startWith": f"${PREREQUISITE}",
            "connectFromField": PREREQUISITE,
            "connectToField": "key",
            "maxDepth": MAX_DEPTH,
            "restrictSearchWithMatch": of_set,
            "as": "parents",
        }
        pipeline = [{"$match": {"key": flag_id.key} | of_set}, {"$limit": 1}, {"$graphLookup": up}]
        counter = {
            "from": self._counters.name,
            "pipeline": [{"$match": {"_id": flag_id.flag_set}}],
            "as": "counters",
        }
        pipeline += [
            {"$lookup": counter},
            {"$project": {"all": {"$concatArrays": ["$counters", ["$$ROOT"], "$parents"]}}},
        ]
        pipeline += [{"$unwind": "$all"}, {"$replaceRoot": {"newRoot": "$all"}}]
        pipeline += [{"$project": {"parents": 0, "counters": 0}}]
        flags = self._flags.with_options(read_concern=_SNAPSHOT)
        cursor = await maybe_await(flags.aggregate(pipeline))
        rows = [raw async for raw in cursor]
        found = [raw for raw in rows if documents.identifiable(raw)]
        counters = documents.counters(raw for raw in rows if "key" not in raw)
        return counters.get(flag_id.flag_set, 0), found
