"""The steps of OpenFeature's suite, for FlagsvcProvider under the unmodified SDK."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from flagsvc_client.openfeature import FlagsvcProvider
from flagsvc_client.testing import InMemoryFlagClient
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ProviderNotReadyError
from openfeature.flag_evaluation import FlagEvaluationDetails, FlagEvaluationOptions
from openfeature.hook import Hook

from tests.gherkin.scenarios import Row, Scenario
from tests.replicas import until
from tests.servers import free_port

PROVIDER_METADATA = {"flagSetId", "version", "flagsvc.source"}
"""What the provider adds to a flag's own metadata: set and version are names that Appendix D gives for telemetry."""
_READ: dict[str, Callable[[str], Any]] = {
    "boolean": lambda text: text == "true",
    "string": str,
    "integer": int,
    "float": float,
    "object": lambda text: json.loads(text.replace('\\"', '"')),
}
_DEFINED: list[tuple[re.Pattern[str], str]] = []


def step(pattern: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Let a method carry out the steps that match."""

    def noted(method: Callable[..., Any]) -> Callable[..., Any]:
        _DEFINED.append((re.compile(pattern, re.IGNORECASE), method.__name__))
        return method

    return noted


class Recorder(Hook):
    """Records what a hook is called with, by stage."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.details: dict[str, FlagEvaluationDetails[Any]] = {}

    def before(self, hook_context: Any, hints: Any) -> None:
        self.stages.append("before")

    def after(self, hook_context: Any, details: FlagEvaluationDetails[Any], hints: Any) -> None:
        self.stages.append("after")
        self.details["after"] = details

    def error(self, hook_context: Any, exception: Exception, hints: Any) -> None:
        self.stages.append("error")

    def finally_after(self, hook_context: Any, details: FlagEvaluationDetails[Any], hints: Any) -> None:
        self.stages.append("finally")
        self.details["finally"] = details


class World:
    """One scenario: `provider` makes the stable provider."""

    def __init__(self, domain: str, provider: Callable[[], FlagsvcProvider]) -> None:
        self._domain, self._provider = domain, provider
        self._context: dict[str, Any] = {}
        self._hooks: list[Recorder] = []
        self.found: Any = None

    async def play(self, scenario: Scenario) -> None:
        for each in scenario.steps:
            matches = [(match, name) for pattern, name in _DEFINED if (match := pattern.fullmatch(each.text))]
            assert len(matches) == 1, f"{len(matches)} definitions of: {each.text}"
            [(match, name)] = matches
            arguments = [*match.groups(), *([each.table] if each.table else [])]
            await getattr(self, name)(*arguments)

    @property
    def _client(self) -> OpenFeatureClient:
        return api.get_client(self._domain)

    @step("a stable provider")
    async def stable(self) -> None:
        await asyncio.to_thread(api.set_provider_and_wait, self._provider(), self._domain)

    @step("a not ready provider")
    async def not_ready(self) -> None:
        nowhere = FlagsvcProvider(f"127.0.0.1:{free_port()}", local=True, ready_timeout_s=1.0)
        api.set_provider(nowhere, self._domain)

    @step("a error provider")
    async def in_error(self) -> None:
        nowhere = FlagsvcProvider(f"127.0.0.1:{free_port()}", local=True, ready_timeout_s=0.1)
        with pytest.raises(ProviderNotReadyError):
            await asyncio.to_thread(api.set_provider_and_wait, nowhere, self._domain)

    @step("a stale provider")
    async def stale(self) -> None:
        kept = InMemoryFlagClient()
        api.set_provider_and_wait(FlagsvcProvider(client=kept), self._domain)
        kept._local.events.set_state("stale", "no message")

    @step('a (boolean|string|integer|float|object)-flag with key "(.*?)" and a fallback value "(.*)"')
    async def flag(self, kind: str, key: str, default: str) -> None:
        self._kind, self._key = kind.lower(), key
        self._default = _READ[self._kind](default)

    @step('a context containing a key "(.*)", with type "(.*)" and with value "(.*)"')
    async def with_context(self, name: str, kind: str, value: str) -> None:
        self._context[name] = _READ[kind.lower()](value)

    @step('a context containing a key "(.*)" with null value')
    async def with_null(self, name: str) -> None:
        self._context[name] = None

    @step("a client with added hook")
    async def with_hook(self) -> None:
        self._hooks = [Recorder()]

    @step("evaluation options containing specific hooks")
    async def with_hooks(self) -> None:
        self._hooks = [Recorder(), Recorder()]

    @step("an evaluation context with modifiable data")
    async def with_data(self) -> None:
        self._context = {"plan": "pro", "tags": ["a", {"b": 1}]}
        self._before = copy.deepcopy(self._context)

    @step("the flag was evaluated with details(?: using the evaluation options)?")
    async def evaluated(self) -> None:
        method = getattr(self._client, f"get_{self._kind}_details")
        self.found = await asyncio.to_thread(method, *self._arguments())

    @step("the flag was evaluated with details asynchronously")
    async def evaluated_async(self) -> None:
        method = getattr(self._client, f"get_{self._kind}_details_async")
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        await asyncio.sleep(0)
        self.found = await method(*self._arguments())
        ticking.cancel()
        self._ticks = ticks

    def _arguments(self) -> tuple[Any, ...]:
        context = EvaluationContext(attributes=self._context) if self._context else None
        return self._key, self._default, context, FlagEvaluationOptions(hooks=[*self._hooks])

    @step("the evaluation should complete without blocking")
    async def not_blocked(self) -> None:
        assert self._ticks > 0

    @step('the resolved details value should be "(.*)"')
    async def value_is(self, value: str) -> None:
        wanted = _READ[self._kind](value)
        assert (self.found.value, type(self.found.value)) == (wanted, type(wanted))

    @step('the reason should be "(.*)"')
    async def reason_is(self, reason: str) -> None:
        assert self.found.reason == reason

    @step('the error-code should be "(.*)"')
    async def error_is(self, code: str) -> None:
        assert self.found.error_code == code

    @step('the flag key should be "(.*)"')
    async def key_is(self, key: str) -> None:
        assert self.found.flag_key == key

    @step('the variant should be "(.*)"')
    async def variant_is(self, variant: str) -> None:
        assert self.found.variant == variant

    @step("the resolved metadata should contain")
    async def metadata_has(self, rows: list[Row]) -> None:
        wanted = {row["key"]: _READ[row["metadata_type"].lower()](row["value"]) for row in rows}
        assert self.found.flag_metadata.items() >= wanted.items()

    @step("the resolved metadata is empty")
    async def metadata_is_empty(self) -> None:
        assert set(self.found.flag_metadata) <= PROVIDER_METADATA

    @step('the provider status should be "(.*)"')
    async def status_is(self, status: str) -> None:
        await until(lambda: self._client.get_provider_status().value == status)

    @step('the "(.*)" hook should have been executed')
    async def hook_ran(self, stage: str) -> None:
        assert stage in self._hooks[0].stages

    @step('the "(.*)" hooks should be called with evaluation details')
    async def hooks_got(self, stages: str, rows: list[Row]) -> None:
        for stage in stages.split(", "):
            details = dataclasses.asdict(self._hooks[0].details[stage])
            for row in rows:
                value = None if row["value"] == "null" else _READ[row["data_type"]](row["value"])
                assert details[row["key"]] == value, row["key"]

    @step("the specified hooks should execute during evaluation")
    async def hooks_ran(self) -> None:
        assert [hook.stages for hook in self._hooks] == [["before", "after", "finally"]] * 2

    @step("the hook order should be maintained")
    async def hooks_in_order(self) -> None:
        assert all(hook.stages[0] == "before" for hook in self._hooks)

    @step("the original evaluation context should remain unmodified")
    async def context_is_unmodified(self) -> None:
        assert self._context == self._before

    @step("the evaluation details should be immutable")
    async def details_are_separate(self) -> None:
        """Python's SDK has no frozen details: what a caller changes must not reach the next caller."""
        self.found.flag_metadata["changed"] = True
        before = self.found
        await self.evaluated()
        assert "changed" not in self.found.flag_metadata
        assert self.found is not before
