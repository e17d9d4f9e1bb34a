"""What every section of a recipe has in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True)


def fields_of(section: type[Section], prefix: str = "") -> dict[str, tuple[Any, str]]:
    """Dotted name -> (default, help) of every setting in a section."""
    fields: dict[str, tuple[Any, str]] = {}
    for name, field in section.model_fields.items():
        if isinstance(field.default, Section):
            fields |= fields_of(type(field.default), f"{prefix}{name}.")
        else:
            # One line: a line break in the code is none in a row of a table.
            fields[prefix + name] = (field.default, " ".join((field.description or "").split()))
    return fields
