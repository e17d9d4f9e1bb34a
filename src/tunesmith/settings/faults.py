"""A setting that cannot be: one sentence that names it, and what was probably meant."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tunesmith.settings.section import Section, fields_of

PLAIN = {"int": "a whole number", "float": "a number", "bool": "true or false"}
"""What a setting of that type is, in words; pydantic's own are for programmers."""


def sentence(recipe: type[Section], where: str, error: ValidationError, overrides: Mapping[str, Any]) -> str:
    """pydantic's first error, as one sentence that says what to do; it names the flag, if that brought it."""
    faults = error.errors()
    # A share of the rows may also be files: then it is one of these that is wrong, not that they are no number.
    first = next((fault for fault in faults if fault["type"] != "float_type"), faults[0])
    path = [str(part) for part in first["loc"] if _is_name(part)]
    name, unknown = ".".join(path), first["type"] == "extra_forbidden"
    for flag in overrides:
        if flag == name or (unknown and flag.startswith(f"{name}.")):  # of trian.epochs pydantic only says trian
            return _fault(recipe, first, flag.split("."), "--")
        if name.startswith(f"{flag}."):
            return f"--{flag}: {_fault(recipe, first, path)}"
        if flag.startswith(f"{name}."):
            where = f"{where} with --{flag}"
    return f"{where}: {_fault(recipe, first, path)}"


def _fault(recipe: type[Section], fault: ErrorDetails, path: list[str], dashes: str = "") -> str:
    name, given, expected = ".".join(path), fault["input"], fault.get("ctx", {})
    if fault["type"] == "extra_forbidden":
        return f"{dashes}{name} is not a setting{_instead(recipe, path, dashes)}"
    if fault["type"] == "tuple_type" and isinstance(given, str):
        return f"{dashes}{name}: write it in brackets, [{json.dumps(given, ensure_ascii=False)}]"
    words = re.findall("'([^']*)'", str(expected.get("expected") or expected.get("expected_tags") or ""))
    if fault["type"] == "union_tag_not_found":  # a table whose kind says what else may stand in it
        return f'{dashes}{name}: write in it which it is, {str(expected["discriminator"])[1:-1]} = "…"'
    if fault["type"] == "union_tag_invalid":
        tag, there = str(expected["tag"]), sorted(words, key=lambda w: -_likeness(w, expected["tag"]))
        return (
            f"{dashes}{name}: there is no {str(expected['discriminator'])[1:-1]} {tag!r}; there are {', '.join(there)}"
        )
    near = difflib.get_close_matches(str(expected.get("tag", given)), words, 1)
    if fault["type"] == "literal_error" and fault["loc"][-1] == "[key]":
        near = difflib.get_close_matches(path[-1], words, 1)
    if plain := PLAIN.get(fault["type"].split("_")[0]):
        return f"{dashes}{name} is {plain}, and {json.dumps(given, ensure_ascii=False, default=str)} is none"
    said = f"{fault['msg'][0].lower()}{fault['msg'][1:]}"
    return f"{dashes}{name}: {said}" + (f"; did you mean {near[0]!r}?" if near else "")


def _likeness(one: str, other: Any) -> float:
    return difflib.SequenceMatcher(None, one, str(other)).ratio()


def _is_name(part: int | str) -> bool:
    """pydantic also names the branches of unions, such as "tuple[...]" or "function-before"."""
    return isinstance(part, int) or (part.isidentifier() and part not in ("float", "int", "str", "none"))


def _instead(recipe: type[Section], path: list[str], dashes: str) -> str:
    """What a setting that is not there was probably meant to be."""
    if any(part.isdigit() for part in path):  # in a table of a list
        names = _names_beside(recipe, path)
        close = difflib.get_close_matches(path[-1], names, 1)
        return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(names)}"
    everything = [*fields_of(recipe), *recipe.model_fields]
    by_last = {name.rsplit(".", 1)[-1]: name for name in everything}
    close = difflib.get_close_matches(".".join(path), everything, 1, cutoff=0.6)
    close = close or [by_last[last] for last in difflib.get_close_matches(path[-1], by_last, 1, cutoff=0.6)]
    return f"; did you mean {dashes}{close[0]}?" if close else ""


def _names_beside(recipe: type[Section], path: list[str]) -> list[str]:
    """The settings that may stand where the last one of ``path`` does."""
    sections: list[type[Section]] = [recipe]
    for part in path[:-1]:
        fields = [section.model_fields[part].annotation for section in sections if part in section.model_fields]
        sections = [inner for field in fields for inner in _sections(field)] or sections
    return list(dict.fromkeys(name for section in sections for name in section.model_fields))


def _sections(annotation: Any) -> list[type[Section]]:
    if arguments := get_args(annotation):
        return [section for argument in arguments for section in _sections(argument)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, Section) else []
