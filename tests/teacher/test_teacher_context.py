"""A context that is too small is said before anything is asked, as far as the server tells how long it is."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fake_teacher import FakeTeacher, serving
from taught import documents, lines, settings, teach

from tunesmith.errors import TeacherError
from tunesmith.teacher.client import Client

SMALL = 1200
"""Tokens; too few for the prompts about `documents` (some 350) and a reply of 1,024."""


def llama_cpp(fake: FakeTeacher, tokens: int) -> None:
    fake.pages["/props"] = {"default_generation_settings": {"n_ctx": tokens}, "total_slots": 4}
    fake.models[0]["meta"] = {"n_ctx_train": 32768}


def llama_cpp_without_props(fake: FakeTeacher, tokens: int) -> None:
    fake.models[0]["meta"] = {"n_ctx_train": tokens}


def vllm(fake: FakeTeacher, tokens: int) -> None:
    fake.models[0]["max_model_len"] = tokens


def open_router(fake: FakeTeacher, tokens: int) -> None:
    fake.models[0]["context_length"] = tokens


def lm_studio(fake: FakeTeacher, tokens: int) -> None:
    entry = {"id": "teacher-1", "state": "loaded", "max_context_length": 32768, "loaded_context_length": tokens}
    fake.pages["/api/v0/models"] = {"data": [{"id": "other", "loaded_context_length": 99}, entry]}


def lm_studio_unloaded(fake: FakeTeacher, tokens: int) -> None:
    fake.pages["/api/v0/models"] = {"data": [{"id": "teacher-1", "max_context_length": tokens}]}


def ollama(fake: FakeTeacher, tokens: int) -> None:
    fake.pages["/api/ps"] = {"models": [{"name": "teacher-1:latest", "context_length": tokens}]}
    fake.pages["/api/show"] = shown(32768, "")


def ollama_of_old(fake: FakeTeacher, tokens: int) -> None:
    fake.pages["/api/ps"] = {"models": [{"name": "teacher-1:latest"}]}
    fake.pages["/api/show"] = shown(32768, f"stop   <|end|>\nnum_ctx   {tokens}\n")


def ollama_of_old_without_a_setting(fake: FakeTeacher, tokens: int) -> None:
    fake.pages["/api/show"] = shown(tokens, "stop   <|end|>")


def shown(tokens: int, parameters: str) -> dict[str, Any]:
    info = {"general.architecture": "qwen3", "qwen3.context_length": tokens, "qwen3.block_count": 36}
    return {"parameters": parameters, "model_info": info}


SERVERS = {
    llama_cpp: "--ctx-size", llama_cpp_without_props: "name a model", vllm: "--max-model-len",
    open_router: "name a model", lm_studio: "LM Studio", lm_studio_unloaded: "name a model",
    ollama: "OLLAMA_CONTEXT_LENGTH", ollama_of_old: "OLLAMA_CONTEXT_LENGTH",
    ollama_of_old_without_a_setting: "name a model",
}  # fmt: skip


@pytest.mark.parametrize("server", list(SERVERS))
def test_what_does_not_fit_is_said_with_what_to_set_and_nothing_is_asked(server, tmp_path):
    documents(tmp_path)
    with serving() as fake:
        server(fake, SMALL)
        with pytest.raises(TeacherError) as caught:
            teach(tmp_path, fake.url)
        said = str(caught.value)
        assert f"the context of teacher-1 at {fake.url} is too small: it holds 1,200 tokens" in said
        assert SERVERS[server] in said
        assert "\n" not in said
        assert fake.seen == []
        found = re.search(r"set teacher.max_tokens \(1024\) to at most (\d+)", said)
        assert found, said
        teach(tmp_path, fake.url, max_tokens=int(found[1]))  # what it says is true
        with pytest.raises(TeacherError, match="is too small"):
            teach(tmp_path, fake.url, "one more", max_tokens=int(found[1]) + 1)
    assert lines(tmp_path)


@pytest.mark.parametrize("server", list(SERVERS))
def test_a_context_that_is_long_enough_is_found_and_not_spoken_of(server, tmp_path):
    documents(tmp_path)
    with serving() as fake:
        server(fake, 8192)
        client = Client(fake.url, settings(fake.url))
        found = client.context("teacher-1")
        client.close()
        assert found is not None
        assert found.tokens == 8192
        teach(tmp_path, fake.url)
    assert lines(tmp_path)


def test_a_shorter_passage_is_named_where_it_is_the_passage_that_is_long(tmp_path):
    documents(tmp_path, 1, 120)
    with serving() as fake:
        vllm(fake, 2000)
        with pytest.raises(TeacherError, match=r"or teacher.passage to at most \d+, or start vLLM") as caught:
            teach(tmp_path, fake.url, passage=1500, max_tokens=600)
        at_most = re.search(r"passage to at most (\d+)", str(caught.value))
        assert at_most
        teach(tmp_path, fake.url, passage=int(at_most[1]), max_tokens=600)


def test_one_long_question_among_many_does_not_stop_the_others(tmp_path):
    (tmp_path / "q.txt").write_text("\n".join(["What is it? " + "word " * 2000, *(f"What is {i}?" for i in range(40))]))
    with serving() as fake:
        vllm(fake, 2048)
        teach(tmp_path, fake.url, way="questions", sources=["q.txt"], held_out=0.0)
    assert len(lines(tmp_path)) == 41


@pytest.mark.parametrize("page", [[], "no", {"data": "no"}, {"data": [1, {"id": ["teacher-1"]}]}, {"models": None}])
def test_a_server_that_says_nothing_of_it_or_nonsense_is_simply_asked(page, tmp_path):
    documents(tmp_path, 1)
    with serving() as fake:
        fake.pages = dict.fromkeys(("/props", "/api/v0/models", "/api/ps", "/api/show"), page)
        client = Client(fake.url, settings(fake.url))
        assert client.context("teacher-1") is None
        client.close()
        teach(tmp_path, fake.url)


def test_the_judges_context_is_looked_at_too(tmp_path):
    documents(tmp_path, 1)
    with serving() as fake:
        fake.models.append({"id": "judge", "max_model_len": 512})
        with pytest.raises(TeacherError, match="the context of judge at"):
            teach(tmp_path, fake.url, judge="judge")
