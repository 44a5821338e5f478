"""Reads flagd's flag configuration, as parsed JSON, into flags, and collects all violations in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from ..bucketing import version_for
from ..errors import InvalidRequest, Violation, short_repr
from ..evaluation import variant_name
from ..json_values import Path, compact, kind
from ..model import BUCKETINGS, DEFAULT_BUCKETING, DEFAULT_SET, Flag, FlagId, JsonValue, Status
from ..targeting import problems_of
from ..validation import validated
from .references import refs

SET_NAME = "flagSetId"
"""The metadata field that names a flag's set, as in flagd."""
BUCKETING_NAME = "flagsvcBucketing"
"""The field of a file's metadata that names the bucketing of its flags. It is flagsvc's own; no flag inherits it."""
_FILE_FIELDS = frozenset({"$schema", "flags", "$evaluators", "metadata"})
_FLAG_FIELDS = frozenset({"state", "variants", "defaultVariant", "targeting", "metadata", "description"})
_MAX_PATH_STEPS = 12
"""Reported paths into deeply nested rules are cut after this many steps."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A violation (what is wrong, and what is valid) or a note (what is ignored) at a path in the file."""

    path: Path
    text: str


@dataclass(slots=True)
class FlagFile:
    """The content of a file. If it has violations, `flags` has only the valid flags."""

    flags: list[Flag] = field(default_factory=list)
    violations: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)


def read(document: JsonValue, flag_set: str | None = None, *, is_write: bool = True) -> FlagFile:
    """Read and validate a whole configuration. `flag_set` takes precedence over the sets that the file names.

    `is_write`: its flags are to be written to a store, which limits their sizes.
    """
    return _Reader(flag_set, is_write).read(document)


class _Reader:
    """Reads one file."""

    def __init__(self, flag_set: str | None, is_write: bool) -> None:
        self._flag_set, self._is_write = flag_set, is_write
        self._result = FlagFile()
        self._seen: set[tuple[Path, str]] = set()
        self._evaluators: dict[str, JsonValue] = {}
        self._metadata: dict[str, JsonValue] = {}
        self._bucketing = DEFAULT_BUCKETING
        self._used: set[str] = set()
        self._unresolved: set[Path] = set()

    def read(self, document: JsonValue) -> FlagFile:
        if not isinstance(document, dict):
            self._wrong((), f"{_a(document)}; it must be an object with a field `flags`")
            return self._result
        self._note_unknown((), document, _FILE_FIELDS)
        self._evaluators = self._object(("$evaluators",), document)
        self._metadata = self._file_metadata(self._object(("metadata",), document))
        paths: dict[FlagId, Path] = {}
        for key, definition, path in self._definitions(document):
            flag = self._flag(key, definition, path)
            if flag is None:
                continue
            if flag.id in paths:
                self._wrong(path, f"duplicate flag {short_repr(key)} in one set; keep one")
                continue
            paths[flag.id] = path
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
            found = short_repr(key) if "key" in item else "missing"
            self._wrong(("flags", index, "key"), f"{found}; every flag of an array must have its key as a string")
        return key if isinstance(key, str) else None

    def _flag(self, key: str, definition: dict[str, JsonValue], path: Path) -> Flag | None:
        """Return the flag if it is valid."""
        before = len(self._result.violations)
        self._note_unknown(path, definition, _FLAG_FIELDS | {"key"} if isinstance(path[-1], int) else _FLAG_FIELDS)
        metadata = {**self._metadata, **self._object((*path, "metadata"), definition)}
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
            good = validated(flag, is_write=self._is_write)
        except InvalidRequest as error:
            self._report(error.violations, flag, rule, path)
            return None
        good = replace(good, bucketing=version_for(good, self._bucketing))
        return good if len(self._result.violations) == before else None

    def _status(self, definition: Mapping[str, JsonValue], path: Path) -> Status:
        state = definition.get("state")
        if state not in ("ENABLED", "DISABLED"):
            found = short_repr(state) if "state" in definition else "missing"
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
            self._wrong((*path, "defaultVariant"), f"{short_repr(default)}; it must be the name of a variant, or null")
            return None
        variants = definition.get("variants")  # Missing variants are reported already.
        return default if default and variants and isinstance(variants, dict) else None

    def _description(self, definition: Mapping[str, JsonValue], path: Path) -> str | None:
        description = definition.get("description")
        if description is not None and not isinstance(description, str):
            self._wrong((*path, "description"), f"{short_repr(description)}; it must be a string")
            return None
        return description

    def _targeting(self, definition: Mapping[str, JsonValue], path: Path) -> JsonValue:
        """Return the rule; None if there is none."""
        return self._object((*path, "targeting"), definition, 'an object: a rule such as {"if": [...]}') or None

    def _set_of(self, metadata: dict[str, JsonValue], path: Path) -> str:
        """Return the flag's set, and make its metadata agree with it."""
        declared = metadata.get(SET_NAME, "")
        if not isinstance(declared, str):
            self._wrong((*path, "metadata", SET_NAME), f"{short_repr(declared)}; it must be a string")
            return DEFAULT_SET
        if self._flag_set is None:
            return declared or DEFAULT_SET
        if SET_NAME in metadata and self._flag_set != DEFAULT_SET:
            metadata[SET_NAME] = self._flag_set
        elif declared != self._flag_set:
            metadata.pop(SET_NAME, None)
        return self._flag_set

    def _file_metadata(self, metadata: dict[str, JsonValue]) -> dict[str, JsonValue]:
        """Validate the file's metadata, which every flag inherits, once. Return the valid fields."""
        good = dict(metadata)
        self._bucketing = good.pop(BUCKETING_NAME, DEFAULT_BUCKETING)
        if self._bucketing.__class__ is not int or self._bucketing not in BUCKETINGS:
            wanted = f"one of {', '.join(map(str, BUCKETINGS))}"
            self._wrong(("metadata", BUCKETING_NAME), f"{short_repr(self._bucketing)}; it must be {wanted}")
            self._bucketing = DEFAULT_BUCKETING
        if SET_NAME in good and not isinstance(good[SET_NAME], str):
            self._wrong(("metadata", SET_NAME), f"{short_repr(good.pop(SET_NAME))}; it must be a string")
        try:
            validated(Flag(key="any", metadata=good), is_write=False)
        except InvalidRequest as error:
            for violation in error.violations:
                location = _path_of(violation.field, ())
                self._wrong(location, _text_of(violation))
                good.pop(str(location[-1]), None)
        return good

    def _references(self, rule: JsonValue, path: Path) -> list[str]:
        """Return the names of the evaluators that a rule refers to, directly or through other evaluators."""
        used: dict[str, None] = {}
        pending = [(rule, path)]
        while pending:
            part, base = pending.pop()
            for name, inner in refs(part):
                if name not in self._evaluators:
                    known = ", ".join(sorted(self._evaluators)[:20]) or "none"
                    self._unresolved.add((*base, *inner))
                    self._wrong((*base, *inner), f"unknown evaluator {short_repr(name)}; known evaluators: {known}")
                elif name not in used:
                    used[name] = None
                    pending.append((self._evaluators[name], ("$evaluators", name)))
        self._used.update(used)
        return list(used)

    def _unused_evaluators(self) -> None:
        unused = [name for name in self._evaluators if name not in self._used]
        for name in unused:
            self._result.notes.append(Finding(("$evaluators", name), "unused evaluator, ignored"))
            self._references(self._evaluators[name], ("$evaluators", name))
        if unused:
            self._report_rules(Flag(key=""), None, self._evaluators, ())

    def _report(self, violations: list[Violation], flag: Flag, rule: JsonValue, path: Path) -> None:
        """Report a flag's violations at their paths in the file, with the file's field names."""
        in_rules = [v for v in violations if v.field.startswith(("flag.targeting", "flag.evaluators"))]
        for violation in violations:
            if violation not in in_rules:
                self._wrong(_path_of(violation.field, path), _text_of(violation))
        if not in_rules:
            return
        if in_rules[0].wanted:  # A limit on all rules together: it has no path within a rule.
            self._wrong((*path, "targeting"), _text_of(in_rules[0]))
            return
        evaluators = {name: self._evaluators[name] for name in flag.evaluators}
        self._report_rules(flag, rule, evaluators, path)

    def _report_rules(self, flag: Flag, rule: JsonValue, evaluators: Mapping[str, JsonValue], path: Path) -> None:
        limited = self._is_write
        for problem in problems_of(rule, flag.key, evaluators, flag.variants, variant_name, limits_cost=limited):
            base = (*path, "targeting") if problem.evaluator is None else ("$evaluators", problem.evaluator)
            location = (*base, *problem.path)
            if location not in self._unresolved:  # Reported already, with all evaluators of the file.
                self._wrong(location, problem.message)

    def _object(self, path: Path, parent: Mapping[str, JsonValue], wanted: str = "an object") -> dict[str, JsonValue]:
        value = parent.get(str(path[-1]))
        if value is not None and not isinstance(value, dict):
            self._wrong(path, f"{_a(value)}; it must be {wanted}")
            return {}
        return value or {}

    def _note_unknown(self, path: Path, fields: Mapping[str, JsonValue], known: frozenset[str]) -> None:
        for name in fields.keys() - known:
            text = f"unknown property, ignored; known properties: {', '.join(sorted(known))}"
            self._result.notes.append(Finding((*path, name), text))

    def _wrong(self, path: Path, text: str) -> None:
        finding = Finding(path[:_MAX_PATH_STEPS], text)
        if (finding.path, text) not in self._seen:
            self._seen.add((finding.path, text))
            self._result.violations.append(finding)


def _a(value: JsonValue) -> str:
    """Return the name of a value's type with its article."""
    name = kind(value)
    return name if name == "null" else f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _path_of(violated: str, path: Path) -> Path:
    """Return the path in the file of a field as `validated` names it, such as `flag.variants[on]`."""
    name, _, rest = violated.removeprefix("flag.").partition("[")
    steps = {"flag": (), "key": (), "flag_set": ("metadata", SET_NAME), "default_variant": ("defaultVariant",)}
    return (*path, *steps.get(name, (name,)), *((rest[:-1],) if rest else ()))


def _text_of(violation: Violation) -> str:
    return f"{violation.found}; it must be {violation.wanted}" if violation.wanted else violation.found
