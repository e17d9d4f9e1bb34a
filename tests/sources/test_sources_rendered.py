"""Text with literal special tokens comes apart into the turns that it was made of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.sources.example import Message
from tunesmith.sources.rendered import parse_rendered

WORDPRESS = Path(__file__).parents[2].parent / "shared" / "data" / "wordpress" / "train-example.jsonl"


def llama2(messages: list[Message], begin: str = "<s>") -> str:
    text = system = ""
    for message in messages:
        if message.role == "system":
            system = f"<<SYS>>\n{message.content}\n<</SYS>>\n\n"
        elif message.role == "user":
            text += f"{begin}[INST] {system}{message.content} [/INST]"
            system = ""
        else:
            text += f" {message.content} </s>"
    return text


def chatml(messages: list[Message]) -> str:
    return "".join(f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in messages)


def phi4(messages: list[Message]) -> str:
    return "".join(f"<|im_start|>{m.role}<|im_sep|>{m.content}<|im_end|>" for m in messages)


def llama3(messages: list[Message]) -> str:
    turns = (f"<|start_header_id|>{m.role}<|end_header_id|>\n\n{m.content}<|eot_id|>" for m in messages)
    return "<|begin_of_text|>" + "".join(turns)


def gemma(messages: list[Message]) -> str:
    turns = (f"{'model' if m.role == 'assistant' else m.role}\n{m.content}<end_of_turn>\n" for m in messages)
    return "<bos>" + "".join("<start_of_turn>" + turn for turn in turns)


def phi3(messages: list[Message]) -> str:
    return "<s>" + "".join(f"<|{m.role}|>\n{m.content}<|end|>\n" for m in messages) + "<|endoftext|>"


def zephyr(messages: list[Message]) -> str:
    return "".join(f"<|{m.role}|>\n{m.content}</s>\n" for m in messages)


SHAPES = [llama2, lambda messages: llama2(messages, begin=""), chatml, phi4, llama3, gemma, phi3, zephyr]

words = st.text(st.characters(exclude_characters="<>[]|", exclude_categories=["Cs"]), min_size=1).filter(str.strip)
pairs = st.lists(st.tuples(words, words), min_size=1, max_size=3)


@settings(max_examples=50, deadline=None)
@given(system=st.none() | words, turns=pairs)
@pytest.mark.parametrize("render", SHAPES)
def test_what_was_rendered_comes_apart_into_its_messages(render, system, turns):
    messages = [Message("system", system)] if system else []
    for question, answer in turns:
        messages += [Message("user", question), Message("assistant", answer, learn=True)]
    read = parse_rendered(render(messages))
    assert read is not None
    assert [(m.role, m.content, m.learn) for m in read] == [(m.role, m.content.strip(), m.learn) for m in messages]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain words",
        "### Instruction:\nadd\n\n### Response:\n3",
        "USER: hi ASSISTANT: hello",
        "ChatML opens a turn with <|im_start|>user and closes it with <|im_end|>",
        "<html><body>[INST]</body>",
        "<s>",
        "<|im_start|>wizard\nq<|im_end|>",
        "<|im_start|>user\nq<|im_end|>\nwho says this?\n<|im_start|>assistant\na<|im_end|>",
        "<s>[INST] q [/INST] a </s> a follow-up question",
        "[INST] q [/INST] a [/INST] b",
        "<|im_start|>assistant\n",
    ],
)
def test_text_of_no_known_shape_is_left_alone(text):
    assert parse_rendered(text) is None


def test_a_turn_that_is_only_opened_is_left_out():
    assert parse_rendered("<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n") == [Message("user", "q")]
    assert parse_rendered("[INST] q [/INST]") == [Message("user", "q")]


def test_a_long_run_of_spaces_takes_no_time():
    text = "<|im_start|>user\nq" + " " * 1_000_000 + "r<|im_end|><|im_start|>assistant\na<|im_end|>"
    assert len(parse_rendered(text) or []) == 2


@pytest.mark.skipif(not WORDPRESS.exists(), reason="../shared/data is not here")
def test_the_rows_of_the_guide_come_apart():
    for line in WORDPRESS.read_text("utf-8").splitlines():
        question, answer = parse_rendered(json.loads(line)["text"]) or []
        assert (question.role, answer.role, answer.learn) == ("user", "assistant", True)
        assert not any(token in m.content for m in (question, answer) for token in ("INST]", "<s>", "</s>"))
