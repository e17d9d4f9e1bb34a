"""What is shown while tokens come: whole characters, and nothing of a stop string or a call."""

from __future__ import annotations

import json

import pytest
from tiny_chat import write_chat

from tunesmith.models.chat import ChatFormat
from tunesmith.serving.calls import CallReader
from tunesmith.serving.text import Decoding, Stops
from tunesmith.serving.tokens import TokenBytes


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> ChatFormat:
    return ChatFormat(write_chat(tmp_path_factory.mktemp("chat")))


def test_half_a_character_is_never_shown_and_all_comes_in_the_end(chat: ChatFormat):
    text = "Die Maße: 你好，世界 🎉 naïve"
    decoding = Decoding(chat.decode)
    pieces = [decoding.add(token) for token in chat.encode(text)]
    assert "".join(pieces) == text
    assert "你" in pieces
    assert not any("\ufffd" in piece for piece in pieces)
    assert decoding.rest() == ""


def test_what_never_becomes_a_character_is_shown_at_the_end(chat: ChatFormat):
    decoding = Decoding(chat.decode)
    half = chat.encode("好")[:2]
    assert [decoding.add(token) for token in [*chat.encode("a"), *half]] == ["a", "", ""]
    assert decoding.rest() == "\ufffd"


def test_tokens_joined_give_the_bytes_of_the_text(chat: ChatFormat):
    piece, text = TokenBytes(chat), "你好 <|im_end|> 🎉"
    assert b"".join(piece(token) for token in chat.encode(text)).decode() == text


def test_a_stop_string_is_never_shown_however_it_is_divided():
    stops = Stops(["STOP", "\n\n"])
    assert [stops.add(piece) for piece in ["one S", "T", "OLD ", "\n", "x", "ST", "OP more"]] == [
        "one ", "", "STOLD ", "", "\nx", "", "",
    ]  # fmt: skip
    assert stops.met
    assert (stops.add("and more"), stops.rest()) == ("", "")


def test_what_only_looked_like_a_stop_string_is_shown_at_the_end():
    stops = Stops(["STOP"])
    assert stops.add("so ST") + stops.rest() == "so ST"


CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "北京"}}\n</tool_call>'


def test_text_before_a_call_is_shown_and_the_call_is_read():
    reader = CallReader()
    shown = "".join(reader.add(character) for character in f"I look. {CALL}\n{CALL}")
    rest, calls = reader.rest()
    assert (shown, rest, len(calls)) == ("I look. ", "", 2)
    assert calls[0]["function"]["name"] == "weather"
    assert json.loads(calls[0]["function"]["arguments"]) == {"city": "北京"}
    assert calls[0]["id"] != calls[1]["id"]


@pytest.mark.parametrize("text", ["a < b", "<tool_call>not JSON</tool_call>", '<tool_call>{"arguments": {}}', "<tool_"])
def test_what_is_no_call_after_all_is_text(text: str):
    reader = CallReader()
    shown = reader.add(text)
    rest, calls = reader.rest()
    assert (shown + rest, calls) == (text, [])
