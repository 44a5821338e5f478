"""The times of calls read as those of Prometheus's own histogram do."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Histogram, generate_latest

from flagsvc.call_times import CallTimes

BUCKETS = (0.001, 0.25, 1.0)
CALLS = [
    ("EvaluateFlag", "OK", 0.0005),
    ("EvaluateFlag", "OK", 0.001),
    ("EvaluateFlag", "OK", 3.0),
    ("EvaluateFlag", "UNAVAILABLE", 0.3),
    ("ofrep/Evaluate", "200", 0.25),
]


def test_the_page_is_that_of_a_histogram() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    times = CallTimes("call_seconds", "Seconds.", BUCKETS)
    ours.register(times)
    histogram = Histogram("call_seconds", "Seconds.", ("method", "code"), buckets=BUCKETS, registry=theirs)
    assert generate_latest(ours) == generate_latest(theirs)
    for method, code, seconds in CALLS:
        times.of(method).ended(code, seconds)
        histogram.labels(method, code).observe(seconds)
    assert _lines(ours) == _lines(theirs)


def _lines(registry: CollectorRegistry) -> list[str]:
    """Return the page; the order of labels within a line has no meaning."""
    lines = generate_latest(registry).decode().splitlines()
    found = []
    for line in lines:
        name, brace, rest = line.partition("{")
        labels, _, value = rest.partition("} ")
        found.append(f"{name} {sorted(labels.split(','))} {value}" if brace else line)
    return found
