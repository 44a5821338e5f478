"""The native transport alone: prebuilt answers to ResolveBoolean, chosen by the flag's name in the request's bytes.

No server on this transport costs less; what flagsvc costs more is flagsvc's own.
"""

from __future__ import annotations

import sys

from pygrpc_native import EVENT_CALL, NativeGrpcFront

from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2 as v1

BATCH = 128


def answer(variant: str, reason: str) -> bytes:
    """Return a response, serialized."""
    return v1.ResolveBooleanResponse(value=variant == "on", variant=variant, reason=reason).SerializeToString()


def main() -> None:
    """Serve until killed: `python -m benchmarks.front_echo PORT PATH VARIANT` (the variant of the fractional flag)."""
    port, path, split = sys.argv[1:]
    answers = {b"static": answer("on", "STATIC"), b"targeted": answer("on", "TARGETING_MATCH")}
    fractional = answer(split, "TARGETING_MATCH")
    front = NativeGrpcFront(
        f"127.0.0.1:{port}", [(path, False)], call_details=True, metrics=True, max_concurrent_streams=1_000
    )
    front.start()
    respond = front.respond
    while (events := front.recv_batch_details(BATCH)) is not None:
        for kind, number, _, payload, *_ in events:
            if kind == EVENT_CALL:
                found = next((each for name, each in answers.items() if name in payload), fractional)
                respond(number, found)


if __name__ == "__main__":
    main()
