"""gzip: no more is decompressed than the limit, whatever the body says."""

from __future__ import annotations

import gzip

import pytest

from flagsvc.api.http.bodies import BodyRefused, _inflated, decompressed

PLAIN = b"x" * 5_000_000


def test_a_bomb_is_opened_no_further_than_the_limit() -> None:
    assert len(_inflated(gzip.compress(PLAIN), 1_000)) == 1_001


async def test_codings() -> None:
    twice = gzip.compress(b"one ") + gzip.compress(b"two")
    for coding in ("gzip", " GZIP ", "x-gzip"):
        assert await decompressed(twice, 1_000, coding) == b"one two", "several members are one body"
    assert await decompressed(b"as it is", 1_000, "identity") == b"as it is"
    assert await decompressed(gzip.compress(b"y" * 200_000), 1_000_000, "gzip") == b"y" * 200_000
    refused = {413: gzip.compress(PLAIN), 400: gzip.compress(b"one")[:-4]}
    for status, body in refused.items():
        with pytest.raises(BodyRefused) as caught:
            await decompressed(body, 1_000, "gzip")
        assert caught.value.status == status
    with pytest.raises(BodyRefused, match="deflate"):
        await decompressed(b"", 1_000, "deflate")
