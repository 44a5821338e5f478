"""How late schedules are executed, and whether each is exactly once: racing replicas, some killed in the transaction.

    python -m benchmarks.schedules --schedules 400 --replicas 6 --killed 4

All schedules are due within the given span. Replicas are processes of one MongoDB; those that are killed die inside a
transaction that has written the flag, its history and the schedule. With --away MongoDB is killed when half of them
have been due, and started again later; a tenth may be a second late at most, and is MISSED then. Lateness is by
MongoDB's clock.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pymongo

from flagsvc.adapters.mongo.store import MongoStore
from flagsvc.core.model import FlagId
from tests.schedules.plans import flag_in, plan, stored
from tests.schedules.racer import racers
from tests.servers import Mongod

OF_A_FLAG = 4
STRICT, STRICT_S = 10, 1.0
WAIT_S = 300
START_S, LEAD_S = 4, 8
"""How long the replicas start, and how long before the first is due all know of it: they look every five seconds."""


async def planned(url: str, count: int, span_s: float, *, is_away: bool) -> None:
    """Plan changes, four of each flag, spread over the span, from a day from now on."""
    store = MongoStore(url)
    await store.open()
    for number in range(0, count, OF_A_FLAG):
        await flag_in(store, FlagId("default", f"flag-{number}"))
    at = datetime.now(UTC) + timedelta(days=1)
    for number in range(count):
        flag_id = FlagId("default", f"flag-{number // OF_A_FLAG * OF_A_FLAG}")
        moment = at + timedelta(milliseconds=round(span_s * 1000 * (number % OF_A_FLAG + number / count) / OF_A_FLAG))
        strict = {"max_lateness_s": STRICT_S} if number % STRICT == 0 else {}
        await stored(store, plan(flag_id, at=moment, owner=f"{number}", **strict if is_away else {}))
    await store.close()


def main() -> int:
    """Run it and print the counts; the exit status is 1 if a schedule was not executed exactly once, and in order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=400)
    parser.add_argument("--replicas", type=int, default=6)
    parser.add_argument("--killed", type=int, default=4)
    parser.add_argument("--span", type=float, default=20.0, metavar="S", help="seconds within which all are due")
    parser.add_argument("--away", type=float, default=0.0, metavar="S", help="seconds for which MongoDB is away")
    args = parser.parse_args()
    with Mongod() as mongod:
        url = mongod.database_url("schedules")
        began = time.monotonic()
        asyncio.run(planned(url, args.schedules, args.span, is_away=args.away > 0))
        print(f"planned {args.schedules} schedules in {time.monotonic() - began:.1f} s")
        dying = [1 + 3 * number for number in range(args.killed)]
        with (
            pymongo.MongoClient[dict[str, Any]](url) as client,
            racers(url, dying, args.replicas - args.killed) as all_,
        ):
            database = client.get_default_database()
            time.sleep(START_S)
            first = database["flagsvc_schedules"].find_one({"state": "PENDING"}, sort=[("executeAt", 1)])
            ahead_ms = round((first["executeAt"] - datetime.now(UTC).replace(tzinfo=None)).total_seconds() * 1000)
            move = [{"$set": {"executeAt": {"$subtract": ["$executeAt", ahead_ms - LEAD_S * 1000]}}}]
            database["flagsvc_schedules"].update_many({"state": "PENDING"}, move)
            deadline = time.monotonic() + args.span + WAIT_S
            if args.away:
                time.sleep(LEAD_S + args.span / 2)
                mongod.kill()
                time.sleep(args.away)
                mongod.start()
            while database["flagsvc_schedules"].count_documents({"state": "PENDING"}) and time.monotonic() < deadline:
                time.sleep(0.2)
            killed = sum(not process.is_alive() for process in all_)
            schedules = list(database["flagsvc_schedules"].find({"state": {"$exists": True}}))
            rows = Counter(row["via"] for row in database["feature_flag_history"].find({"via": {"$exists": True}}))
            missed = database["flagsvc_audit"].count_documents({"action": "ScheduleMissed"})
    return report(schedules, rows, killed, missed)


def report(schedules: list[dict[str, Any]], rows: Counter[str], killed: int, missed: int) -> int:
    """Print what happened; return the exit status."""
    done = [each for each in schedules if each["state"] == "EXECUTED"]
    late = np.array([(each["endedAt"] - each["executeAt"]).total_seconds() for each in done] or [0.0])
    silent = abs(missed - sum(each["state"] == "MISSED" for each in schedules))
    wrong = sum(rows[f"schedule/{each['_id']}"] != (each in done) for each in schedules)
    wrong += silent + sum(each["state"] not in ("EXECUTED", "MISSED") for each in schedules)
    unordered = 0
    for key in {each["flagKey"] for each in done}:
        of_flag = sorted((each for each in done if each["flagKey"] == key), key=lambda e: (e["executeAt"], e["number"]))
        revisions = [each["executedRevision"] for each in of_flag]
        unordered += revisions != sorted(revisions)
    print(f"states: {dict(Counter(each['state'] for each in schedules))}; replicas killed in a transaction: {killed}")
    print(f"history rows via a schedule: {rows.total()}; audit entries of missed ones: {missed}")
    print(f"not exactly once, or missed in silence: {wrong}; flags out of order: {unordered}")
    p50, p99 = np.percentile(late, [50, 99])
    print(f"lateness: p50 {p50:.3f} s, p99 {p99:.3f} s, most {late.max():.3f} s, earliest {late.min():.3f} s")
    return int(bool(wrong or unordered or late.min() < 0))


if __name__ == "__main__":
    sys.exit(main())
