"""flagd's flag configuration, as parsed JSON, read into flags; everything that is wrong with it is listed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ..errors import InvalidRequest, Violation, shown
from ..evaluation import variant_name
from ..json_values import Path, compact, kind
from ..model import DEFAULT_SET, Flag, FlagId, JsonValue, Status
from ..targeting import problems_of
from ..validation import validated
from .references import refs

SET_NAME = "flagSetId"
"""Field of the metadata that names a flag's set."""
_FILE_FIELDS = frozenset({"$schema", "flags", "$evaluators", "metadata"})
_FLAG_FIELDS = frozenset({"state", "variants", "defaultVariant", "targeting", "metadata", "description"})
_SHOWN_STEPS = 12
"""A path into a very deep rule is cut here."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a place of the file: what is wrong there and what would be right, or what is ignored."""

    path: Path
    text: str


@dataclass(slots=True)
class FlagFile:
    """What a file holds. With violations, `flags` has those that are good."""

    flags: list[Flag] = field(default_factory=list)
    violations: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)


def read(document: JsonValue, flag_set: str | None = None) -> FlagFile:
    """Read and check a whole configuration; `flag_set` overrules the sets that the file names."""
    return _Reading(flag_set).read(document)


class _Reading:
    """One pass over one file."""

    def __init__(self, flag_set: str | None) -> None:
        self._flag_set = flag_set
        self._result = FlagFile()
        self._seen: set[tuple[Path, str]] = set()
        self._evaluators: dict[str, JsonValue] = {}
        self._metadata: dict[str, JsonValue] = {}
        self._used: set[str] = set()
        self._unresolved: set[Path] = set()

    def read(self, document: JsonValue) -> FlagFile:
        if not isinstance(document, dict):
            self._wrong((), f"{_a(document)}; it must be an object with a field `flags`")
            return self._result
        self._ignored((), document, _FILE_FIELDS)
        self._evaluators = self._object(("$evaluators",), document, {})
        self._metadata = self._file_metadata(self._object(("metadata",), document, {}))
        places: dict[FlagId, Path] = {}
        for key, definition, path in self._definitions(document):
            flag = self._flag(key, definition, path)
            if flag is None:
                continue
            if flag.id in places:
                self._wrong(path, f"the flag {shown(key)} stands twice in one set; keep one")
                continue
            places[flag.id] = path
            self._result.flags.append(flag)
        self._unused_evaluators()
        return self._result

    def _definitions(self, document: Mapping[str, JsonValue]) -> Iterator[tuple[str, dict[str, JsonValue], Path]]:
        flags = document.get("flags")
        if isinstance(flags, dict):
            pairs = [(name, definition, ("flags", name)) for name, definition in flags.items()]
        elif isinstance(flags, list):
            pairs = [(self._key(item, index), item, ("flags", index)) for index, item in enumerate(flags)]
        else:
            found = _a(flags) if "flags" in document else "missing"
            self._wrong(("flags",), f"{found}; it must be an object of flags by their keys")
            return
        for key, definition, path in pairs:
            if not isinstance(definition, dict):
                self._wrong(path, f"{_a(definition)}; a flag must be an object with `state` and `variants`")
            elif key is not None:
                yield key, definition, path

    def _key(self, item: JsonValue, index: int) -> str | None:
        key = item.get("key") if isinstance(item, dict) else None
        if isinstance(item, dict) and not isinstance(key, str):
            found = shown(key) if "key" in item else "missing"
            self._wrong(("flags", index, "key"), f"{found}; every flag of an array must have its key as a string")
        return key if isinstance(key, str) else None

    def _flag(self, key: str, definition: dict[str, JsonValue], path: Path) -> Flag | None:
        """Give the flag if all is right with it."""
        before = len(self._result.violations)
        self._ignored(path, definition, _FLAG_FIELDS | {"key"} if isinstance(path[-1], int) else _FLAG_FIELDS)
        metadata = {**self._metadata, **self._object((*path, "metadata"), definition, {})}
        flag_set = self._set_of(metadata, path)
        rule = self._targeting(definition, path)
        used = self._references(rule, (*path, "targeting"))
        flag = Flag(
            key=key,
            flag_set=flag_set,
            name=key,
            description=self._description(definition, path),
            status=self._status(definition, path),
            variants=self._variants(definition, path),
            default_variant=self._default(definition, path),
            targeting=None if rule is None else compact(rule),
            evaluators={name: compact(self._evaluators[name]) for name in used},
            metadata=metadata,
        )
        try:
            good = validated(flag)
        except InvalidRequest as error:
            self._blame(error.violations, flag, rule, path)
            return None
        return good if len(self._result.violations) == before else None

    def _status(self, definition: Mapping[str, JsonValue], path: Path) -> Status:
        state = definition.get("state")
        if state not in ("ENABLED", "DISABLED"):
            found = shown(state) if "state" in definition else "missing"
            self._wrong((*path, "state"), f'{found}; it must be "ENABLED" or "DISABLED"')
            return Status.DISABLED
        return Status(state)

    def _variants(self, definition: Mapping[str, JsonValue], path: Path) -> dict[str, JsonValue]:
        wanted = "an object with at least one variant, all of one type: boolean, string, number or object"
        variants = definition.get("variants")
        if not isinstance(variants, dict) or not variants:
            found = "missing" if "variants" not in definition else "empty" if variants == {} else _a(variants)
            self._wrong((*path, "variants"), f"{found}; it must be {wanted}")
            return {}
        return variants

    def _default(self, definition: Mapping[str, JsonValue], path: Path) -> str | None:
        default = definition.get("defaultVariant")
        if isinstance(default, bool):
            default = variant_name(default)
        if default is not None and not isinstance(default, str):
            self._wrong((*path, "defaultVariant"), f"{shown(default)}; it must be the name of a variant, or null")
            return None
        variants = definition.get("variants")
        if not default or not isinstance(variants, dict) or not variants:
            return None  # without variants, that is what is told
        return default

    def _description(self, definition: Mapping[str, JsonValue], path: Path) -> str | None:
        description = definition.get("description")
        if description is not None and not isinstance(description, str):
            self._wrong((*path, "description"), f"{shown(description)}; it must be a string")
            return None
        return description

    def _targeting(self, definition: Mapping[str, JsonValue], path: Path) -> JsonValue:
        """Give the rule, None where there is none."""
        return self._object((*path, "targeting"), definition, {}, 'an object: a rule such as {"if": [...]}') or None

    def _set_of(self, metadata: dict[str, JsonValue], path: Path) -> str:
        """Give the flag's set and make its metadata say the same."""
        named_set = metadata.get(SET_NAME, "")
        if not isinstance(named_set, str):
            self._wrong((*path, "metadata", SET_NAME), f"{shown(named_set)}; it must be a string")
            return DEFAULT_SET
        if self._flag_set is None:
            return named_set or DEFAULT_SET
        if SET_NAME in metadata and self._flag_set != DEFAULT_SET:
            metadata[SET_NAME] = self._flag_set
        elif named_set != self._flag_set:
            metadata.pop(SET_NAME, None)
        return self._flag_set

    def _file_metadata(self, metadata: dict[str, JsonValue]) -> dict[str, JsonValue]:
        """Check what every flag gets once; give what is good of it."""
        good = dict(metadata)
        if SET_NAME in good and not isinstance(good[SET_NAME], str):
            self._wrong(("metadata", SET_NAME), f"{shown(good.pop(SET_NAME))}; it must be a string")
        try:
            validated(Flag(key="any", metadata=good))
        except InvalidRequest as error:
            for violation in error.violations:
                place = _place(violation.field, ())
                self._wrong(place, _told(violation))
                good.pop(str(place[-1]), None)
        return good

    def _references(self, rule: JsonValue, path: Path) -> list[str]:
        """Give the names of the evaluators that a rule refers to, directly or through others."""
        used: dict[str, None] = {}
        waiting = [(rule, path)]
        while waiting:
            part, place = waiting.pop()
            for name, where in refs(part):
                if name not in self._evaluators:
                    known = ", ".join(sorted(self._evaluators)[:20]) or "none"
                    self._unresolved.add((*place, *where))
                    self._wrong((*place, *where), f"{shown(name)} is no evaluator; known are {known}")
                elif name not in used:
                    used[name] = None
                    waiting.append((self._evaluators[name], ("$evaluators", name)))
        self._used.update(used)
        return list(used)

    def _unused_evaluators(self) -> None:
        unused = [name for name in self._evaluators if name not in self._used]
        for name in unused:
            self._result.notes.append(Finding(("$evaluators", name), "no flag uses this evaluator; it is not kept"))
            self._references(self._evaluators[name], ("$evaluators", name))
        if unused:
            self._blame_rules(None, "", self._evaluators, {}, ())

    def _blame(self, violations: list[Violation], flag: Flag, rule: JsonValue, path: Path) -> None:
        """Say what is wrong with a flag, in the file's words and at the file's places."""
        in_rules = [v for v in violations if v.field.startswith(("flag.targeting", "flag.evaluators"))]
        for violation in violations:
            if violation not in in_rules:
                self._wrong(_place(violation.field, path), _told(violation))
        if not in_rules:
            return
        if in_rules[0].wanted:  # a bound on the whole, not a place in a rule
            self._wrong((*path, "targeting"), _told(in_rules[0]))
            return
        evaluators = {name: self._evaluators[name] for name in flag.evaluators}
        self._blame_rules(rule, flag.key, evaluators, flag.variants, path)

    def _blame_rules(
        self,
        rule: JsonValue,
        key: str,
        evaluators: Mapping[str, JsonValue],
        variants: Mapping[str, JsonValue],
        path: Path,
    ) -> None:
        for problem in problems_of(rule, key, evaluators, variants, variant_name):
            base = (*path, "targeting") if problem.evaluator is None else ("$evaluators", problem.evaluator)
            place = (*base, *problem.path)
            if place not in self._unresolved:  # those are told already, with all names that the file has
                self._wrong(place, problem.message)

    def _object(
        self, path: Path, parent: Mapping[str, JsonValue], default: dict[str, JsonValue], wanted: str = "an object"
    ) -> dict[str, JsonValue]:
        value = parent.get(str(path[-1]))
        if value is None:
            return default
        if not isinstance(value, dict):
            self._wrong(path, f"{_a(value)}; it must be {wanted}")
            return default
        return value

    def _ignored(self, path: Path, fields: Mapping[str, JsonValue], known: frozenset[str]) -> None:
        for name in fields.keys() - known:
            text = f"unknown property, ignored; known are {', '.join(sorted(known))}"
            self._result.notes.append(Finding((*path, name), text))

    def _wrong(self, path: Path, text: str) -> None:
        finding = Finding(path[:_SHOWN_STEPS], text)
        if (finding.path, text) not in self._seen:
            self._seen.add((finding.path, text))
            self._result.violations.append(finding)


def _a(value: JsonValue) -> str:
    """Name a value's type with its article."""
    name = kind(value)
    return "nothing" if name == "null" else f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _place(violated: str, path: Path) -> Path:
    """Give the place in the file for a field as `validated` names it, such as `flag.variants[on]`."""
    name, _, rest = violated.removeprefix("flag.").partition("[")
    steps = {"key": (), "flag_set": ("metadata", SET_NAME), "default_variant": ("defaultVariant",)}
    return (*path, *steps.get(name, (name,)), *((rest[:-1],) if rest else ()))


def _told(violation: Violation) -> str:
    return f"{violation.found}; it must be {violation.wanted}" if violation.wanted else violation.found
