from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import TOKENS, FakeHub, fake_hub, serving

from tunesmith.errors import ModelError, RunError
from tunesmith.export.publish import publish

# The library hands its files to httpx2 in a way that httpx2 would like to see changed.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload:DeprecationWarning")
TOKEN = "secret-1"
WEIGHTS = bytes(range(256)) * 12_000
both = pytest.mark.parametrize("to", ["hf:o/n", "modelscope:o/n"])


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[FakeHub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # whose storage is not faked here
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)  # between its attempts
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "login"))
    for fake in fake_hub(monkeypatch, tmp_path, "models"):
        fake.exists, fake.writer = False, TOKEN
        for name in TOKENS:
            monkeypatch.setenv(name, TOKEN)
        yield fake


@pytest.fixture
def adapter(tmp_path) -> Path:
    folder = tmp_path / "anna" / "adapter"
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(WEIGHTS)
    config = {"peft_type": "LORA", "base_model_name_or_path": "/home/anna/models/qwen", "r": 8}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def refusal(what: Path | list[Path], to: str, **options) -> str:
    with pytest.raises(ModelError) as caught:
        publish(what, to, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert "secret" not in message
    assert to in message
    return message


@both
def test_an_adapter_is_published_with_its_card_in_one_commit_and_private(hub, to, adapter):
    url = publish(adapter, to, card="---\nlicense: mit\n---\n# 卡\n")
    assert url == f"{hub.url}/{'models/' if to.startswith('modelscope') else ''}o/n"
    assert hub.private == TOKEN
    assert len(hub.commits) == 1
    assert hub.files["adapter_model.safetensors"] == WEIGHTS
    assert hub.files["README.md"].decode() == "---\nlicense: mit\n---\n# 卡\n"
    assert json.loads(hub.files["adapter_config.json"])["r"] == 8


@both
def test_no_path_of_this_machine_goes_along(hub, to, adapter):
    (adapter / "config.json").write_text('{"_name_or_path": "/home/anna/models--Qwen--Qwen3-0.6B/snapshots/1"}')
    publish(adapter, to)
    assert json.loads(hub.files["adapter_config.json"])["base_model_name_or_path"] == "qwen"
    assert json.loads(hub.files["config.json"])["_name_or_path"] == "Qwen/Qwen3-0.6B"
    assert b"anna" not in b"".join(hub.files.values())


def test_the_starter_is_named_as_the_hub_knows_it(hub, adapter):
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "starter"}')
    publish(adapter, "hf:o/n")
    assert b'"HuggingFaceTB/SmolLM2-135M-Instruct"' in hub.files["adapter_config.json"]


@both
def test_of_a_folder_only_the_model_is_published(hub, to, adapter):
    for name in ("optimizer.safetensors", "state.json", "x.py", "x.bin", ".hidden.json", "proof.json", ".a.gguf"):
        (adapter / name).write_text("private")
    (adapter / "tokenizer.json").write_text("{}")
    (adapter / "sub").mkdir()
    (adapter / "sub" / "config.json").write_text("private")
    publish(adapter, to)
    assert set(hub.files) == {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"}


@both
def test_named_files_are_published_and_a_second_run_adds_what_is_new(hub, to, tmp_path):
    ggufs = [tmp_path / "a-q8_0.gguf", tmp_path / "a-q4_k_m.gguf"]
    for path in ggufs:
        path.write_bytes(path.name.encode() * 200_000)
    publish(ggufs[:1], to)
    publish(ggufs, to, card="# card")
    assert set(hub.files) == {"a-q8_0.gguf", "a-q4_k_m.gguf", "README.md"}
    assert hub.commits == [["a-q8_0.gguf"], ["README.md", "a-q4_k_m.gguf"]]
    assert len(hub.uploads()) == 2


@both
def test_started_again_with_nothing_new_it_sends_nothing(hub, to, adapter):
    first = publish(adapter, to, card="# card")
    asked = len(hub.asked)
    assert publish(adapter, to, card="# card") == first
    assert len(hub.commits) == 1
    assert not [path for path in hub.asked[asked:] if path.startswith("PUT") or "/commit/" in path]


@both
def test_a_connection_that_breaks_in_the_middle_is_said_and_the_next_run_sends_only_the_rest(hub, to, adapter):
    (adapter / "tokenizer.model").write_bytes(b"t" * 2_000_000)
    sent: list[tuple[int, int]] = []

    def cut(done: int, total: int) -> None:
        sent.append((done, total))
        hub.broken = done >= 2_000_000 and len(sent) > 1

    message = refusal(adapter, to, on_progress=cut)
    assert "run the same command again" in message or "goes on where it stopped" in message
    assert not hub.files
    stored = len(hub.objects)  # the first may have broken at its very end
    assert stored <= 1
    hub.broken = False
    asked = len(hub.asked)
    publish(adapter, to)
    assert set(hub.files) == {"adapter_model.safetensors", "adapter_config.json", "tokenizer.model"}
    assert sum(path.startswith("PUT") for path in hub.asked[asked:]) == 2 - stored


@both
def test_killed_between_storage_and_commit_nothing_is_visible_and_nothing_is_sent_twice(hub, to, adapter):
    def stop(done: int, total: int) -> None:
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(adapter, to, on_progress=stop)
    assert not hub.files
    puts = len(hub.uploads())
    publish(adapter, to)
    assert hub.files["adapter_model.safetensors"] == WEIGHTS
    assert len(hub.uploads()) <= max(puts, 1)


def test_large_files_go_in_parts_where_the_hub_wants_it(hub, adapter):
    hub.chunk_size = 1_000_000
    publish(adapter, "hf:o/n")
    assert hub.files["adapter_model.safetensors"] == WEIGHTS
    assert len(hub.uploads()) == 4


@both
def test_progress_counts_every_byte_once(hub, to, adapter):
    seen: list[tuple[int, int]] = []
    publish(adapter, to, card="# card", on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == sum(map(len, hub.files.values()))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@both
def test_into_a_repository_that_everybody_sees_nothing_is_sent_unless_that_is_wanted(hub, to, adapter):
    hub.exists = True
    assert "can be seen by everybody, and nothing was sent" in refusal(adapter, to)
    assert not hub.uploads()
    assert not hub.commits
    publish(adapter, to, private=False)
    assert "adapter_model.safetensors" in hub.files


@both
def test_a_hub_that_does_not_keep_a_new_repository_private_gets_nothing(hub, to, adapter):
    hub.stays_public = True
    assert "can be seen by everybody" in refusal(adapter, to)
    assert not hub.uploads()


@both
def test_a_public_repository_is_made_only_when_asked_for(hub, to, adapter):
    publish(adapter, to, private=False)
    assert hub.private == ""
    assert len(hub.created) == 1


@both
def test_the_token_goes_only_to_the_hub_and_only_in_a_header(hub, to, adapter, capfd, caplog, tmp_path):
    caplog.set_level(logging.DEBUG)
    store = FakeHub(objects=hub.objects)
    with serving(store, "localhost") as hub.elsewhere:
        publish(adapter, to)
    assert hub.files["adapter_model.safetensors"] == WEIGHTS
    assert len(store.uploads()) == 1
    assert "secret" not in str(store.headers) + str(store.asked) + str(hub.asked)
    assert "secret" in str(hub.headers)
    assert "secret" not in caplog.text
    assert capfd.readouterr() == ("", "")
    assert not any(b"secret" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@both
def test_without_a_token_it_says_where_to_put_one(hub, to, adapter, monkeypatch):
    for name in TOKENS:
        monkeypatch.delenv(name)
    message = refusal(adapter, to)
    assert ("HF_TOKEN or run `hf auth login`" if to.startswith("hf") else "MODELSCOPE_API_TOKEN") in message
    assert not hub.asked


def test_the_login_of_the_library_is_taken_where_the_environment_has_no_token(hub, adapter, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "login").write_text(TOKEN)
    publish(adapter, "hf:o/n")
    assert "adapter_model.safetensors" in hub.files


@both
def test_a_token_that_may_not_write_is_said(hub, to, adapter, monkeypatch):
    for name in TOKENS:
        monkeypatch.setenv(name, "secret-2")
    assert "does not let this token write to o/n" in refusal(adapter, to)
    hub.exists = True
    assert "does not let this token write to o/n" in refusal(adapter, to, private=False)


@both
def test_without_network_it_is_one_sentence(hub, to, adapter, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        nowhere = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", nowhere)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", nowhere)
        assert f"{nowhere} cannot be reached" in refusal(adapter, to)


@both
@pytest.mark.parametrize("answer", [b"<html>", b"[]", b"null", b"\xff"])
def test_an_answer_that_makes_no_sense_is_one_sentence(hub, to, adapter, answer):
    hub.status, hub.answer = 200, answer
    refusal(adapter, to)


def test_what_modelscope_refuses_with_status_200_is_repeated(hub, adapter):
    hub.status, hub.answer = 200, b'{"Code": 10020101, "Success": false, "Message": "quota exceeded", "Data": null}'
    assert "(it says: quota exceeded)" in refusal(adapter, "modelscope:o/n")


def test_the_storage_of_xet_out_of_reach_is_one_sentence(hub, adapter, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    refusal(adapter, "hf:o/n")
    assert not hub.files


@pytest.mark.parametrize("to", ["hf:", "hf:n", "o/n", "hf:o/n@v1", "hf:o/n#a.gguf", "ollama:n"])
def test_a_place_that_is_none_shows_how_to_write_one(hub, to, adapter):
    assert '"hf:OWNER/NAME"' in refusal(adapter, to)


def test_what_is_not_there_or_no_model_is_not_published(hub, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RunError, match="holds no model"):
        publish(tmp_path, "hf:o/n")
    with pytest.raises(RunError, match="is not there"):
        publish([tmp_path / "gone.gguf"], "hf:o/n")
    with pytest.raises(RunError, match="same name"):
        publish([tmp_path / "a.gguf", tmp_path / "b" / "a.gguf"], "hf:o/n")
    (tmp_path / "model.safetensors").write_bytes(b"w")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunError, match="damaged"):
        publish(tmp_path, "hf:o/n")
    assert not hub.asked
