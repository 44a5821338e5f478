"""Writes prerequisites as a part of the targeting rule, for engines that know none: exactly, or not at all.

The rule of each flag that is depended on becomes a condition: its result is one of the wanted variants. Its conditions
stay as they are, so each engine decides them as it does for that flag. A split has to name the text that it hashes,
because without one engines hash the key of the flag that the rule stands in.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from ..errors import short_repr
from ..evaluation import Dependent, Prepared, variant_name
from ..json_values import NotJson, compact, strict_loads
from ..model import Flag, JsonValue, Status
from ..prerequisites import NoOrder, Prerequisite, order_of
from .references import NotInlined, inlined
from .rules import whole_rule

MAX_CHARACTERS = 65_536
"""Size of the JSON of all conditions of a flag."""
NOT_EXPORTED = "flagsvcNotExported"
"""The metadata of a flag that is written as disabled: why."""
_IFS, _LOOPS = frozenset({"if", "?:"}), frozenset({"map", "filter", "all", "none", "some", "reduce"})
_SHORT = 'a split does not name the text that it hashes: write {"cat": [KEY, {"var": FIELD}]}'
_FLAG_KEY, _FLAGD = "$flagd.flagKey", "$flagd"


class NotExported(ValueError):
    """What depends on the flags cannot be written for other engines so that they are sure to decide the same."""


class Member(NamedTuple):
    """One of the flags: as stored, as compiled, and its whole rule where it has one that it is evaluated by."""

    flag: Flag
    prepared: Prepared
    rule: JsonValue = None


def condition_of(key: str, members: Mapping[str, Member]) -> JsonValue:
    """Return the condition under which a flag's prerequisites are met: true, false or a rule. Raises NotExported.

    `members`: the flag and those that it depends on, by key; one that is not in it does not exist.
    """
    if key not in members:
        raise NotExported("its prerequisites are not known here")
    try:
        order = order_of(key, lambda name: members[name].prepared.parents if name in members else ())
    except NoOrder as error:
        raise NotExported(str(error)) from None
    ready: dict[str, _Condition] = {}
    for name in order:
        if name in members:
            ready[name] = _all([_met(each, members, ready) for each in members[name].prepared.prerequisites])
    return ready[key].rule


def valued(rule: JsonValue, default: str | None) -> JsonValue:
    """Return a rule that gives the default variant itself wherever it would give null."""
    if default is None:
        return rule
    if rule is None:
        return default
    if not isinstance(rule, dict):
        return rule
    [(operator, arguments)] = rule.items() if len(rule) == 1 else [("", None)]
    if operator in _IFS and isinstance(arguments, list):
        conditions, results, last = _branches(arguments)
        written: list[JsonValue] = []
        for condition, result in zip(conditions, results, strict=True):
            written += [condition, valued(result, default)]
        return {"if": [*written, valued(last, default)]}
    return {"if": [{"===": [rule, None]}, default, rule]}


class _Condition(NamedTuple):
    """True, false or a rule, and how long its JSON is: what several parts share is written in each."""

    rule: JsonValue
    size: int


def _all(parts: Sequence[_Condition]) -> _Condition:
    """Return the condition that all of these are true. Raises NotExported."""
    if any(part.rule is False for part in parts):
        return _Condition(False, 0)
    rules, size = [part.rule for part in parts if part.rule is not True], sum(part.size for part in parts)
    if size > MAX_CHARACTERS:
        raise NotExported(f"its prerequisites have more than {MAX_CHARACTERS} characters as a rule")
    if not rules:
        return _Condition(True, 0)
    return _Condition(rules[0] if len(rules) == 1 else {"and": rules}, size)


def _met(wanted: Prerequisite, members: Mapping[str, Member], ready: Mapping[str, _Condition]) -> _Condition:
    """Return the condition under which a flag has one of the wanted variants."""
    member = members.get(wanted.flag_key)
    if member is None:
        return _Condition(False, 0)
    try:
        own = _Chosen(member, wanted.variants).condition()
    except NotExported as error:
        raise NotExported(f"of its prerequisite {short_repr(wanted.flag_key)}, {error}") from None
    return _all([ready[wanted.flag_key], _Condition(own, len(compact(own)))])


class _Chosen:
    """A flag's rule as the condition that it gives one of the wanted variants."""

    def __init__(self, member: Member, wanted: Collection[str]) -> None:
        self._flag, self._wanted = member.flag, frozenset(wanted)
        prepared = member.prepared
        self._prepared = prepared.own if isinstance(prepared, Dependent) else prepared
        self._rule = member.rule
        self._default = None if self._flag.status is Status.BETA else self._flag.effective_default

    def condition(self) -> JsonValue:
        """Return it: true, false or a rule. Raises NotExported."""
        fixed = self._prepared.fixed
        if fixed is None:
            return self._of(self._rule)
        if fixed.error_code is not None:
            raise NotExported(f"the evaluation is an error: {fixed.message}")
        return fixed.variant is not None and fixed.variant in self._wanted

    def _of(self, rule: JsonValue) -> JsonValue:
        if rule is None:
            return self._default is not None and self._is_wanted(self._default)
        if not isinstance(rule, dict | list):
            return self._is_wanted(variant_name(rule))
        [(operator, arguments)] = rule.items() if isinstance(rule, dict) and len(rule) == 1 else [("", None)]
        if operator in _IFS and isinstance(arguments, list):
            conditions, results, last = _branches(arguments)
            written: list[JsonValue] = []
            for condition, result in zip(conditions, results, strict=True):
                written += [self._moved(condition), self._of(result)]
            return {"if": [*written, self._of(last)]} if written else self._of(last)
        if operator == "fractional":
            return self._of_split(arguments)
        raise NotExported("the rule may choose otherwise than by conditions, splits and names of variants")

    def _of_split(self, arguments: JsonValue) -> JsonValue:
        """Return a condition that is also right where the split gives null, because there is no text to hash."""
        split = self._moved({"fractional": arguments})
        names = [part[0] if isinstance(part, list) and part else None for part in arguments[1:]]
        if not all(isinstance(name, str) for name in names):
            raise NotExported("a split chooses something else than names of variants")
        meets = {name: self._is_wanted(name) for name in names}
        if self._of(None):
            return {"!": [{"in": [split, [name for name, wanted in meets.items() if not wanted]]}]}
        return {"in": [split, [name for name, wanted in meets.items() if wanted]]}

    def _is_wanted(self, name: str | None) -> bool:
        if name is None or self._flag.effective_variants.get(name) is None:
            raise NotExported(f"the rule may choose {short_repr(name)}, which has no value")
        return name in self._wanted

    def _moved(self, part: JsonValue) -> JsonValue:
        """Return a condition of this flag for the rule of another one: with its own key written out."""
        if isinstance(part, list):
            return [self._moved(each) for each in part]
        if not isinstance(part, dict) or len(part) != 1:
            return part
        [(operator, arguments)] = part.items()
        if operator == "var":
            return self._moved_field(part, arguments)
        if operator == "fractional" and not (isinstance(arguments, list) and _names_its_text(arguments)):
            raise NotExported(_SHORT)
        if operator in _LOOPS and isinstance(arguments, list) and arguments:
            if any(_has_short_split(each) for each in arguments[1:2]):
                raise NotExported(_SHORT)
            # What follows the first part is about elements, not about the context, and may read anything of them.
            return {operator: [self._moved(arguments[0]), *arguments[1:2], *map(self._moved, arguments[2:])]}
        return {operator: self._moved(arguments)}

    def _moved_field(self, part: JsonValue, arguments: JsonValue) -> JsonValue:
        name, rest = arguments, []
        if isinstance(arguments, list):
            name, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
        if name == _FLAG_KEY:
            return self._flag.key
        if not isinstance(name, str) or name in ("", _FLAGD):
            raise NotExported("a condition reads the whole context, or fields that are not known before")
        return {"var": [name, *map(self._moved, rest)]} if rest else part


def member_of(flag: Flag, prepared: Prepared) -> Member:
    """Return a flag with its rule, whose references are written out. Raises NotExported."""
    own = prepared.own if isinstance(prepared, Dependent) else prepared
    if own.fixed is not None:
        return Member(flag, prepared)
    try:
        evaluators = {name: strict_loads(text) for name, text in flag.evaluators.items()}
        return Member(flag, prepared, inlined(whole_rule(flag), evaluators))
    except (NotJson, NotInlined) as error:
        raise NotExported(f"the rule of {short_repr(flag.key)} cannot be written: {error}") from None


def _branches(arguments: list[JsonValue]) -> tuple[list[JsonValue], list[JsonValue], JsonValue]:
    """Return the conditions of an `if`, what each results in, and what the rest does."""
    pairs = len(arguments) // 2 * 2
    return arguments[0:pairs:2], arguments[1:pairs:2], arguments[pairs] if len(arguments) > pairs else None


def _names_its_text(arguments: list[JsonValue]) -> bool:
    """Whether the first argument of a split is a text for every context that has one."""
    first = arguments[0] if arguments else None
    if isinstance(first, dict):
        return first.keys() == {"cat"} or first in ({"var": "targetingKey"}, {"var": ["targetingKey"]})
    return isinstance(first, str)


def _has_short_split(rule: JsonValue) -> bool:
    """Whether a split in a rule may hash the key of the flag that it stands in."""
    pending = [rule]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            split = part.get("fractional")
            if split is not None and not (isinstance(split, list) and _names_its_text(split)):
                return True
            pending += part.values()
        elif isinstance(part, list):
            pending += part
    return False
