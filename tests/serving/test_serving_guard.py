"""Every request that must not come in, and the ones beside it that must."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from tunesmith.serving.guard import ANY_HOST, LOOPBACK, Guard
from tunesmith.serving.refusal import Refusal


async def taken(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


APP = Starlette(routes=[Route("/", taken, methods=["GET", "POST"]), Route("/health", taken)])


def client(app: Starlette = APP, **settings: object) -> TestClient:
    chosen = {"hosts": LOOPBACK, "most_bytes": 100, **settings}
    return TestClient(Guard(app, **chosen), base_url="http://127.0.0.1:8080")


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost:1", "LOCALHOST", "[::1]:8080"])
def test_our_own_names_are_answered(host: str):
    assert client().get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example:8080", "127.0.0.1.evil.example", "", "[::1", "localhost@evil.example"])
def test_a_foreign_host_is_refused_in_the_form_of_openai(host: str):
    answer = client().get("/", headers={"Host": host})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "host_not_allowed")
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "https://127.0.0.1:3000", "null", "http://localhost:8080", "http://[::1"]
)
def test_a_foreign_origin_is_refused(origin: str):
    answer = client().post("/", headers={"Origin": origin})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")


def test_our_own_origin_and_one_that_was_listed_are_answered():
    assert client().post("/", headers={"Origin": "http://127.0.0.1:8080"}).status_code == 200
    listed = client(origins=["http://localhost:3000"])
    assert listed.post("/", headers={"Origin": "http://localhost:3000"}).status_code == 200


def test_another_site_may_link_here_but_not_load_from_here():
    foreign = {"Sec-Fetch-Site": "cross-site"}
    assert client().get("/", headers={**foreign, "Sec-Fetch-Mode": "no-cors"}).status_code == 403
    assert client().get("/", headers={**foreign, "Sec-Fetch-Mode": "navigate"}).status_code == 200


@pytest.mark.parametrize("given", [None, "Bearer wrong", "Bearer ", "Basic schlüssel", "schlüssel"])
def test_without_the_key_nothing_is_answered(given: str | None):
    headers = {} if given is None else {"Authorization": given.encode()}
    answer = client(key="schlüssel").get("/", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert "schlüssel" not in answer.text


def test_with_the_key_or_where_none_is_needed_it_is():
    guarded = client(key="k", hosts=[ANY_HOST], open_paths=["/health"])
    assert guarded.get("/", headers={"Authorization": "Bearer k", "Host": "my-pc"}).status_code == 200
    assert guarded.get("/health").status_code == 200
    umlaut = client(key="schlüssel").get("/", headers={"Authorization": "Bearer schlüssel".encode()})
    assert umlaut.status_code == 200


def test_a_body_is_counted_whether_its_length_is_said_or_not():
    def pieces():
        yield from [b"x" * 60] * 2

    async def refused(_: Request, refusal: Exception) -> PlainTextResponse:
        return PlainTextResponse(str(refusal), 500)

    for handlers in ({}, {Refusal: refused}):  # an app may answer refusals by itself
        app = Starlette(routes=APP.routes, exception_handlers=handlers)
        for body in (b"x" * 101, pieces()):
            answer = client(app).post("/", content=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    assert client().post("/", content=b"x" * 100).text == "100"
