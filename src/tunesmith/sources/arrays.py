"""Rows of JSON that is not one row a line: an array, an object that holds one, objects set over many lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from tunesmith.sources.cursor import Broken, Cursor, TooLong
from tunesmith.sources.example import Example, Origin
from tunesmith.sources.quarantine import SHOWN, Quarantined
from tunesmith.sources.text import HALF, NOT_ITS_ENCODING, SAMPLE, Unreadable, json_problem

LISTS = ("data", "rows", "examples", "train")
"""Under these keys a JSON object may hold its rows."""

Form = Callable[[Any, Origin], Example]
"""What makes an Example of one parsed row, or raises `Unreadable`."""


def read_values(chunks: Iterator[bytes], name: str, form: Form) -> Iterator[Example | Quarantined]:
    """The rows of JSON that is not one row a line; what follows a break in it is one quarantined row."""
    cursor = Cursor(chunks)
    try:
        while first := cursor.peek():
            if first == "[":
                yield from _elements(cursor, name, form)
            elif first == "{":
                yield from _object(cursor, name, form)
            else:
                yield _element(cursor, name, form)
    except Broken as error:
        line = cursor.line
        text, size = cursor.rest()
        huge = f", {size:,} characters," if size > SHOWN else ""
        reason = f"broken JSON: {error}; the rest of the file{huge} cannot be read"
        yield Quarantined(Origin(name, line), reason, text.replace("\udcff", "\ufffd"))


def _elements(cursor: Cursor, name: str, form: Form) -> Iterator[Example | Quarantined]:
    cursor.skip()
    while (first := cursor.peek()) != "]":
        if not first:
            yield Quarantined(Origin(name, cursor.line), "the array is cut short, its ] is missing; get the whole file")
            return
        yield _element_or_broken(cursor, name, form)
    cursor.skip()


def _element_or_broken(cursor: Cursor, name: str, form: Form) -> Example | Quarantined:
    """A broken row costs itself alone where the next one can be told: by being a row that can be used."""

    def is_row(value: Any) -> bool:
        try:
            return bool(form(value, Origin(name)))
        except Unreadable:
            return False

    try:
        return _element(cursor, name, form)
    except TooLong:
        raise
    except Broken as error:
        line, text = cursor.line, cursor.recover(is_row)
        if text is None:
            raise
        return quarantined(Origin(name, line), f"broken JSON: {error}", text.replace("\udcff", "\ufffd"))


def _element(cursor: Cursor, name: str, form: Form) -> Example | Quarantined:
    origin = Origin(name, cursor.line)
    value, text = cursor.value()
    try:
        if "\udcff" in text:
            raise Unreadable(NOT_ITS_ENCODING)
        return form(_whole(value, text), origin)
    except Unreadable as reason:
        return quarantined(origin, str(reason), text.encode("utf-8", "replace").decode())


def _whole(value: Any, text: str) -> Any:
    """The value, unless an escape in its text makes half a character."""
    return parse(text) if "\\ud" in text or "\\uD" in text else value


def _object(cursor: Cursor, name: str, form: Form) -> Iterator[Example | Quarantined]:
    """An object is one row, unless it holds a list of them."""
    origin, members, listed = Origin(name, cursor.line), {}, False
    cursor.skip()
    while (first := cursor.peek()) != "}":
        if first != '"':
            raise Broken("an object is cut short" if not first else "a key stands not in double quotation marks")
        key, _ = cursor.value()
        if cursor.peek() == "[" and key in LISTS:
            listed = True
            yield from _elements(cursor, name, form)
        else:
            members[key], _ = cursor.value()
    cursor.skip()
    if listed:
        return
    try:
        text = json.dumps(members, ensure_ascii=False)
    except (ValueError, RecursionError) as error:
        raise Broken(json_problem(error)) from None
    try:
        yield form(parse(text), origin)
    except Unreadable as reason:
        yield quarantined(origin, str(reason), text.encode("utf-8", "replace").decode())


def parse(text: str) -> Any:
    """A value that `json` alone takes, or refuses. Raises `Unreadable`."""
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Unreadable(HALF) from None
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"broken JSON: {json_problem(error)}") from None
    return value


def quarantined(origin: Origin, reason: str, text: str) -> Quarantined:
    """A row with its text; of a long one, its beginning and its size."""
    if len(text) > SAMPLE:
        reason, text = f"{reason} (the row has {len(text):,} characters)", text[:SHOWN]
    return Quarantined(origin, reason, text)
