"""An application with the unmodified Python provider: a named domain, its client, and the events it sees."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any, Self

from openfeature import api
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.contrib.provider.flagd.config import ResolverType
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import EventDetails, ProviderEvent
from openfeature.flag_evaluation import FlagEvaluationDetails

from tests.providers.cases import Case
from tests.providers.events import Events, Seen


class PythonApp:
    """`with PythonApp(port=...) as app`; options are the provider's own. Without any it uses its default port."""

    def __init__(self, *, in_process: bool = False, **options: Any) -> None:
        if in_process:
            options["resolver_type"] = ResolverType.IN_PROCESS
        self._provider = FlagdProvider(**options)
        self._domain = f"app-{uuid.uuid4().hex}"
        self.client = api.get_client(self._domain)
        self.events = Events()
        self._handlers: list[tuple[ProviderEvent, Callable[[EventDetails], None]]] = []

    def __enter__(self) -> Self:
        for event in ProviderEvent:
            handler = self._handler(event)
            self._handlers.append((event, handler))
            self.client.add_handler(event, handler)
        api.set_provider_and_wait(self._provider, self._domain)
        return self

    def __exit__(self, *_: object) -> None:
        for event, handler in self._handlers:
            self.client.remove_handler(event, handler)
        self._provider.shutdown()

    def _handler(self, event: ProviderEvent) -> Callable[[EventDetails], None]:
        def handle(details: EventDetails) -> None:
            self.events.add(Seen(event.value, tuple(details.flags_changed or ()), time.monotonic_ns()))

        return handle

    def ask(self, case: Case) -> FlagEvaluationDetails[Any]:
        """Evaluate a case."""
        return self.evaluate(case.kind, case.key, case.default, case.targeting_key, case.attributes)

    def evaluate(
        self,
        kind: str,
        key: str,
        default: Any,
        targeting_key: str | None = None,
        attributes: dict[str, Any] | None = None,
    ) -> FlagEvaluationDetails[Any]:
        call = getattr(self.client, f"get_{kind}_details")
        return call(key, default, EvaluationContext(targeting_key, attributes or {}))

    def value(self, key: str, default: Any = None, kind: str = "string") -> Any:
        return self.evaluate(kind, key, default).value


def assert_answer(case: Case, found: FlagEvaluationDetails[Any], *, process: bool = False) -> None:
    """Compare everything that an application sees of an evaluation."""
    assert found.value == case.value
    assert type(found.value) is type(case.value)
    assert str(found.reason) == case.reason_in(process=process)
    assert found.variant == case.variant
    assert (found.error_code.value if found.error_code else None) == case.error
