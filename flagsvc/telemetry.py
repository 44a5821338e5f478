"""Logs and metrics. The rest of the code calls hooks or keeps plain counts; only this file knows Prometheus.

No label takes a targeting key; flag keys are labels only up to a bound, then `other`.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import NamedTuple

import structlog
from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from flagsvc.core.evaluation import ErrorCode, Reason
from flagsvc.core.model import FlagId
from flagsvc.serving.reader import Evaluation

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter tells nobody anything

MAX_KEY_LABELS = 1_000
_OTHER = FlagId("other", "other")
_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Sample(NamedTuple):
    """One plain count; names on _total are counters."""

    name: str
    about: str
    value: float
    labels: Mapping[str, str] = {}


def configure_logging(level: str, style: str) -> None:
    """Log to standard error: JSON lines, or columns for people on a terminal."""
    console = style == "console" or (style == "auto" and sys.stderr.isatty())
    plain = structlog.dev.plain_traceback  # locals may hold what must not stand in a log
    renderer = (
        structlog.dev.ConsoleRenderer(exception_formatter=plain) if console else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            *([] if console else [structlog.processors.format_exc_info]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )


class Metrics:
    """The replica's metrics, on a registry of its own."""

    def __init__(self, samples: Callable[[], Iterable[Sample]]) -> None:
        self.registry = CollectorRegistry()
        self._reasons: Counter[tuple[Reason, ErrorCode | None]] = Counter()
        self._flags: Counter[FlagId] = Counter()
        self._calls = Histogram(
            "flagsvc_call_seconds",
            "Handling time of calls.",
            ("method", "code"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._timers: dict[tuple[str, str], Histogram] = {}
        self.registry.register(_Samples(lambda: chain(self._evaluation_samples(), samples())))

    def evaluated(self, evaluation: Evaluation) -> None:
        """Count one evaluation."""
        outcome = evaluation.outcome
        self._reasons[outcome.reason, outcome.error_code] += 1
        if evaluation.flag is not None:
            known = evaluation.flag_id in self._flags or len(self._flags) < MAX_KEY_LABELS
            self._flags[evaluation.flag_id if known else _OTHER] += 1

    def called(self, method: str, code: str, seconds: float) -> None:
        """Record one finished call."""
        timer = self._timers.get((method, code))
        if timer is None:
            timer = self._timers[method, code] = self._calls.labels(method, code)
        timer.observe(seconds)

    def page(self) -> bytes:
        """Give the metrics in Prometheus's text format."""
        return generate_latest(self.registry)

    def _evaluation_samples(self) -> Iterator[Sample]:
        for (reason, code), count in self._reasons.items():
            labels = {"reason": reason.value, "error_code": code.value if code else ""}
            yield Sample("flagsvc_evaluations_total", "Evaluations by reason.", count, labels)
        about = f"Evaluations by flag, for the first {MAX_KEY_LABELS} flags seen; the rest is 'other'."
        for flag_id, count in self._flags.items():
            labels = {"flag_set": flag_id.flag_set, "flag_key": flag_id.key}
            yield Sample("flagsvc_flag_evaluations_total", about, count, labels)


class _Samples(Collector):
    """Reads the plain counts of the parts when Prometheus asks."""

    def __init__(self, samples: Callable[[], Iterable[Sample]]) -> None:
        self._samples = samples

    def describe(self) -> Iterable[Metric]:
        """Nothing is known before the parts run."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Give one family per name."""
        families: dict[str, Metric] = {}
        for name, about, value, labels in self._samples():
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = families.setdefault(name, kind(name, about, labels=list(labels)))
            family.add_metric(list(labels.values()), value)  # type: ignore[attr-defined]
        return families.values()
