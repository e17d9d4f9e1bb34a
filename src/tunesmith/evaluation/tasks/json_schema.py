"""A JSON schema of a person's, as the library jsonschema checks it. Nothing is ever fetched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, best_match
from jsonschema.validators import validator_for
from jsonschema_specifications import REGISTRY
from referencing import Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

LONGEST = 80
"""Characters of a value that are shown."""


class BadSchema(ValueError):
    """What is wrong with a schema, and where in it."""


class Schema:
    """A schema in the draft that it names, else in 2020-12. ``format`` says nothing, as the standard has it unless told
    otherwise. Raises `BadSchema` when it is no schema, or refers to what is not in it."""

    def __init__(self, root: Any) -> None:
        kind: Any = validator_for(root, default=Draft202012Validator)
        _check(kind, root)
        resource: Any = Resource.from_contents(root, default_specification=DRAFT202012)
        registry = REGISTRY.with_resource("", resource)  # which retrieves nothing by itself
        for reference in _references(root):
            try:
                _check(kind, registry.resolver("").lookup(reference).contents)
            except Unresolvable:
                raise BadSchema(f"{reference!r} refers to what is not in the file, and nothing is fetched") from None
        self._validator: Any = kind(root, registry=registry)
        try:
            self.fault(None)
        except RecursionError:
            raise BadSchema("a $ref in it leads back to itself") from None

    def fault(self, value: Any) -> str:
        """What keeps ``value`` from keeping to the schema, the first that matters; empty when it does."""
        error = best_match(self._validator.iter_errors(value))
        return f"{_place(error.absolute_path)}: {_brief(error.message)}" if error else ""


def _check(kind: Any, schema: Any) -> None:
    try:
        kind.check_schema(schema, format_checker=kind.FORMAT_CHECKER)  # which looks at patterns too
    except SchemaError as error:
        raise BadSchema(f"{_place(error.absolute_path)}: {_brief(error.message)}") from None


def same(a: Any, b: Any) -> bool:
    """Equality of JSON: 1 is 1.0 and not true, at every depth; the order of keys says nothing."""
    if isinstance(a, bool) != isinstance(b, bool):
        return False
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for key, inner in schema.items():
            if key in ("$ref", "$dynamicRef") and isinstance(inner, str):
                yield inner
            else:
                yield from _references(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from _references(inner)


def _place(path: Any) -> str:
    """``order.items[2]``, or "the value" itself."""
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return place.lstrip(".") or "the value"


def _brief(message: str) -> str:
    return message if len(message) <= 2 * LONGEST else f"{message[:LONGEST]} … {message[-LONGEST:]}"
