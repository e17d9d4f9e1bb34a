"""JSON Schema, draft 2020-12, as far as answers of a model are checked by it.

A keyword that is not known here is refused when the schema is read, for half a schema would call answers right that are
not. ``format`` says nothing, as the standard has it unless told otherwise. A reference leads to a place in the same
file; nothing is ever fetched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote

Value = Any
"""What JSON can hold."""


class BadSchema(ValueError):
    """What is wrong with a schema, and where in it."""


class Rule(NamedTuple):
    """kind: of the values that a keyword speaks of, empty for all; takes: whether a setting is one; holds: whether a
    value keeps to the setting; said: of a value that does not."""

    kind: str
    takes: Callable[[Value], bool]
    holds: Callable[[Value, Value], bool]
    said: str


def kind_of(value: Value) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return {str: "string", list: "array", dict: "object"}.get(type(value), "null")


def same(a: Value, b: Value) -> bool:
    """Equality of JSON: 1 is 1.0 and not true, at every depth; the order of keys says nothing."""
    if kind_of(a) != kind_of(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def _has_type(value: Value, names: str | list[str]) -> bool:
    kinds = {kind_of(value)}
    if kinds == {"number"} and (isinstance(value, int) or value.is_integer()):
        kinds.add("integer")
    return not kinds.isdisjoint(_listed(names))


def _listed(names: Value) -> list[Value]:
    return names if isinstance(names, list) else [names]


def _are_types(names: Value) -> bool:
    return bool(names) and all(name in TYPES for name in _listed(names))


def _is_number(value: Value) -> bool:
    return kind_of(value) == "number"


def _is_count(value: Value) -> bool:
    return _is_number(value) and value >= 0


def _is_list(value: Value) -> bool:
    return isinstance(value, list) and bool(value)


def _is_pattern(value: Value) -> bool:
    try:
        return isinstance(value, str) and re.compile(value) is not None
    except re.error:
        return False


def _are_names(value: Value) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _all_differ(values: list[Value], wanted: bool) -> bool:
    return not wanted or not any(same(a, b) for i, a in enumerate(values) for b in values[:i])


TYPES = ("null", "boolean", "number", "integer", "string", "array", "object")
RULES = {
    "type": Rule("", _are_types, _has_type, "is not of the type {}"),
    "enum": Rule("", _is_list, lambda value, given: any(same(value, one) for one in given), "is none of {}"),
    "const": Rule("", lambda _: True, same, "is not {}"),
    "minimum": Rule("number", _is_number, lambda value, least: value >= least, "is less than {}"),
    "maximum": Rule("number", _is_number, lambda value, most: value <= most, "is more than {}"),
    "exclusiveMinimum": Rule("number", _is_number, lambda value, least: value > least, "is not more than {}"),
    "exclusiveMaximum": Rule("number", _is_number, lambda value, most: value < most, "is not less than {}"),
    "minLength": Rule("string", _is_count, lambda text, least: len(text) >= least, "is shorter than {}"),
    "maxLength": Rule("string", _is_count, lambda text, most: len(text) <= most, "is longer than {}"),
    "pattern": Rule("string", _is_pattern, lambda text, wanted: bool(re.search(wanted, text)), "does not match {}"),
    "minItems": Rule("array", _is_count, lambda items, least: len(items) >= least, "has fewer items than {}"),
    "maxItems": Rule("array", _is_count, lambda items, most: len(items) <= most, "has more items than {}"),
    "uniqueItems": Rule("array", lambda value: isinstance(value, bool), _all_differ, "has the same item twice"),
    "required": Rule("object", _are_names, lambda value, names: set(names) <= value.keys(), "lacks one of {}"),
    "minProperties": Rule("object", _is_count, lambda value, least: len(value) >= least, "has fewer keys than {}"),
    "maxProperties": Rule("object", _is_count, lambda value, most: len(value) <= most, "has more keys than {}"),
}
NAMED = ("properties", "$defs", "definitions")
LISTED = ("prefixItems", "allOf", "anyOf", "oneOf")
SINGLE = ("items", "additionalProperties", "not")
SILENT = (
    "$schema", "$id", "$comment", "title", "description", "default", "example", "examples", "format", "deprecated",
    "readOnly", "writeOnly",
)  # fmt: skip


class Schema:
    """One schema, looked through when it is made. Raises `BadSchema`."""

    def __init__(self, root: Value) -> None:
        self._root = root
        self._seen: set[int] = set()
        self._led_to: list[tuple[str, Value]] = []
        self._check(root, "#")
        for place, target in self._led_to:
            if id(target) not in self._seen:
                raise BadSchema(f'{place}: "$ref" leads to what is no schema')

    def fault(self, value: Value) -> str:
        """What is wrong first, and where; empty when the value keeps to the schema. Raises RecursionError for a value
        that is nested deeper than can be looked into."""
        return next(self._faults(value, self._root, "the value"), "")

    # -- a schema --------------------------------------------------------------------------------

    def _check(self, schema: Value, place: str) -> None:
        self._seen.add(id(schema))
        if isinstance(schema, bool):
            return
        if not isinstance(schema, dict):
            raise BadSchema(f"{place} is no schema but {_shown(schema)}")
        self._refuse_circle(schema, place, ())
        for keyword, setting in schema.items():
            self._check_keyword(keyword, setting, f"{place}/{keyword}")

    def _check_keyword(self, keyword: str, setting: Value, place: str) -> None:
        if keyword in RULES:
            if not RULES[keyword].takes(setting):
                raise BadSchema(f"{place} cannot be {_shown(setting)}")
        elif keyword in SINGLE:
            self._check(setting, place)
        elif keyword in NAMED or keyword in LISTED:
            wanted = dict if keyword in NAMED else list
            if not isinstance(setting, wanted):
                raise BadSchema(f"{place} cannot be {_shown(setting)}")
            for name, part in setting.items() if isinstance(setting, dict) else enumerate(setting):
                self._check(part, f"{place}/{name}")
        elif keyword == "$ref":
            self._led_to.append((place, self._resolve(setting, place)))
        elif keyword not in SILENT and not keyword.startswith("x-"):
            raise BadSchema(f"{place}: this keyword cannot be checked here; say it with others, or take it out")

    def _refuse_circle(self, schema: Value, place: str, within: tuple[int, ...]) -> None:
        """A schema that applies itself to the same value again would never end."""
        if not isinstance(schema, dict):
            return
        if id(schema) in within:
            raise BadSchema(f"{place} leads back to itself")
        parts = [part for keyword in LISTED[1:] for part in _listed(schema.get(keyword, []))]
        parts += [schema["not"]] if "not" in schema else []
        parts += [self._resolve(schema["$ref"], place)] if "$ref" in schema else []
        for part in parts:
            self._refuse_circle(part, place, (*within, id(schema)))

    def _resolve(self, reference: Value, place: str = "") -> Value:
        if not isinstance(reference, str) or not re.match(r"#(/|$)", reference):
            raise BadSchema(f'{place}: "$ref" {_shown(reference)} leads out of the file; only "#/…" is followed')
        found = self._root
        for step in unquote(reference).split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            try:
                found = found[int(step)] if isinstance(found, list) else found[step]
            except (KeyError, IndexError, ValueError, TypeError):
                raise BadSchema(f'{place}: "$ref" {_shown(reference)} leads nowhere') from None
        return found

    # -- a value ---------------------------------------------------------------------------------

    def _faults(self, value: Value, schema: Value, place: str) -> Iterator[str]:
        if schema is False:
            yield f"{place} may not be there"
        if isinstance(schema, bool):
            return
        for keyword, rule in RULES.items():
            if keyword in schema and rule.kind in ("", kind_of(value)) and not rule.holds(value, schema[keyword]):
                yield f"{place} {rule.said.format(_shown(schema[keyword]))}"
        if isinstance(value, dict):
            yield from self._in_object(value, schema, place)
        if isinstance(value, list):
            yield from self._in_array(value, schema, place)
        yield from self._combined(value, schema, place)

    def _in_object(self, value: dict[str, Value], schema: dict[str, Value], place: str) -> Iterator[str]:
        known = schema.get("properties", {})
        for key, part in value.items():
            within = known[key] if key in known else schema.get("additionalProperties", True)
            yield from self._faults(part, within, f"{place}, {_shown(key)},")

    def _in_array(self, value: list[Value], schema: dict[str, Value], place: str) -> Iterator[str]:
        first = schema.get("prefixItems", [])
        for i, part in enumerate(value):
            within = first[i] if i < len(first) else schema.get("items", True)
            yield from self._faults(part, within, f"{place}, item {i},")

    def _combined(self, value: Value, schema: dict[str, Value], place: str) -> Iterator[str]:
        if "$ref" in schema:
            yield from self._faults(value, self._resolve(schema["$ref"]), place)
        for part in schema.get("allOf", []):
            yield from self._faults(value, part, place)
        if "anyOf" in schema and not self._kept(value, schema["anyOf"], place):
            yield f"{place} keeps to nothing of anyOf"
        if "oneOf" in schema and (kept := self._kept(value, schema["oneOf"], place)) != 1:
            yield f"{place} keeps to {kept} of oneOf"
        if "not" in schema and self._kept(value, [schema["not"]], place):
            yield f"{place} keeps to what it must not"

    def _kept(self, value: Value, schemas: list[Value], place: str) -> int:
        return sum(next(self._faults(value, schema, place), None) is None for schema in schemas)


def _shown(value: Value) -> str:
    return json.dumps(value, ensure_ascii=False)[:80]
