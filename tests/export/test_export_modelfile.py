from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_chat import CHATML, write_chat

from tunesmith.errors import ModelError
from tunesmith.export.modelfile import generation_parameters, modelfile
from tunesmith.export.ollama_template import Derived, derive, stops
from tunesmith.models.chat import ChatFormat

_TEMPLATES = sorted((Path(__file__).parents[2].parent / "shared" / "data" / "chat-templates").glob("*.jinja"))
_COMMANDS = {"from", "license", "template", "system", "adapter", "renderer", "parser", "parameter", "message"}


def read(text: str) -> list[tuple[str, str]]:
    """A Modelfile's (command, value) pairs, as Ollama's parser/parser.go reads it: rune by rune."""
    found, state, name, held = list[tuple[str, str]](), "nothing", "", ""
    for rune in text + "\n":
        if state == "nothing":
            state, held = ("comment", "") if rune == "#" else ("nothing", "") if rune in " \t\r\n" else ("name", rune)
        elif state == "comment":
            state = "nothing" if rune in "\r\n" else state
        elif state in ("name", "parameter"):
            if rune in " \t":
                name = held.lower() if state == "name" else held
                assert state == "parameter" or name in _COMMANDS, f"not a command: {held}"
                state, held = ("parameter" if state == "name" and name == "parameter" else "value"), ""
            else:
                assert re.fullmatch(r"\w", rune, re.ASCII), f"{rune!r} in a name"
                held += rune
        elif rune in "\r\n":
            value = _unquoted(held.strip())
            if value is None:
                held += rune
            else:
                found.append((name, value))
                state, held = "nothing", ""
        elif rune in " \t" or rune.isprintable():
            held += rune
    assert state == "nothing", f"unexpected end in {held!r}"
    assert any(name == "from" for name, _ in found)
    return found


def _unquoted(text: str) -> str | None:
    for quotes in ('"""', '"'):
        if text.startswith(quotes):
            return text[len(quotes) : -len(quotes)] if len(text) >= 2 * len(quotes) and text.endswith(quotes) else None
    return text


def test_the_parser_reads_a_modelfile_from_ollamas_documentation() -> None:
    text = 'FROM llama3.2\nPARAMETER temperature 1\n\nSYSTEM """You are "Mario".\nSo """\nPARAMETER stop "a b"\n'
    assert read("# a comment\n" + text) == [
        ("from", "llama3.2"), ("temperature", "1"), ("system", 'You are "Mario".\nSo '), ("stop", "a b"),
    ]  # fmt: skip


def test_a_modelfile_says_what_was_meant(tmp_path: Path) -> None:
    chat = ChatFormat(write_chat(tmp_path / "chat", CHATML))
    derived = derive(chat)
    parameters = {"temperature": 0.7, "num_ctx": 8192}
    text = modelfile("my model.gguf", derived, system='Say "hi".\n', stops=stops(chat), parameters=parameters)
    assert derived.template.endswith("\n")
    assert read(text) == [
        ("from", "./my model.gguf"), ("template", derived.template), ("system", 'Say "hi".\n'),
        ("stop", "<|im_end|>"), ("stop", "<|im_start|>"), ("temperature", "0.7"), ("num_ctx", "8192"),
    ]  # fmt: skip


@pytest.mark.skipif(not _TEMPLATES, reason="the real chat templates are not on this machine")
def test_every_real_template_comes_back_whole(tmp_path: Path) -> None:
    for path in _TEMPLATES:
        values = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
        chat = ChatFormat(write_chat(tmp_path / path.stem, path.read_text(encoding="utf-8"), **values))
        derived = derive(chat)
        found = read(modelfile("m.gguf", derived, system=None, stops=stops(chat), parameters={}))
        assert found[1] == ("template", derived.template)
        assert [value for name, value in found if name == "stop"] == stops(chat)


@given(
    st.text(alphabet=st.sampled_from('ab" \n\t#中。'), max_size=30),
    st.lists(st.text(alphabet=st.sampled_from('ab" \n<|中'), min_size=1, max_size=9), max_size=3),
)
def test_what_is_written_is_read_back_or_refused(system: str, stops: list[str]) -> None:
    derived = Derived("{{ .Prompt }}\n", True, [])
    if any(re.search(r'"""\s*\n', text) for text in [system, *stops]):
        with pytest.raises(ModelError, match=r'ends in """'):
            modelfile("m.gguf", derived, system=system, stops=stops, parameters={})
        return
    text = modelfile("m.gguf", derived, system=system, stops=stops, parameters={})
    expected = [("system", system)] if system else []
    assert read(text)[2:] == expected + [("stop", stop) for stop in stops]


def test_a_model_without_a_derived_template_gets_no_template_line() -> None:
    text = modelfile("m.gguf", Derived("", False, ["…"]), system=None, stops=[], parameters={})
    assert read(text) == [("from", "./m.gguf")]


@pytest.mark.parametrize(
    ("system", "said"), [("全角\u3000空格", r"U\+3000"), ("\x00", r"U\+0000"), ('a"""\nb', "line")]
)
def test_a_text_that_ollamas_parser_would_change_is_refused(system: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        modelfile("m.gguf", Derived("x", True, []), system=system, stops=[], parameters={})


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, {}),
        ({"temperature": 0.6, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.1, "do_sample": True},
         {"temperature": 0.6, "top_p": 0.9, "top_k": 20, "repeat_penalty": 1.1}),
        ({"do_sample": False, "temperature": 1.0, "eos_token_id": 2}, {"temperature": 0}),
    ],
)  # fmt: skip
def test_parameters_come_from_the_models_generation_config(
    config: dict[str, Any] | None, expected: dict[str, Any], tmp_path: Path
) -> None:
    if config is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(config))
    assert generation_parameters(tmp_path) == expected


def test_a_broken_generation_config_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"generation_config.json cannot be read"):
        generation_parameters(tmp_path)
