"""A batch job that evaluates a flag for each of 20,000 users in its own process, without a network call per user.

In one terminal: `make run`. In another: `.venv/bin/python examples/batch_job.py [--target 127.0.0.1:8013]`.
It creates the flag `example-rollout`, which is on for half of the paying users, evaluates it, and exits.
Raise the share with `flagsvc set` and run it again: the users who had it keep it, because the choice depends on the
user's id.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter

from flagsvc_client import Flag, FlagClient, Status
from flagsvc_client.errors import FlagServiceError

FLAG = "example-rollout"
USERS = 20_000
HALF_OF_THE_PAYING = {"if": [{"==": [{"var": "plan"}, "paid"]}, {"fractional": [["on", 50], ["off", 50]]}, "off"]}


def create_the_flag(client: FlagClient) -> None:
    """Create the flag, unless an earlier run has created it."""
    try:
        client.create(Flag(key=FLAG, status=Status.ENABLED, targeting=json.dumps(HALF_OF_THE_PAYING)))
    except FlagServiceError as error:
        if error.reason != "FLAG_ALREADY_EXISTS":
            sys.exit(f"cannot create the flag ({error}): start the server with `make run`, or set --target")


def main(target: str) -> None:
    """Evaluate the flag for every user, and print the result by plan and reason."""
    with FlagClient(target, local=True) as client:
        create_the_flag(client)
        if not client.wait_ready(5):
            sys.exit(f"no flags received from {target}")
        outcomes: Counter[tuple[str, bool, str]] = Counter()
        started = time.perf_counter()
        for number in range(1, USERS + 1):
            plan = "paid" if number % 4 == 0 else "free"
            details = client.details(FLAG, {"targetingKey": f"user-{number}", "plan": plan}, default=False)
            outcomes[plan, details.value, details.reason.value] += 1
            if number % (USERS // 4) == 0:
                print(f"{number:,} of {USERS:,} users", flush=True)
        each = (time.perf_counter() - started) / USERS * 1e6
        for (plan, value, reason), count in sorted(outcomes.items()):
            print(f"{plan}: {'on' if value else 'off'} for {count:,} ({reason})")
        print(f"{each:.1f} microseconds per evaluation")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="a batch job with local evaluation")
    parser.add_argument(
        "--target", default="127.0.0.1:8013", help="address of the flag server; default: that of `make run`"
    )
    main(parser.parse_args().target)
