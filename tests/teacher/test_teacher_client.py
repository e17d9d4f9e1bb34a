from __future__ import annotations

import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler

import pytest
from fake_teacher import FakeTeacher, send, serving
from taught import settings

from tunesmith.errors import TeacherError
from tunesmith.teacher.client import Client, Refused, key_of, retry_after
from tunesmith.teacher.request import Request
from tunesmith.teacher.teaching import groups_form, questions_form

SCHEMA = {"type": "object", "properties": {"question": {"type": "string"}}}


def request(text: str = "What is it?", schema: dict | None = None, model: str = "teacher-1") -> Request:
    return Request((("user", text),), model, 0.5, 64, schema)


def client(url: str, key: str | None = None, **values) -> Client:
    return Client(url, settings(url, **values), key=key)


def sentence(url: str, model: str = "teacher-1", key: str | None = None, **values) -> str:
    """What the probe says is wrong."""
    opened = client(url, key, **{"timeout": 1.0, **values})
    try:
        with pytest.raises(TeacherError) as caught:
            opened.probe(model)
    finally:
        opened.close()
    said = str(caught.value)
    assert "\n" not in said
    return said


def test_a_reply_comes_with_the_tokens_that_the_server_counts():
    with serving() as fake:
        opened = client(fake.url)
        reply = opened.ask(request())
        assert (reply.cut, reply.tokens_in, reply.tokens_out) == (False, 100, 20)
        fake.usage = False
        assert opened.ask(request("你好" * 20)).tokens_in == 40
        opened.close()


def test_what_passes_is_asked_again(quick):
    faults = {1: "500", 2: "429", 3: "drop"}
    with serving(plan=lambda key, times: faults.get(times)) as fake:
        opened = client(fake.url)
        assert "lever" in opened.ask(request()).text
        opened.close()
        assert len(fake.seen) == 4


def test_a_reply_that_takes_too_long_is_asked_for_again(quick):
    with serving(plan=lambda key, times: "timeout" if times == 1 else None) as fake:
        opened = client(fake.url, timeout=0.2)
        assert "lever" in opened.ask(request()).text
        opened.close()


def test_the_server_says_how_long_to_wait(quick):
    with serving(plan=lambda key, times: "429" if times == 1 else None) as fake:
        fake.retry_after = "0.3"
        opened, began = client(fake.url), time.monotonic()
        opened.ask(request())
        opened.close()
        assert time.monotonic() - began >= 0.3
        assert fake.too_early == 0


def test_it_may_say_so_as_a_date():
    assert 8 <= (retry_after(formatdate(time.time() + 10, usegmt=True)) or 0) <= 10
    assert retry_after(formatdate(time.time() - 10, usegmt=True)) == 0
    assert retry_after("soon") is None
    assert retry_after("2.5") == 2.5


def test_a_wait_until_tomorrow_is_said_and_not_waited_for():
    with serving(plan=lambda key, times: "429") as fake:
        fake.retry_after = "86400"
        said = sentence(fake.url)
        assert "asks to wait 1440 minutes" in said


def test_the_forms_end_where_enough_was_asked_for():
    """A small teacher that obeys a grammar would write one list until its reply is cut."""
    questions = groups_form(3, 2)["properties"]["questions"]
    assert (questions["maxItems"], questions["items"]["properties"]["wordings"]["maxItems"]) == (3, 2)
    assert questions_form(5)["properties"]["questions"]["maxItems"] == 5


def test_a_schema_that_a_server_refuses_is_left_out_from_then_on():
    with serving(schemas=False) as fake:
        opened = client(fake.url)
        for text in ("a", "b"):
            opened.ask(request(text, SCHEMA))
        opened.close()
        assert ["response_format" in body for body in fake.seen] == [False, False]
        assert sum(fake.times.values()) == 2


def test_a_server_that_is_not_there_is_said_in_a_sentence(quick):
    assert sentence("http://127.0.0.1:9/v1").startswith("no teacher answers at http://127.0.0.1:9/v1 (")
    assert "http:/nowhere" in sentence("http:/nowhere")


def test_a_model_that_is_not_there_is_said_with_those_that_are():
    with serving() as fake:
        said = sentence(fake.url, "other")
        assert said.endswith("has no such model (model 'other' not found); mend teacher.model; it has teacher-1")


def test_an_address_without_v1_is_told_where_it_is():
    with serving() as fake:
        assert sentence(fake.url.removesuffix("/v1")).endswith(f"most servers have it at {fake.url}")


def test_a_wrong_key_is_named_and_never_shown(monkeypatch):
    with serving(key="sk-right") as fake:
        said = sentence(fake.url, key="sk-live-abcdefghijklmnop")
        assert "TUNESMITH_TEACHER_KEY" in said
        assert "abcdefghijkl" not in said
        assert "LONG" not in sentence(fake.url, key="LONG" * 10)
    monkeypatch.setenv("OPENAI_API_KEY", "second")
    assert key_of("") == "second"
    monkeypatch.setenv("TUNESMITH_TEACHER_KEY", "first")
    assert key_of("") == "first"
    with pytest.raises(TeacherError, match="the environment has no MINE"):
        key_of("MINE")


@pytest.mark.parametrize("body", [b"<html><body>It works!</body></html>", b'{"hello": 1}', b"[]", b'{"choices": []}'])
def test_a_server_that_is_not_openai_like_is_said(body, monkeypatch):
    def post(self: FakeTeacher, handler: BaseHTTPRequestHandler) -> None:
        handler.rfile.read(int(handler.headers["Content-Length"]))
        send(handler, 200, body)

    monkeypatch.setattr(FakeTeacher, "post", post)
    with serving() as fake:
        assert "does not answer as OpenAI's API does" in sentence(fake.url)


@pytest.mark.parametrize("body", [
    {"error": {"code": 400, "message": "the request exceeds the available context size", "type":
     "exceed_context_size_error", "n_prompt_tokens": 9000, "n_ctx": 4096}},
    {"error": {"message": "This model's maximum context length is 4096 tokens, however you requested 9,000 tokens"}},
])  # fmt: skip
def test_a_context_that_is_too_small_is_said_with_numbers(body, monkeypatch):
    def post(self: FakeTeacher, handler: BaseHTTPRequestHandler) -> None:
        handler.rfile.read(int(handler.headers["Content-Length"]))
        send(handler, 400, body)

    monkeypatch.setattr(FakeTeacher, "post", post)
    with serving() as fake:
        opened = client(fake.url)
        with pytest.raises(Refused, match=r"context is too small .*4,?096.*9,000.*teacher.passage \(512\)"):
            opened.ask(request(schema=SCHEMA))
        opened.close()


def test_one_request_that_is_always_refused_does_not_stop_the_others(quick, monkeypatch):
    monkeypatch.setattr("tunesmith.teacher.client.TRIES", 3)
    with serving(plan=lambda key, times: "500" if "poison" in key else None) as fake:
        opened = client(fake.url)
        with pytest.raises(Refused, match="no reply to a request in 3 tries"):
            opened.ask(request("poison"))
        assert opened.ask(request()).text
        opened.close()


def test_a_server_that_is_gone_stops_everything(quick, monkeypatch):
    monkeypatch.setattr("tunesmith.teacher.client.TRIES", 3)
    with serving() as fake:
        opened = client(fake.url)
        opened.ask(request())
    opened.close()
    opened = client(fake.url)
    with pytest.raises(TeacherError, match="the same command goes on from there"):
        opened.ask(request())
    opened.close()


def test_the_only_model_need_not_be_named():
    with serving() as fake:
        opened = client(fake.url)
        assert opened.only_model() == "teacher-1"
        fake.models.append({"id": "second"})
        with pytest.raises(TeacherError, match="several models: teacher-1, second"):
            opened.only_model()
        opened.close()
