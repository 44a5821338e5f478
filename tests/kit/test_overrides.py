"""Overrides for all clients of a process, as a block and as a decorator, and a whole set in place of the server's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flagsvc_client import AsyncFlagClient, ErrorCode, FlagClient, Status
from flagsvc_client.substitutes import SUBSTITUTES
from flagsvc_client.testing import InMemoryFlagClient, StrictError, override, use_flags

from tests.client.forms import FORMS, asked
from tests.servers import free_port

NOWHERE = f"127.0.0.1:{free_port()}"


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    assert SUBSTITUTES == []


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("local", [False, True], ids=["network", "local"])
async def test_an_override_is_what_every_client_of_the_process_evaluates(form: str, local: bool) -> None:
    async with asked(form, NOWHERE, local=local, timeout_s=0.2) as client:
        with override("checkout-v2", True):
            assert await client.is_enabled("checkout-v2") is True
            assert (await client.details("checkout-v2", default=False)).variant == "on"
            assert (await client.batch(["checkout-v2"]))["checkout-v2"].value is True
            other = await client.details("other", default="x")
            assert (other.value, other.error_code) == ("x", ErrorCode.PROVIDER_NOT_READY)
        assert await client.is_enabled("checkout-v2") is False


def test_overrides_nest_take_many_keys_and_end_with_exceptions() -> None:
    with FlagClient(NOWHERE, timeout_s=0.2) as client:
        with override({"a": 1, "b": "x"}), override("a", 2):
            assert (client.get_int("a", default=0), client.get_str("b", default="")) == (2, "x")
        with pytest.raises(KeyError), override("a", 1):
            raise KeyError
        off = override("a", None)
        with off, off:
            assert client.details("a", default=9).status == Status.DISABLED
        with override("c", {"variants": {"big": 5, "small": 1}, "state": "ENABLED", "targeting": {"var": "size"}}):
            assert client.get_int("c", {"size": "big"}, default=0) == 5


def test_an_override_takes_precedence_over_flags_in_memory() -> None:
    with InMemoryFlagClient({"a": 1, "b": 2}) as client, override("a", 5):
        assert {key: found.value for key, found in client.batch(["a", "b"]).items()} == {"a": 5, "b": 2}


CLIENT = FlagClient(NOWHERE, timeout_s=0.2)
AIO = AsyncFlagClient(NOWHERE, timeout_s=0.2)


@override("checkout-v2", True)
def test_as_a_decorator() -> None:
    assert CLIENT.is_enabled("checkout-v2") is True


@override("checkout-v2", True)
async def test_as_a_decorator_of_a_coroutine() -> None:
    assert await AIO.is_enabled("checkout-v2") is True


class TestMethods:
    @override("limit", 7)
    @pytest.mark.parametrize("default", [0, 1])
    def test_as_a_decorator_of_a_method(self, default: int) -> None:
        assert CLIENT.get_int("limit", default=default) == 7


@pytest.mark.parametrize("wrong", [TestMethods, _nothing_is_left])
def test_what_it_cannot_decorate_is_reported(wrong: Any) -> None:
    def generator() -> Iterator[None]:
        yield

    with pytest.raises(TypeError, match="override"):
        override("a", 1)(TestMethods if wrong is TestMethods else generator)


@pytest.mark.parametrize("arguments", [("a",), ({"a": 1}, 2)])
def test_it_takes_a_key_and_a_value_or_values(arguments: Any) -> None:
    with pytest.raises(TypeError, match="a key and a value, or values by key"):
        override(*arguments)


@pytest.mark.parametrize("form", FORMS)
async def test_a_set_takes_the_place_of_the_server(form: str) -> None:
    async with asked(form, NOWHERE, timeout_s=5.0) as client:
        with use_flags({"a": 1, "b": "x"}) as flags:
            assert {key: found.value for key, found in (await client.batch()).items()} == {"a": 1, "b": "x"}
            flags.set("a", 2)
            assert await client.get_int("a", default=0) == 2
            assert (await client.details("nope", default=0)).error_code is ErrorCode.FLAG_NOT_FOUND
            with override("a", 3):
                assert await client.get_int("a", default=0) == 3
        with use_flags({"a": 1}, strict=True), pytest.raises(StrictError, match="did you mean 'a'"):
            await client.get_int("aa", default=0)


@pytest.mark.parametrize("form", FORMS)
async def test_a_start_is_not_waited_for_where_flags_are_in_place(form: str) -> None:
    async with asked(form, NOWHERE, local=True, wait_ready_s=60.0) as client:
        with override("a", 1):
            assert await client.get_int("a", default=0) == 1
