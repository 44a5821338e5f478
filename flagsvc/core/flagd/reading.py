"""Reads flagd's flag configuration, as parsed JSON, into flags, and collects what is wrong or odd in it.

A file is refused for what flagd's daemon refuses, for what no store can take, and for rules that surely mean something
else. All else that is odd is served as flagd serves it, and is a warning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ..bucketing import version_for
from ..errors import Violation, short_repr
from ..evaluation import variant_name
from ..json_values import Path, compact, problem, whole_as_float
from ..lint import switches_on
from ..model import BUCKETINGS, DEFAULT_BUCKETING, DEFAULT_SET, NO_VARIANTS, Exposure, Flag, FlagId, JsonValue, Status
from ..targeting import Effect, problems_of
from ..targeting.lint import notes_of
from ..validation import examined, key_problem
from .fields import empty_text, renamed, type_name, type_problems
from .findings import Finding, FlagFile, path_of, text_of
from .references import refs

SET_NAME = "flagSetId"
"""The metadata field that names a flag's set, as in flagd."""
BUCKETING_NAME = "flagsvcBucketing"
"""The field of a file's metadata that names the bucketing of its flags. It is flagsvc's own; no flag inherits it."""
EXPOSURE_NAME = "flagsvcExposure"
"""The field of a flag's metadata, or of the file's, that says who may see it over OFREP. It is flagsvc's own, too."""
_FILE_FIELDS = frozenset({"$schema", "flags", "$evaluators", "metadata"})
_FLAG_FIELDS = frozenset({"state", "variants", "defaultVariant", "targeting", "metadata", "description"})
_DECIDING_FIELDS = frozenset({"prerequisites", "rollout"})
"""Fields of flagsvc's flags that files do not have. A flag without its own would be another: on, where it was off."""
_NO_SUCH_FIELD = (
    "flag files do not have this field, and without it the flag has other answers; leave it out, and set it in a store"
    " (`flagsvc set`), or import lines of mongoexport, which have it"
)
_SMALLEST_EVALUATOR = 3
"""Characters of JSON below which flagd takes an evaluator for empty, and refuses the file."""


def read(document: JsonValue, flag_set: str | None = None, *, is_write: bool = True) -> FlagFile:
    """Read and validate a whole configuration. `flag_set` takes precedence over the sets that the file names.

    `is_write`: its flags are to be written to a store, so what no store can take is a violation. A flag of a file that
    is served is evaluated as far as it can be.
    """
    return _Reader(flag_set, is_write).read(document)


def as_served(flag: Flag) -> Flag:
    """Return the flag without metadata that cannot be sent, and with the problem of a variant that cannot."""
    metadata = {name: value for name, value in flag.metadata.items() if problem(value) is None}
    for name, value in flag.variants.items():
        if wrong := problem(value):
            text = f"The variant {short_repr(name)} cannot be sent: {wrong}"
            return replace(flag, metadata=metadata, problem=text)
    return replace(flag, metadata=metadata)


class _Reader:
    """Reads one file."""

    def __init__(self, flag_set: str | None, is_write: bool) -> None:
        self._flag_set, self._is_write = flag_set, is_write
        self._result = result = FlagFile()
        self._wrong, self._odd, self._note = result.wrong, result.odd, result.note
        self._evaluators: dict[str, JsonValue] = {}
        self._metadata: dict[str, JsonValue] = {}
        self._bucketing = DEFAULT_BUCKETING
        self._used: set[str] = set()
        self._unresolved: set[Path] = set()

    def read(self, document: JsonValue) -> FlagFile:
        if not isinstance(document, dict):
            self._wrong((), f"{type_name(document)}; it must be an object with a field `flags`")
            return self._result
        self._report_unknown((), document, _FILE_FIELDS)
        self._evaluators = self._object(("$evaluators",), document)
        for name, rule in self._evaluators.items():
            if len(compact(rule)) < _SMALLEST_EVALUATOR:
                self._wrong(("$evaluators", name), f"{compact(rule)}; it must be a rule, as flagd requires")
        self._metadata = self._metadata_of({"metadata": self._object(("metadata",), document)}, ())
        self._check_file_metadata()
        flags: dict[FlagId, Flag] = {}
        for key, definition, path in self._definitions(document):
            flag = self._flag(key, definition, path)
            if flag is not None and flag.id in flags:
                self._odd(path, f"duplicate flag {short_repr(key)} in one set; the last one is used")
            if flag is not None:
                flags[flag.id] = flag
        self._result.flags = [*flags.values()]
        self._unused_evaluators()
        return self._result

    def _definitions(self, document: Mapping[str, JsonValue]) -> Iterator[tuple[str, dict[str, JsonValue], Path]]:
        flags = document.get("flags")
        if isinstance(flags, dict):
            pairs = [(name, definition, ("flags", name)) for name, definition in flags.items()]
        elif isinstance(flags, list):
            pairs = [(self._key(item, index), item, ("flags", index)) for index, item in enumerate(flags)]
        elif "flags" in document and flags is None:
            self._odd(("flags",), "null, so there are no flags; it must be an object of flags by their keys")
            return
        else:
            found = type_name(flags) if "flags" in document else "missing"
            self._wrong(("flags",), f"{found}; it must be an object of flags by their keys")
            return
        for key, definition, path in pairs:
            if definition is None:
                self._odd(path, "null; a flag must be an object with `state` and `variants`")
                definition = {}  # noqa: PLW2901  as in flagd
            if not isinstance(definition, dict):
                self._wrong(path, f"{type_name(definition)}; a flag must be an object with `state` and `variants`")
            elif key is not None:
                yield key, definition, path

    def _key(self, item: JsonValue, index: int) -> str | None:
        key = item.get("key") if isinstance(item, dict) else None
        if isinstance(item, dict) and key is None:
            found = "null" if "key" in item else "missing"
            self._odd(("flags", index, "key"), f"{found}, so the flag is not served; every flag of an array needs one")
        elif key is not None and not isinstance(key, str):
            self._wrong(("flags", index, "key"), f"{short_repr(key)}; it must be the flag's key, a string")
        return key if isinstance(key, str) else None

    def _flag(self, key: str, definition: dict[str, JsonValue], path: Path) -> Flag | None:
        """Return the flag if it can be served."""
        before = len(self._result.violations)
        self._report_unknown(path, definition, _FLAG_FIELDS | {"key"} if isinstance(path[-1], int) else _FLAG_FIELDS)
        definition = renamed(definition, path, self._odd)
        for name, text in type_problems(definition):
            self._wrong((*path, name), text)
        if len(self._result.violations) > before:
            self._default(definition, path)  # so that all violations are reported at once
            return None
        own = self._metadata_of(definition, path)
        metadata = {**self._metadata, **own}
        exposure = self._exposure(metadata, (*path, "metadata"), is_own=EXPOSURE_NAME in own)
        rule = definition.get("targeting")
        used = self._references(rule, (*path, "targeting"))
        flag = Flag(
            key=key,
            flag_set=self._set_of(metadata, path),
            name=key,
            description=self._description(definition, path),
            status=self._status(definition, path),
            variants=self._variants(definition, path),
            default_variant=self._default(definition, path),
            targeting=None if "targeting" not in definition or rule == {} else compact(rule),
            evaluators={name: compact(self._evaluators[name]) for name in used},
            metadata=metadata,
            exposure=exposure,
        )
        checked, violations = examined(flag, is_write=self._is_write)
        inherited = {f"flag.metadata[{name}]" for name in self._metadata.keys() - own.keys()}
        self._report([each for each in violations if each.field not in inherited], flag, rule, path)
        if len(self._result.violations) > before or key_problem(key):
            return None
        if self._is_write:
            self._lint(checked, rule, path)
        return as_served(replace(checked, bucketing=version_for(checked, self._bucketing)))

    def _metadata_of(self, definition: Mapping[str, JsonValue], path: Path) -> dict[str, JsonValue]:
        """Return the metadata without nulls, which flagd leaves out."""
        given = (definition.get("metadata") or {}).items()
        return {n: self._number(value, (*path, "metadata", n)) for n, value in given if value is not None}

    def _exposure(self, metadata: dict[str, JsonValue], path: Path, *, is_own: bool) -> Exposure:
        """Take the exposure out of a flag's metadata. What is none shows the flag to nobody else."""
        value = metadata.pop(EXPOSURE_NAME, Exposure.INTERNAL)
        if isinstance(value, str) and value in Exposure.__members__:
            return Exposure(value)
        if is_own:
            text = f'{short_repr(value)}; it must be "INTERNAL" or "PUBLIC"'
            self._result.add((*path, EXPOSURE_NAME), text, is_odd=not self._is_write)
        return Exposure.INTERNAL

    def _status(self, definition: Mapping[str, JsonValue], path: Path) -> Status:
        """Return the status. As in flagd, whatever is not exactly "DISABLED" is enabled."""
        state = definition.get("state")
        if state == "DISABLED":
            return Status.DISABLED
        if state != "ENABLED":
            found = short_repr(state) if state else empty_text("state", definition).partition(";")[0]
            self._odd((*path, "state"), f'{found}, so the flag is enabled; it must be "ENABLED" or "DISABLED"')
        return Status.ENABLED

    def _variants(self, definition: Mapping[str, JsonValue], path: Path) -> Mapping[str, JsonValue]:
        variants = definition.get("variants")
        if not variants:
            self._odd((*path, "variants"), empty_text("variants", definition))
            return NO_VARIANTS
        return {name: self._number(value, (*path, "variants", name)) for name, value in variants.items()}

    def _number(self, value: JsonValue, path: Path) -> JsonValue:
        """Return the value, an integer that no client can take as a float, as in flagd."""
        found = whole_as_float(value)
        if found is not value:
            self._odd(path, "an integer outside -2^63 to 2^63-1, which is served as a float")
        return found

    def _default(self, definition: Mapping[str, JsonValue], path: Path) -> str | None:
        default = definition.get("defaultVariant")
        if isinstance(default, bool):
            default = variant_name(default)
        variants = definition.get("variants") or {}
        if not default or not isinstance(default, str) or not isinstance(variants, dict):
            return None
        names = list(variants)
        if default not in names:
            wanted = f"one of the flag's variants: {', '.join(names[:10]) or 'it has none'}"
            self._wrong((*path, "defaultVariant"), f"{short_repr(default)}; it must be {wanted}")
        return default

    def _description(self, definition: Mapping[str, JsonValue], path: Path) -> str | None:
        description = definition.get("description")
        if description is not None and not isinstance(description, str):
            self._odd((*path, "description"), f"{short_repr(description)}, which is ignored; it must be a string")
            return None
        return description

    def _set_of(self, metadata: dict[str, JsonValue], path: Path) -> str:
        """Return the flag's set, and make its metadata agree with it."""
        declared = metadata.get(SET_NAME, "")
        if not isinstance(declared, str):
            if self._metadata.get(SET_NAME) is not declared:
                self._odd((*path, "metadata", SET_NAME), f"{short_repr(declared)}, which names no set; use a string")
            return self._flag_set or DEFAULT_SET
        if self._flag_set is None:
            return declared or DEFAULT_SET
        if SET_NAME in metadata and self._flag_set != DEFAULT_SET:
            metadata[SET_NAME] = self._flag_set
        elif declared != self._flag_set:
            metadata.pop(SET_NAME, None)
        return self._flag_set

    def _check_file_metadata(self) -> None:
        """Take the bucketing out of the file's metadata, which every flag inherits; report what is odd in it, once."""
        self._bucketing = self._metadata.pop(BUCKETING_NAME, DEFAULT_BUCKETING)
        if self._bucketing.__class__ is not int or self._bucketing not in BUCKETINGS:
            wanted = f"one of {', '.join(map(str, BUCKETINGS))}"
            self._wrong(("metadata", BUCKETING_NAME), f"{short_repr(self._bucketing)}; it must be {wanted}")
            self._bucketing = DEFAULT_BUCKETING
        self._exposure(dict(self._metadata), ("metadata",), is_own=True)
        _, violations = examined(Flag(key="any", metadata=self._metadata), is_write=False)
        self._report(violations, Flag(key="any"), None, ())
        declared = self._metadata.get(SET_NAME, "")
        if not isinstance(declared, str):
            self._odd(("metadata", SET_NAME), f"{short_repr(declared)}, which names no set; it must be a string")

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
                    self._odd((*base, *inner), f"unknown evaluator {short_repr(name)}; known evaluators: {known}")
                elif name not in used:
                    used[name] = None
                    pending.append((self._evaluators[name], ("$evaluators", name)))
        self._used.update(used)
        return list(used)

    def _unused_evaluators(self) -> None:
        unused = [name for name in self._evaluators if name not in self._used]
        for name in unused:
            self._note(("$evaluators", name), "unused evaluator, ignored")
            self._references(self._evaluators[name], ("$evaluators", name))
        if unused:
            self._report_rules(Flag(key=""), None, self._evaluators, ())

    def _report(self, violations: list[Violation], flag: Flag, rule: JsonValue, path: Path) -> None:
        """Report a flag's violations at their paths in the file, with the file's field names."""
        in_rules = [v for v in violations if v.field.startswith(("flag.targeting", "flag.evaluators"))]
        for violation in violations:
            text = text_of(violation)
            is_reported = violation.field == "flag.default_variant" or flag.variants is NO_VARIANTS
            if violation in in_rules or (is_reported and violation.field.startswith(("flag.default", "flag.variants"))):
                continue
            if violation.field == "flag.key" and not self._is_write:
                text = f"{text}; the flag is not served"
            self._result.add(path_of(violation.field, path), text, is_odd=violation.is_odd or not self._is_write)
        if not in_rules:
            return
        if in_rules[0].wanted:  # A limit on all rules together: it has no path within a rule.
            self._result.add((*path, "targeting"), text_of(in_rules[0]), is_odd=not self._is_write)
            return
        evaluators = {name: self._evaluators[name] for name in flag.evaluators}
        self._report_rules(flag, rule, evaluators, path)

    def _report_rules(self, flag: Flag, rule: JsonValue, evaluators: Mapping[str, JsonValue], path: Path) -> None:
        limited = self._is_write
        for found in problems_of(rule, flag.key, evaluators, flag.variants, variant_name, limits_cost=limited):
            base = (*path, "targeting") if found.evaluator is None else ("$evaluators", found.evaluator)
            location = (*base, *found.path)
            if location not in self._unresolved:  # Reported already, with all evaluators of the file.
                is_odd = found.effect is not Effect.AMBIGUOUS or not self._is_write
                self._result.add(location, found.message, is_odd=is_odd)

    def _lint(self, flag: Flag, rule: JsonValue, path: Path) -> None:
        for found in notes_of(rule, {name: self._evaluators[name] for name in flag.evaluators}, switches_on(flag)):
            base = (*path, "targeting") if found.evaluator is None else ("$evaluators", found.evaluator)
            note = Finding((*base, *found.path), found.message)
            if note not in self._result.notes:
                self._result.notes.append(note)

    def _object(self, path: Path, parent: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        value = parent.get(str(path[-1]))
        if value is None:
            return {}
        if not isinstance(value, dict):
            self._wrong(path, f"{type_name(value)}; it must be an object")
            return {}
        return value

    def _report_unknown(self, path: Path, given: Mapping[str, JsonValue], known: frozenset[str]) -> None:
        folded = {name.lower() for name in known} if path else known
        for name, value in given.items():
            if (name.lower() if path else name) in folded:
                continue
            if path and value and name.lower() in _DECIDING_FIELDS:
                self._result.add((*path, name), _NO_SUCH_FIELD, is_odd=not self._is_write)
            else:
                text = f"unknown property, ignored; known properties: {', '.join(sorted(known))}"
                self._note((*path, name), text)
