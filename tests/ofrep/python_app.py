"""An application with the unmodified OFREP provider for Python."""

from __future__ import annotations

import uuid
from typing import Any, Self

from openfeature import api
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext
from openfeature.flag_evaluation import FlagEvaluationDetails

from tests.providers.cases import Case


class PythonApp:
    """`with PythonApp(url) as app`; options are the provider's own."""

    def __init__(self, url: str, **options: Any) -> None:
        self._provider = OFREPProvider(url, **options)
        self._domain = f"app-{uuid.uuid4().hex}"

    def __enter__(self) -> Self:
        api.set_provider_and_wait(self._provider, self._domain)
        self.client = api.get_client(self._domain)
        return self

    def __exit__(self, *_: object) -> None:
        self._provider.session.close()

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
