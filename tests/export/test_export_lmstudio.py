from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from tunesmith.errors import EngineError, ModelError, StorageError
from tunesmith.export.lmstudio import install, models_folder


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "model.Q4_K_M.gguf"
    path.parent.mkdir()
    path.write_bytes(b"GGUF one")
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home" / ".lmstudio").mkdir(parents=True)
    return tmp_path / "home"


def test_the_file_lies_where_lm_studio_looks_and_takes_no_second_space(gguf: Path, home: Path) -> None:
    place = install(gguf, "me", "sql-model", home)
    assert place == home / ".lmstudio" / "models" / "me" / "sql-model" / "model.Q4_K_M.gguf"
    assert place.samefile(gguf)


def test_on_another_disk_it_is_copied_whole(gguf: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_link)
    place = install(gguf, "me", "m", home)
    assert place.read_bytes() == gguf.read_bytes()
    assert not place.samefile(gguf)
    assert [p.name for p in place.parent.iterdir()] == [gguf.name]
    assert install(gguf, "me", "m", home) == place


def test_the_older_place_is_found(gguf: Path, home: Path) -> None:
    older = home / ".cache" / "lm-studio"
    older.mkdir(parents=True)
    assert install(gguf, "me", "m", home).is_relative_to(older / "models")


def test_a_place_that_the_person_chose_is_found(gguf: Path, home: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (home / ".lmstudio-home-pointer").write_text(f"{elsewhere}\n")
    assert models_folder(home) == elsewhere / "models"
    chosen = tmp_path / "模型"
    chosen.mkdir()
    (elsewhere / "settings.json").write_text(json.dumps({"downloadsFolder": str(chosen)}))
    assert install(gguf, "me", "m", home) == chosen / "me" / "m" / gguf.name
    (elsewhere / "settings.json").write_text("{")
    assert models_folder(home) == elsewhere / "models"


def test_the_same_again_is_no_mistake_and_another_model_is_never_replaced(gguf: Path, home: Path) -> None:
    place = install(gguf, "me", "m", home)
    assert install(gguf, "me", "m", home) == place
    gguf.unlink()
    gguf.write_bytes(b"GGUF two")
    with pytest.raises(StorageError, match="LM Studio has another model at"):
        install(gguf, "me", "m", home)
    assert place.read_bytes() == b"GGUF one"


def test_without_lm_studio_it_is_said_where_to_get_it(gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"LM Studio was not found .*lmstudio\.ai"):
        install(gguf, "me", "m", tmp_path)


def test_a_full_disk_leaves_nothing(gguf: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(StorageError, match="the disk is full"):
        install(gguf, "me", "m", home)
    assert not list((home / ".lmstudio" / "models" / "me" / "m").iterdir())


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\\b", ".hidden", "a.", "a\n"])
def test_a_name_that_is_no_folder_is_refused(name: str, gguf: Path, home: Path) -> None:
    with pytest.raises(ModelError, match="cannot name a folder"):
        install(gguf, "me", name, home)
