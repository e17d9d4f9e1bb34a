"""Ollama's Modelfile, by the rules of Ollama's own parser (parser/parser.go, read August 2026).

A text stands between three quotes, without escapes; it ends at the first line that ends in three quotes
(blanks aside). Characters that cannot be printed are dropped on reading, except newlines and tabs: an
ideographic space is one of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError
from tunesmith.export.ollama_template import Derived
from tunesmith.models.chat import read_config

_PARAMETERS = {
    "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
}  # fmt: skip
"""Names of generation_config.json, and Ollama's."""
_TEXT_ENDS = re.compile(r'"""\s*?[\r\n]')


def modelfile(
    gguf_name: str, derived: Derived, *, system: str | None, stops: Sequence[str], parameters: dict[str, Any]
) -> str:
    """The text of a Modelfile that lies beside ``gguf_name``.

    Raises `ModelError` for a text that no Modelfile can hold; `tunesmith.export.ollama.create` has no such limits.
    """
    lines = [f"FROM ./{_checked(gguf_name, 'the name of the GGUF file', multiline=False)}"]
    if derived.template:
        lines.append(f"TEMPLATE {_text(derived.template, 'the template')}")
    if system:
        lines.append(f"SYSTEM {_text(system, 'the system message')}")
    lines += [f"PARAMETER stop {_stop(stop)}" for stop in stops]
    lines += [f"PARAMETER {name} {_number(value)}" for name, value in parameters.items()]
    return "\n".join(lines) + "\n"


def generation_parameters(folder: Path) -> dict[str, Any]:
    """How the model's generation_config.json wants it to be sampled, in Ollama's names; empty where it says nothing."""
    config = read_config(folder / "generation_config.json")
    found = {_PARAMETERS[name]: value for name, value in config.items() if name in _PARAMETERS and value is not None}
    if config.get("do_sample") is False:
        found["temperature"] = 0
    return found


def _text(text: str, what: str) -> str:
    if _TEXT_ENDS.search(_checked(text, what)):
        raise ModelError(
            f'{what} has a line that ends in """, which a Modelfile cannot hold; change it, or export with --to ollama'
        )
    return f'"""{text}"""'


def _stop(text: str) -> str:
    """In single quotes where it is one line: they end at the end of the line, not at the next quote."""
    if "\n" in text or text.startswith('""') or text.endswith('"'):
        return _text(text, "a stop text")
    return f'"{_checked(text, "a stop text")}"'


def _checked(text: str, what: str, *, multiline: bool = True) -> str:
    lost = next((c for c in text if not c.isprintable() and not (multiline and c in "\n\t")), None)
    if lost is not None:
        raise ModelError(
            f"{what} holds the character U+{ord(lost):04X}, which a Modelfile cannot hold; "
            "take it out, or export with --to ollama"
        )
    return text


def _number(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
