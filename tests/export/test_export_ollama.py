from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_ollama import FakeOllama, valid_name

from tunesmith.errors import EngineError, ModelError, StorageError
from tunesmith.export.ollama import address, ask, check_name, create, version
from tunesmith.export.ollama_template import Derived

_DERIVED = Derived("{{ range .Messages }}<{{ .Role }}>{{ .Content }}{{ end }}<assistant>", True, [])


@pytest.fixture
def ollama(tmp_path: Path) -> Iterator[FakeOllama]:
    with FakeOllama(tmp_path / "ollama") as running:
        yield running


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "model.Q4_K_M.gguf"
    path.write_bytes(b"GGUF" + bytes(range(256)) * 12_000)  # some chunks
    return path


def _digest(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_a_model_is_made_of_its_file_template_system_stops_and_parameters(ollama: FakeOllama, gguf: Path) -> None:
    told = list[tuple[str, int, int]]()
    create(
        "me/sql:v2", gguf, _DERIVED, system="You are brief.", stops=["<|im_end|>"], parameters={"temperature": 0.2},
        host=ollama.host, on_progress=lambda *step: told.append(step),
    )  # fmt: skip
    made = ollama.models["me/sql:v2"]
    assert made.gguf.read_bytes() == gguf.read_bytes()
    assert (made.template, made.system) == (_DERIVED.template, "You are brief.")
    assert made.parameters == {"temperature": 0.2, "stop": ["<|im_end|>"]}
    assert list(ollama.models) == ["me/sql:v2"]
    size = gguf.stat().st_size
    assert [step for step in told if step[1]][-1] == ("sending the file to Ollama", size, size)
    assert ("reading the file", size, size) in told
    assert ("parsing GGUF", 0, 0) in told


def test_a_file_that_ollama_has_is_not_sent_again(ollama: FakeOllama, gguf: Path) -> None:
    create("a", gguf, _DERIVED, host=ollama.host)
    create("b", gguf, _DERIVED, host=ollama.host)
    assert list(ollama.models) == ["a:latest", "b:latest"]
    assert sum(line.startswith("POST /api/blobs") for line in ollama.requests) == 1


def test_an_answer_comes_from_the_model_that_was_made(ollama: FakeOllama, gguf: Path) -> None:
    ollama.answer = lambda model, request: f"{model.prompt(request['messages'])} {request['options']}"
    create("a", gguf, _DERIVED, system="S", host=ollama.host)
    answer = ask("a", [{"role": "user", "content": "多少？"}], {"temperature": 0}, host=ollama.host)
    assert answer == "<system>S<user>多少？<assistant> {'temperature': 0}"


def test_without_a_derived_template_none_is_sent(ollama: FakeOllama, gguf: Path) -> None:
    create("a", gguf, Derived("", False, ["…"]), host=ollama.host)
    made = ollama.models["a:latest"]
    assert (made.template, made.system, made.parameters) == ("", "", {})


# -- what goes wrong -------------------------------------------------------------------------------


def test_ollama_not_running_says_how_to_start_it(gguf: Path) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(EngineError, match=f"Ollama is not running at http://{host}; start it .`ollama serve`"):
            create("a", gguf, _DERIVED, host=host)


def test_something_else_on_the_port_is_told_apart(
    ollama: FakeOllama, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fake_ollama.json.dumps", lambda value: "<html>It works!</html>")
    with pytest.raises(EngineError, match=r"what answers at .* is not Ollama"):
        create("a", gguf, _DERIVED, host=ollama.host)


@pytest.mark.parametrize("old", ["0.5.4", "0.1.48", "0.5.4-rc1"])
def test_an_ollama_that_is_too_old_is_told_the_least_version(old: str, ollama: FakeOllama, gguf: Path) -> None:
    ollama.version = old
    with pytest.raises(EngineError, match=r"version .*, and 0\.5\.5 is the least"):
        create("a", gguf, _DERIVED, host=ollama.host)
    assert ollama.requests == ["GET /api/version 200"]


@pytest.mark.parametrize("fine", ["0.5.5", "0.34.1-rc0", "1.0.0", "0.0.0", "main"])
def test_newer_and_unnumbered_ollamas_are_taken(fine: str, ollama: FakeOllama, gguf: Path) -> None:
    ollama.version = fine
    create("a", gguf, _DERIVED, host=ollama.host)


def test_a_refusal_is_quoted(ollama: FakeOllama, gguf: Path) -> None:
    with pytest.raises(EngineError, match="refuses: typical_p is deprecated"):
        create("a", gguf, _DERIVED, parameters={"typical_p": 1}, host=ollama.host)
    ollama.refuse_create = "unsupported architecture"
    with pytest.raises(EngineError, match="refuses: unsupported architecture"):
        create("a", gguf, _DERIVED, host=ollama.host)
    with pytest.raises(EngineError, match="refuses: model 'a' not found"):
        ask("a", [{"role": "user", "content": "a"}], host=ollama.host)


def test_a_file_that_is_no_gguf_is_refused_in_ollamas_words(ollama: FakeOllama, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"PK")
    with pytest.raises(EngineError, match="refuses: supplied file was not in GGUF format"):
        create("a", tmp_path / "x.gguf", _DERIVED, host=ollama.host)


def test_ollama_dying_while_the_file_is_sent_can_be_gone_on_with(ollama: FakeOllama, gguf: Path) -> None:
    ollama.die_after = 1_000_000
    with pytest.raises(EngineError, match=r"broke off while the file was sent; .* run the same command again"):
        create("a", gguf, _DERIVED, host=ollama.host)
    assert not list(ollama.blobs.iterdir())
    ollama.die_after = None
    create("a", gguf, _DERIVED, host=ollama.host)
    assert "a:latest" in ollama.models


def test_ollama_dying_while_the_model_is_made_keeps_the_file(ollama: FakeOllama, gguf: Path) -> None:
    ollama.die_in_create = True
    with pytest.raises(EngineError, match="broke off while the model was made"):
        create("a", gguf, _DERIVED, host=ollama.host)
    ollama.die_in_create = False
    create("a", gguf, _DERIVED, host=ollama.host)
    assert [line[:16] for line in ollama.requests].count("POST /api/blobs/") == 1


def test_an_answer_that_ends_without_success_is_no_success(
    ollama: FakeOllama, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeOllama, "create", lambda self, request: iter([{"status": "parsing GGUF"}]))
    with pytest.raises(EngineError, match="broke off while the model was made"):
        create("a", gguf, _DERIVED, host=ollama.host)


def test_a_full_disk_there_is_said(ollama: FakeOllama, gguf: Path) -> None:
    ollama.full = True
    with pytest.raises(StorageError, match=r"the disk of the Ollama .* is full .*no space left on device"):
        create("a", gguf, _DERIVED, host=ollama.host)


def test_a_file_that_changes_while_it_is_sent_is_refused(ollama: FakeOllama, gguf: Path) -> None:
    def change(doing: str, done: int, total: int) -> None:
        if doing.startswith("reading") and done == total:
            gguf.write_bytes(b"GGUX" + gguf.read_bytes()[4:])

    with pytest.raises(EngineError, match="refuses: digest mismatch, expected"):
        create("a", gguf, _DERIVED, host=ollama.host, on_progress=change)
    assert not ollama.models


@pytest.mark.parametrize("name", ["", "my model", "中文", "a/b/c/d", "-a", "a:", "ns.x/a", "a:b:c", "a" * 81, "x/../y"])
def test_a_name_that_ollama_does_not_allow_is_refused_before_anything_is_sent(name: str, gguf: Path) -> None:
    with pytest.raises(ModelError, match="cannot be a model's name in Ollama"):
        create(name, gguf, _DERIVED, host="127.0.0.1:1")


@pytest.mark.parametrize("name", ["a", "my-model", "my-model:v2", "me/my_model.1:latest", "host.example:5000/me/a:b"])
def test_names_that_ollama_allows_are_taken(name: str) -> None:
    check_name(name)


# -- where Ollama is -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", "http://127.0.0.1:11434"),
        ("1.2.3.4", "http://1.2.3.4:11434"),
        ("1.2.3.4:1234", "http://1.2.3.4:1234"),
        (":1234", "http://127.0.0.1:1234"),
        ("example.com", "http://example.com:11434"),
        ("http://1.2.3.4", "http://1.2.3.4:80"),
        ("https://1.2.3.4", "https://1.2.3.4:443"),
        ("https://example.com:1234/ollama/", "https://example.com:1234/ollama"),
        ("example.com/", "http://example.com:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:80", "http://127.0.0.1:80"),
        ("[::]:80", "http://[::1]:80"),
        ("::1", "http://[::1]:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("example.com:99999", "http://example.com:11434"),
        ("example.com:no", "http://example.com:11434"),
        (' "1.2.3.4" ', "http://1.2.3.4:11434"),
        ("'1.2.3.4'", "http://1.2.3.4:11434"),
    ],
)
def test_ollama_host_is_read_as_ollama_reads_it(given: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", given)
    assert address() == expected
    assert address(given) == expected


def test_a_host_that_is_no_address_is_one_sentence(gguf: Path) -> None:
    with pytest.raises(EngineError, match="OLLAMA_HOST"):
        create("a", gguf, _DERIVED, host="ftp://example.com")


def test_a_proxy_for_the_world_is_not_used_for_this_machine(
    ollama: FakeOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert version(ollama.host) == ollama.version


# -- the stand-in itself ---------------------------------------------------------------------------


def test_the_stand_in_is_strict(ollama: FakeOllama, gguf: Path) -> None:
    import httpx2

    with httpx2.Client(base_url=f"http://{ollama.host}", trust_env=False) as client:
        wrong = f"sha256:{'0' * 64}"
        assert client.post(f"/api/blobs/{wrong}", content=b"x").status_code == 400
        assert client.head(f"/api/blobs/{wrong}").status_code == 404
        chunked = client.post(f"/api/blobs/{_digest(gguf)}", content=iter([gguf.read_bytes()]))
        assert chunked.status_code == 201
        assert client.post(f"/api/blobs/{_digest(gguf)}", content=b"").status_code == 200
        for request, said in (
            ({"model": "a"}, "neither 'from' or 'files' was specified"),
            ({"model": "a b", "files": {"m.gguf": _digest(gguf)}}, "invalid model name"),
            ({"model": "a", "files": {"/m.gguf": _digest(gguf)}}, "file path must be relative"),
            ({"model": "a", "files": {"m.gguf": "sha256:1"}}, "invalid digest"),
            ({"model": "a", "files": {"m.gguf": f"sha256:{'1' * 64}"}}, "no such file"),
            ({"model": "a", "files": {"m.gguf": _digest(gguf)}, "template": "{{ if }"}, "template error"),
            ({"model": "a", "files": {"m.gguf": _digest(gguf)}, "modelfile": "FROM x"}, "does not know"),
            ({"model": "a", "files": {"m.gguf": _digest(gguf)}, "parameters": {"heat": 1}}, "unknown parameter"),
        ):
            answer = client.post("/api/create", json={**request, "stream": False})
            assert answer.status_code in (400, 500)
            assert said in answer.json()["error"]
    assert not valid_name("a b")
