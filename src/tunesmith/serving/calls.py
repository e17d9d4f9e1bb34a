"""Calls of tools in an answer, written as the rows of this project and most templates write them:
<tool_call>{"name": …, "arguments": {…}}</tool_call>."""

from __future__ import annotations

import json
import re
import secrets
from typing import Any

from tunesmith.serving.text import begun

OPEN = "<tool_call>"
_CALL = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)


class CallReader:
    """Divides an answer into text, which is shown as it comes, and calls, which are known when they are whole."""

    def __init__(self) -> None:
        self._held = ""

    def add(self, text: str) -> str:
        """What can be shown."""
        self._held += text
        at = self._held.find(OPEN)
        end = at if at >= 0 else len(self._held) - begun(self._held, OPEN)
        shown, self._held = self._held[:end], self._held[end:]
        return shown

    def rest(self) -> tuple[str, list[dict[str, Any]]]:
        """At the end: the text that was held back, or the calls. What is no call after all is text."""
        calls = [_read(written) for written in _CALL.findall(self._held)]
        if not calls or None in calls:
            return self._held, []
        return "", [call for call in calls if call]


def _read(written: str) -> dict[str, Any] | None:
    """One call in OpenAI's form."""
    try:
        value = json.loads(written)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", {})
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    function = {"name": value["name"], "arguments": text}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}
