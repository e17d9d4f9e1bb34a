"""The bytes that a token stands for: what a client puts together when half of a character is a token."""

from __future__ import annotations

import json
import re
from functools import cached_property

from tunesmith.models.chat import ChatFormat

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class TokenBytes:
    def __init__(self, chat: ChatFormat) -> None:
        self._chat = chat

    def __call__(self, token: int) -> bytes:
        tokenizer = self._chat.tokenizer
        if token in self._added:
            return tokenizer.decode([token], skip_special_tokens=False).encode()
        piece = tokenizer.id_to_token(token) or ""
        if self._by_bytes:
            return bytes(self._bytes.get(character, 0x3F) for character in piece)
        if single := _BYTE.fullmatch(piece):
            return bytes([int(single[1], 16)])
        return piece.replace("▁", " ").encode()

    @cached_property
    def _added(self) -> frozenset[int]:
        return frozenset(self._chat.tokenizer.get_added_tokens_decoder())

    @cached_property
    def _by_bytes(self) -> bool:
        """Whether each character of a piece stands for a byte, as in GPT-2's tokenizer and most since."""
        return "ByteLevel" in json.dumps(json.loads(self._chat.tokenizer.to_str()).get("decoder"))

    @cached_property
    def _bytes(self) -> dict[str, int]:
        """GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes for what comes behind 255."""
        printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        others = [byte for byte in range(256) if byte not in printable]
        return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
