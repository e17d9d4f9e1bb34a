"""A GGUF file as the teacher, answered by llama.cpp's real server."""

from __future__ import annotations

import pytest
from taught import settings

from tunesmith.errors import ModelError, TeacherError
from tunesmith.models.find import starter_file
from tunesmith.teacher import local
from tunesmith.teacher.client import Client
from tunesmith.teacher.context import Need
from tunesmith.teacher.request import Request

NEED = Need(100, 64, 24)


def test_a_file_answers_as_any_teacher_does_and_says_its_context():
    values = settings("", gguf="starter", passage=64, max_tokens=24, parallel=1)
    with local.served(starter_file(), values, NEED) as url:
        client = Client(url, values)
        client.probe("any")
        schema = {"type": "object", "properties": {"good": {"type": "boolean"}}, "required": ["good"]}
        reply = client.ask(
            Request((("user", 'Is water wet? {"good": true} or {"good": false}'),), "any", 0.0, 24, schema)
        )
        assert '"good"' in reply.text
        assert reply.tokens_in > 5
        context = client.context("any")
        assert context is not None
        assert context.tokens >= local.context_of(starter_file(), values, NEED)
        client.close()


def test_a_context_that_is_too_small_is_said_before_anything_is_served():
    values = settings("", gguf="starter", passage=7000, max_tokens=2000)
    said = (
        r"holds 8,192 tokens, .*about 7,300.* take 9,300; .*to at most 892 or teacher.passage to at most 5892, or name"
    )
    with pytest.raises(TeacherError, match=said):
        local.context_of(starter_file(), values, Need(7300, 7000, 2000))


def test_a_context_has_room_for_tokenizers_that_take_more_tokens():
    values = settings("", gguf="starter", passage=512, max_tokens=100)
    assert local.context_of(starter_file(), values, Need(700, 512, 100)) >= 3 * 700 + 100
    assert local.context_of(starter_file(), values, Need(4000, 0, 100)) == 8192


def test_a_file_that_is_not_there_is_said():
    with pytest.raises(ModelError, match="there is no file"):
        local.gguf_file(settings("", gguf="none.gguf"))
