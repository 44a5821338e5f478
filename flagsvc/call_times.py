"""How long calls took, as plain counts. A histogram of Prometheus takes two locks for each call that it observes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from operator import add

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class CallTimes(Collector):
    """Seconds of finished calls by method and status code, in buckets."""

    def __init__(self, name: str, about: str, buckets: Sequence[float]) -> None:
        self._name, self._about, self._buckets = name, about, tuple(buckets)
        self._bounds = (*map(floatToGoString, self._buckets), "+Inf")
        self._timers: dict[str, Timer] = {}
        self._others: dict[str, list[Timer]] = {}

    def of(self, method: str) -> Timer:
        """Return what counts the calls of one method in the event loop."""
        timer = self._timers.get(method)
        if timer is None:
            timer = self._timers[method] = Timer(self._buckets)
        return timer

    def another(self, method: str) -> Timer:
        """Return what counts calls of one method too, in a thread of its own."""
        timer = Timer(self._buckets)
        self._others.setdefault(method, []).append(timer)
        return timer

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Return the counts as they are now. It may run in another thread than the calls."""
        family = HistogramMetricFamily(self._name, self._about, labels=("method", "code"))
        for method in dict.fromkeys((*self._timers, *self._others)):
            timers = (self.of(method), *self._others.get(method, ()))
            for code, (*counts, seconds) in _together(timers).items():
                buckets = [*zip(self._bounds, accumulate(counts), strict=True)]
                family.add_metric((method, code), buckets, seconds)
        yield family


class Timer:
    """The calls of one method."""

    __slots__ = ("_buckets", "_by_code")

    def __init__(self, buckets: tuple[float, ...]) -> None:
        self._buckets = buckets
        self._by_code: dict[str, list[float]] = {}
        """For each code how many calls fell into each bucket, and behind them the sum of their seconds."""

    def ended(self, code: str, seconds: float) -> None:
        """Record one finished call: its status code, and how long it took."""
        counts = self._by_code.get(code)
        if counts is None:
            counts = self._by_code[code] = [0] * (len(self._buckets) + 1) + [0.0]
        counts[bisect_left(self._buckets, seconds)] += 1
        counts[-1] += seconds

    def read(self) -> dict[str, list[float]]:
        """Return, for each code, how many calls fell into each bucket, and behind them the sum of their seconds."""
        return {code: counts.copy() for code, counts in tuple(self._by_code.items())}


def _together(timers: Sequence[Timer]) -> dict[str, list[float]]:
    """Return what all timers of one method have counted."""
    first, *others = (timer.read() for timer in timers)
    for other in others:
        for code, counts in other.items():
            known = first.get(code)
            first[code] = counts if known is None else [*map(add, known, counts)]
    return first
