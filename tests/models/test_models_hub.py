from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import FakeHub, below, fake_hub

from tunesmith import files
from tunesmith.errors import ModelError, StorageError
from tunesmith.hubs import download
from tunesmith.hubs.repository import repository
from tunesmith.models.find import find
from tunesmith.models.hub import fetched, is_hub

INDEX = "model.safetensors.index.json"
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
both = pytest.mark.parametrize("name", ["hf:o/n", "modelscope:o/n"])


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[FakeHub]:
    yield from fake_hub(monkeypatch, tmp_path, "models")


@pytest.fixture
def model(tiny_model) -> dict[str, bytes]:
    return below(tiny_model)


def refusal(name: str) -> str:
    with pytest.raises(ModelError) as caught:
        fetched(name)
    message = str(caught.value)
    assert "\n" not in message
    assert name in message
    return message


def place(name: str) -> Path:
    return repository(name, "model", "a.gguf").folder()


def test_only_names_with_a_hub_before_the_colon_are_of_a_hub():
    assert is_hub("hf:o/n")
    assert is_hub("modelscope:o/n#a.gguf")
    assert not is_hub("starter")
    assert not is_hub("ollama:n")


@both
def test_a_model_is_downloaded_once_found_and_then_needs_no_network(hub, name, model, monkeypatch):
    hub.files = model | {"README.md": b"card", "LICENSE": b"l"}
    folder = fetched(name)
    assert below(folder) == hub.files
    assert folder.is_relative_to(files.cache_folder() / "models-hub" / name.partition(":")[0] / "o" / "n")
    assert find(str(folder)).folder == folder
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:1")
    assert fetched(name) == folder


@both
def test_pickles_code_second_copies_and_subfolders_are_never_downloaded(hub, name, model):
    evil = [
        "pytorch_model.bin", "model.pt", "modeling_x.py", "consolidated.safetensors", "consolidated.00.pth",
        "original/model.safetensors", "onnx/model.onnx", "adapter_model.safetensors", "optimizer.safetensors",
        "model.fp16.safetensors", "training_args.bin", "x.gguf", ".gitattributes", "run.sh",
    ]  # fmt: skip
    hub.files = model | dict.fromkeys(evil, b"evil")
    assert set(below(fetched(name))) == set(model)
    assert not any("evil" in path for path in hub.downloads())


def test_of_shards_with_an_index_no_other_weights_are_taken(hub, model):
    config = {name: model[name] for name in model if name.endswith(".json")}
    hub.files = config | dict.fromkeys([*SHARDS, INDEX, "model.safetensors", "consolidated.safetensors"], b"{}")
    assert set(below(fetched("hf:o/n"))) == {*config, *SHARDS, INDEX}


def test_weights_of_other_names_are_taken_where_there_is_no_usual_one(hub, model):
    hub.files = {("mine.safetensors" if name == "model.safetensors" else name): data for name, data in model.items()}
    assert set(below(fetched("hf:o/n"))) == set(hub.files)


@both
def test_a_gguf_is_taken_when_it_is_named_or_the_only_one(hub, name, model):
    hub.files = {"a-q8_0.gguf": b"8", "mmproj-a.gguf": b"v", "README.md": b"card", "a.py": b"evil"}
    assert fetched(name).read_bytes() == b"8"
    hub.files |= {"sub/a-q4_k_m.gguf": b"4"}
    assert fetched(f"{name}#sub/a-q4_k_m.gguf").read_bytes() == b"4"
    assert fetched(f"{name}#a-q8_0.gguf").name == "a-q8_0.gguf"
    assert "it has a-q8_0.gguf, sub/a-q4_k_m.gguf" in refusal(f"{name}#other.gguf")


def test_of_several_ggufs_one_must_be_named(hub):
    hub.files = {"a-q4.gguf": b"4", "a-q8.gguf": b"8"}
    assert "holds 2 GGUF files; name one, as in hf:o/n#a-q4.gguf" in refusal("hf:o/n")


def test_a_gguf_in_parts_and_a_file_that_is_none_are_refused(hub):
    hub.files = {"a-00001-of-00002.gguf": b"1", "config.json": b"{}"}
    assert "one of several parts" in refusal("hf:o/n#a-00001-of-00002.gguf")
    assert "name of a .gguf file" in refusal("hf:o/n#config.json")


def test_a_repository_without_weights_says_what_it_holds(hub):
    hub.files = {"pytorch_model.bin": b"p", "config.json": b"{}"}
    assert "only as pickle files (pytorch_model.bin)" in refusal("hf:o/n")
    hub.files = {"adapter_model.safetensors": b"w", "adapter_config.json": b"{}"}
    assert "an adapter without its base" in refusal("hf:o/n")
    hub.files = {"model.safetensors": b"w"}
    assert "no config.json" in refusal("hf:o/n")
    hub.files = {}
    assert "it is empty" in refusal("hf:o/n")


@both
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"auto_map": {"AutoModel": "m.M"}}, "Python code"),
        ({"model_type": "mixtral"}, "mixtral"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized"),
    ],
)
def test_a_model_that_could_not_be_trained_is_refused_before_its_weights_are_downloaded(hub, name, model, change, said):
    hub.files = model | {"config.json": json.dumps(json.loads(model["config.json"]) | change).encode()}
    message = refusal(name)
    assert said in message
    assert "was not downloaded" in message
    assert not any("safetensors" in path for path in hub.downloads())


@both
def test_a_connection_that_breaks_in_the_middle_goes_on_from_there(hub, name, model):
    hub.files = model | {"model.safetensors": model["model.safetensors"] * 60}
    hub.breaks = 3
    seen: list[tuple[int, int]] = []
    assert below(fetched(name, lambda done, total: seen.append((done, total)))) == hub.files
    assert hub.breaks == 0
    assert seen[-1] == (sum(map(len, hub.files.values())),) * 2
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@both
def test_a_connection_that_brings_nothing_any_more_is_said_and_what_came_is_kept(hub, name, model):
    hub.files, hub.broken = model, True
    refusal(name)
    assert not (place(name) / "model.safetensors").exists()
    hub.broken = False
    assert below(fetched(name)) == model


@both
def test_only_the_rest_of_a_file_is_asked_for(hub, name, model):
    def stop(done: int, total: int) -> None:
        if total - done < 3_000_000:
            raise KeyboardInterrupt

    hub.files = model | {"model.safetensors": model["model.safetensors"] * 60}
    with pytest.raises(KeyboardInterrupt):
        fetched(name, stop)
    assert not (place(name) / "model.safetensors").exists()
    hub.headers.clear()
    assert below(fetched(name)) == hub.files
    ranges = [int(h["Range"][6:-1]) for h in hub.headers if h.get("Range", "bytes=0-") != "bytes=0-"]
    assert len(ranges) == 1
    assert ranges[0] > 1_000_000


def test_a_part_of_another_file_is_not_completed_but_refused_and_then_fetched_anew(hub, model):
    hub.files = model
    folder = place("modelscope:o/n")
    folder.mkdir(parents=True)
    for left in (b"x" * 100, b"x" * (len(model["model.safetensors"]) + 9)):
        (folder / ".model.safetensors.part").write_bytes(left)
        with pytest.raises(ModelError, match="did not arrive as the hub lists it"):
            fetched("modelscope:o/n")
    assert below(fetched("modelscope:o/n")) == model


def test_without_a_hash_a_file_is_not_put_together_from_two_halves(hub, model):
    hub.files, hub.hashes = model, False
    folder = place("modelscope:o/n")
    folder.mkdir(parents=True)
    (folder / ".model.safetensors.part").write_bytes(b"x" * 100)
    assert below(fetched("modelscope:o/n")) == model


@both
def test_weights_that_are_not_as_listed_are_refused(hub, name, model):
    hub.files, hub.served = model, {"model.safetensors": b"x" * len(model["model.safetensors"])}
    with pytest.raises(ModelError, match=r"model\.safetensors did not arrive as the hub lists it"):
        fetched(name)
    assert not (place(name) / "model.safetensors").exists()


def test_a_gated_model_sends_to_the_page_with_its_licence(hub, model):
    hub.files, hub.gated_files = model, True
    message = refusal("hf:o/n")
    assert f"agree at {hub.url}/o/n" in message
    assert "HF_TOKEN" in message


@both
def test_a_missing_or_private_model_asks_for_the_name_and_a_token(hub, name, model, monkeypatch):
    token = {"hf": "HF_TOKEN", "modelscope": "MODELSCOPE_API_TOKEN"}[name.partition(":")[0]]
    assert token in refusal(name.replace("o/n", "o/none"))
    hub.files, hub.private = model, "secret-1"
    assert f"put a token in the environment as {token}" in refusal(name)
    monkeypatch.setenv(token, "secret-1")
    assert below(fetched(name)) == model


@both
def test_a_revision_that_is_not_there_is_named(hub, name, model):
    hub.files = model
    assert "at revision v9" in refusal(f"{name}@v9")


@both
def test_without_network_the_message_says_what_was_tried(hub, name, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        nowhere = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", nowhere)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", nowhere)
        message = refusal(name)
    assert f"{nowhere} cannot be reached" in message
    assert "name its folder in model.name" in message


@both
def test_a_disk_that_is_too_small_is_said_before_anything_is_downloaded(hub, name, model, monkeypatch):
    hub.files = model
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 1000))
    with pytest.raises(StorageError, match=r"the disk is full: 0\.0 GB are still to be downloaded"):
        fetched(name)
    assert not hub.downloads()


def test_a_disk_that_fills_in_the_middle_is_said_and_leaves_no_half_file(hub, model, monkeypatch):
    hub.files = model
    full = OSError(28, "No space left on device")
    monkeypatch.setattr("tunesmith.hubs.clients.os.fsync", lambda _: (_ for _ in ()).throw(full))
    with pytest.raises(StorageError, match="disk is full"):
        fetched("modelscope:o/n")
    assert not below(place("modelscope:o/n"))


@pytest.mark.parametrize("name", ["hf:", "hf:n", "hf:o/n/x", "hf:../n", "hf:o/n@", "hf:o/n#../x.gguf"])
def test_a_name_that_is_none_shows_how_to_write_one(name):
    assert '"hf:OWNER/NAME"' in refusal(name)
