"""A row as the model sees it: its tokens in boxes, the learned ones marked (``tokens_of`` in macros.html)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from tunesmith.pages.text import language

Token = tuple[str, bool, bool]
"""(text, learned, special)"""


def token_row(origin: str, tokens: Sequence[Token], question: str = "") -> dict[str, Any]:
    """A row of tokens in runs: [(learned, [(text, special, a line ends here)])]."""
    return {
        "origin": origin,
        "count": len(tokens),
        "learned": sum(learned for _, learned, _ in tokens),
        "begins": question or "".join(text for text, _, special in tokens[:200] if not special),
        "language": language("".join(text for text, _, _ in tokens)),
        "runs": [
            (learned, [(_pictured(text), special, text.endswith("\n")) for text, _, special in run])
            for learned, run in groupby(tokens, key=lambda token: token[1])
        ],
    }


def _pictured(text: str) -> str:
    return text.replace("\n", "⏎").replace("\t", "⇥")
