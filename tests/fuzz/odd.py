"""Plain and odd values for fuzzed calls, and random changes of bytes."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from tests.property.rules import Maker

KEYS = tuple(f"flag-{number}" for number in range(24))
SETS = ("", "", "", "", "shop")
TEXTS = (
    "",
    " ",
    ".",
    "..",
    "\0",
    "a\nb",
    "a\r\nx: y",
    "\x1b[31m",
    "\x7f",
    "\u202eabc",
    "\u200b",
    "\ufeff",
    "\ufffe",
    "\u2028",
    "e\u0301",
    "\U0001f468\u200d\U0001f469",
    "\U0010ffff",
    "%s%n{0}{key}",
    "%00",
    "${a}",
    "$flagd.flagKey",
    "__proto__",
    "constructor",
    "$ref",
    "a.b",
    "$a",
    "null",
    "NaN",
    "1e999",
    "-0",
    '"',
    "\\",
    "'; drop",
    "{",
    "[[[[",
    "*",
    "a" * 255,
    "a" * 256,
    "a" * 257,
    "\u00e9" * 128,
    "\u65e5" * 400,
)
LONG_TEXTS = ("b" * 5_000, "9" * 5_000, "\U0001f600" * 9_000, "c" * 70_000, "d" * 600_000, "[" * 20_000)
INTEGERS = tuple(
    sign * (2**bits + off) for bits in (0, 7, 8, 31, 32, 53, 62, 63) for off in (-1, 0, 1) for sign in (1, -1)
)
FLOATS = (0.0, -0.0, 5e-324, -5e-324, 1e-300, 0.1, 1e15, 2.0**53, 2.0**63, 1.8e308 / 2, float("inf"), -float("inf"))
FLOATS += (float("nan"),)
ATTRIBUTES = ("email", "country", "version", "age", "plan", "$flagd", "targetingKey", "on", "off", "a")


class Odd:
    """Makes values. `share` is how many of the plain ones are replaced by odd ones: the maker changes it per call."""

    def __init__(self, random: Random) -> None:
        self.random, self.share = random, 0.0
        self.long_texts = 0
        """How many long texts the call may still get: one, or it would weigh hundreds of megabytes."""
        self.seen: dict[str, list[str]] = {"etag": ['"1"'], "token": [""]}
        """Etags and page tokens of earlier answers."""
        seed = random.randrange(2**32)
        self._rules = [json.dumps(case.rule) for case in Maker(f"calls/{seed}").cases(200)]

    def begin(self) -> None:
        """Begin a call: with plain values, with some odd ones, or with many."""
        self.share, self.long_texts = self.random.choice((0.0, 0.0, 0.03, 0.3)), 1

    @property
    def is_odd(self) -> bool:
        """Draw whether the next value is odd."""
        return self.random.random() < self.share

    def text(self) -> str:
        """Return an odd text, rarely a long one."""
        random = self.random
        kind = random.random()
        if kind < 0.03 and self.long_texts:
            self.long_texts -= 1
            return random.choice(LONG_TEXTS)
        if kind < 0.2:
            return "".join(chr(random.choice((random.randrange(128), random.randrange(0xD800)))) for _ in range(9))
        return random.choice(TEXTS)

    def plain_text(self, name: str) -> str:
        """Return a text that suits a field of that name."""
        random = self.random
        if name in ("flag_key", "key", "flag_keys"):
            return random.choice(KEYS)
        if name in ("flag_set", "flag_set_id"):
            return random.choice(SETS)
        if name in ("targeting", "evaluators"):
            return random.choice(self._rules)
        if name == "default_variant":
            return random.choice(("", "on", "off"))
        if name in ("etag", "page_token"):
            return random.choice(("", random.choice(self.seen["etag" if name == "etag" else "token"])))
        if name == "selector":
            return random.choice(("", "flagSetId=shop", "shop", "source=a", "flagSetId=shop,flagSetId=a"))
        if name in ("paths", "update_mask"):
            return random.choice(("name", "status", "config", "variants", "targeting", "metadata", "owner", "*", "key"))
        if name == "service":
            return random.choice(("", "flagsvc.v1.FlagService", "store", "a"))
        if name in ("fields", "attributes", "metadata", "variants"):
            return random.choice(ATTRIBUTES)
        return random.choice(("a", "user-1", "Checkout", "@example.com", "1.2.3"))

    def remember(self, name: str, value: str) -> None:
        """Keep an etag or a page token of an answer."""
        kept = self.seen["etag" if name == "etag" else "token"]
        if value:
            kept.append(value)
            del kept[:-50]

    def integer(self) -> int:
        """Return a whole number: small, or an odd one."""
        return self.random.choice(INTEGERS) if self.is_odd else self.random.randrange(6)

    def number(self) -> float:
        """Return a number: small, or an odd one."""
        return self.random.choice(FLOATS) if self.is_odd else self.random.choice((0.5, 1.0, 2.0, -3.25))

    def json(self, depth: int = 0) -> Any:
        """Return a JSON value; with what JSON has no form for, as Python writes it."""
        random = self.random
        kind = random.randrange(8 if depth < 5 else 5)
        if kind < 2:
            return self.text() if self.is_odd else self.plain_text("")
        if kind < 4:
            return random.choice((self.integer(), self.number()))
        if kind == 4:
            return random.choice((None, True, False))
        if kind == 5:
            return [self.json(depth + 1) for _ in range(random.choice((0, 1, 3)))]
        names = (self.text() if self.is_odd else random.choice(ATTRIBUTES) for _ in range(random.choice((0, 1, 2, 5))))
        return {name: self.json(depth + 1) for name in names}


def changed(data: bytes, others: list[bytes], random: Random) -> bytes:
    """Return the bytes after a few random changes, a splice with another request among them."""
    found = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        at, length = random.randrange(len(found) + 1), random.choice((1, 1, 2, 4, 8, 64, 1_000))
        match random.randrange(8):
            case 0 if at < len(found):
                found[at] ^= 1 << random.randrange(8)
            case 1 if at < len(found):
                found[at] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
            case 2:
                del found[at : at + length]
            case 3:
                del found[at:]
            case 4:
                found[at:at] = random.randbytes(min(length, 64))
            case 5:
                found[at:at] = found[at : at + length] * random.choice((1, 2, 20))
            case 6 if others:
                other = random.choice(others)
                found[at:] = other[random.randrange(len(other) + 1) :]
            case 7 if at < len(found):  # a length, perhaps, that is too short, too long, or without an end
                found[at : at + 1] = random.choice(
                    (b"\x00", b"\x7f", b"\xff\x7f", b"\xff\xff\xff\xff\x0f", b"\xff" * 11)
                )
    return bytes(found[:1_200_000])
