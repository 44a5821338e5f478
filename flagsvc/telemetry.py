"""Logs and metrics. Other modules call hooks or keep plain counts; only this one uses Prometheus.

A targeting key is never a label. Flag keys are labels up to MAX_KEY_LABELS flags; further flags count as `other`.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from copy import copy
from itertools import chain
from typing import Any, NamedTuple

import structlog
from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from flagsvc.call_times import CallTimes
from flagsvc.core.evaluation import ErrorCode, Reason
from flagsvc.core.model import FlagId
from flagsvc.core.shown_text import visible
from flagsvc.serving.reader import Evaluation

disable_created_metrics()  # type: ignore[no-untyped-call]  # the creation time of each counter is of no use

MAX_KEY_LABELS = 1_000
PIECE = 50
"""Samples that are rendered in one go."""
_OTHER = FlagId("other", "other")
_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Sample(NamedTuple):
    """One value of a metric: a counter if its name ends in `_total`, else a gauge. `about` is the help text."""

    name: str
    about: str
    value: float
    labels: Mapping[str, str] = {}


def configure_logging(level: str, style: str) -> None:
    """Log to standard error. `style`: `json`, `console`, or `auto` for console on a terminal and JSON elsewhere."""
    console = style == "console" or (style == "auto" and sys.stderr.isatty())
    dev, processors = structlog.dev, structlog.processors
    plain = dev.plain_traceback  # local variables may hold secrets
    renderer = dev.ConsoleRenderer(exception_formatter=plain) if console else processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            processors.add_log_level,
            processors.TimeStamper(fmt="iso", utc=True),
            processors.StackInfoRenderer(),
            *([_visible_values] if console else [processors.format_exc_info]),  # JSON escapes by itself
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    keep_headers_out_of_logs()


def keep_headers_out_of_logs() -> None:
    """Drop gRPC's report of a header that is not UTF-8: it has the header, which may be a credential, in full."""
    logging.getLogger("grpc._cython.cygrpc").addFilter(_shows_no_header)


def _shows_no_header(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Invalid encoding")


def _visible_values(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escape what could steer a terminal, or pass for another log line."""
    return {name: visible(value) if isinstance(value, str) else value for name, value in event.items()}


class Evaluations:
    """The evaluations of one thread."""

    def __init__(self) -> None:
        self.reasons: Counter[tuple[Reason, ErrorCode | None]] = Counter()
        self.flags: Counter[FlagId] = Counter()

    def add(self, evaluation: Evaluation) -> None:
        """Count one evaluation."""
        outcome = evaluation.outcome
        self.reasons[outcome.reason, outcome.error_code] += 1
        if evaluation.flag is not None:
            known = evaluation.flag_id in self.flags or len(self.flags) < MAX_KEY_LABELS
            self.flags[evaluation.flag_id if known else _OTHER] += 1


class Metrics:
    """The server's metrics, in a registry of their own. `samples` returns the current values of plain counts."""

    def __init__(self, samples: Callable[[], Iterable[Sample]]) -> None:
        self.registry = CollectorRegistry()
        self._in_loop = Evaluations()
        self._evaluations = [self._in_loop]
        self.evaluated = self._in_loop.add
        """Counts one evaluation in the event loop."""
        about = "Seconds from a call's start to its end, by method and status code."
        self.calls = CallTimes("flagsvc_call_seconds", about, _BUCKETS)
        """How long calls took."""
        self.registry.register(self.calls)
        self._lag = Histogram(
            "flagsvc_loop_lag_seconds",
            "Seconds by which the event loop woke up late: another caller waits that long.",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._samples = samples

    def evaluated_elsewhere(self) -> Callable[[Evaluation], None]:
        """Return what counts evaluations in another thread, which only that thread may call."""
        self._evaluations.append(Evaluations())
        return self._evaluations[-1].add

    def label_of(self, flag_id: FlagId) -> FlagId:
        """Return what a flag that was evaluated before counts as."""
        return flag_id if flag_id in self._in_loop.flags else _OTHER

    def evaluated_again(self, reasons: Mapping[tuple[Reason, ErrorCode | None], int], labels: Iterable[FlagId]) -> None:
        """Count evaluations like earlier ones: how many had which outcome, and what each flag counts as."""
        self._in_loop.reasons.update(reasons)
        self._in_loop.flags.update(labels)

    def loop_was_late(self, seconds: float) -> None:
        """Record by how much the event loop was late."""
        self._lag.observe(seconds)

    def samples(self) -> list[Sample]:
        """Return the plain counts as they are now. Call it in the event loop that changes them."""
        return [*self._evaluation_samples(), *self._samples()]

    def page(self) -> bytes:
        """Return all metrics in Prometheus's text format. Call it in the event loop."""
        return b"".join(self.pieces(self.samples()))

    def pieces(self, samples: Iterable[Sample]) -> Iterator[bytes]:
        """Yield the page with these samples in small pieces, between which another thread may run."""
        for family in chain(self.registry.collect(), _families(samples)):
            for start in range(0, max(1, len(family.samples)), PIECE):
                piece = copy(family)
                piece.samples = family.samples[start : start + PIECE]
                text = generate_latest(_One(piece))
                yield text.split(b"\n", 2)[2] if start else text  # the lines HELP and TYPE come once

    def _evaluation_samples(self) -> Iterator[Sample]:
        reasons, flags = Counter[tuple[Reason, ErrorCode | None]](), Counter[FlagId]()
        for each in self._evaluations:
            reasons.update(each.reasons.copy())
            for flag_id, count in each.flags.copy().items():
                flags[flag_id if flag_id in flags or len(flags) < MAX_KEY_LABELS else _OTHER] += count
        for (reason, code), count in reasons.items():
            labels = {"reason": reason.value, "error_code": code.value if code else ""}
            yield Sample("flagsvc_evaluations_total", "Evaluations by reason and error code.", count, labels)
        about = f"Evaluations by flag, for the first {MAX_KEY_LABELS} flags evaluated; further flags count as 'other'."
        for flag_id, count in flags.items():
            labels = {"flag_set": flag_id.flag_set, "flag_key": flag_id.key}
            yield Sample("flagsvc_flag_evaluations_total", about, count, labels)


def _families(samples: Iterable[Sample]) -> Iterable[Metric]:
    """Return one metric family for each name."""
    families: dict[str, Metric] = {}
    for name, about, value, labels in samples:
        kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
        family = families.get(name)
        if family is None:
            family = families[name] = kind(name, about, labels=list(labels))
        family.add_metric(list(labels.values()), value)  # type: ignore[attr-defined]
    return families.values()


class _One(Collector):
    """Collects one metric family."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        """Return it."""
        return (self._family,)
