from __future__ import annotations

import json
import os
import sys

import pytest

from tunesmith import files
from tunesmith.errors import StorageError


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a" / "file.json"
    files.write_json(path, {"x": 1})
    with pytest.raises(RuntimeError), files.atomic_file(path) as file:
        raise RuntimeError(file.write(b"half"))
    assert json.loads(path.read_text()) == {"x": 1}
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "folder"
    for name in ("one", "two"):
        with files.atomic_folder(path) as folder:
            (folder / name).write_text(name)
    assert [p.name for p in path.iterdir()] == ["two"]
    with pytest.raises(RuntimeError), files.atomic_folder(path):
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_crash_between_the_two_renames_is_mended(tmp_path):
    path = tmp_path / "folder"
    with files.atomic_folder(path) as folder:
        (folder / "a").write_text("a")
    path.rename(tmp_path / ".folder.old")
    files.recover_folder(path)
    assert (path / "a").read_text() == "a"


@pytest.mark.parametrize(
    ("number", "says"), [(28, "the disk is full"), (13, "cannot be written"), (30, "cannot be written")]
)
def test_a_disk_that_cannot_be_written_is_one_sentence(tmp_path, number, says):
    with pytest.raises(StorageError, match=says) as caught, files.atomic_file(tmp_path / "f"):
        raise OSError(number, "no")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_half_characters_come_back_from_jsonl(tmp_path):
    files.write_jsonl(tmp_path / "a.jsonl", [{"t": "a\ud83d中"}])
    assert list(files.read_jsonl(tmp_path / "a.jsonl")) == [{"t": "a\ud83d中"}]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is asked to write early")
def test_a_large_file_goes_to_the_disk_while_it_is_written(tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(files, "EARLY", 100_000)
    monkeypatch.setattr(os, "posix_fadvise", lambda handle, start, size, advice: begun.append((start, size)))
    pieces = [bytes([i]) * 30_000 for i in range(20)]
    with files.atomic_file(tmp_path / "f") as file:
        for piece in pieces:
            file.write(piece)
    assert (tmp_path / "f").read_bytes() == b"".join(pieces)
    assert len(begun) >= 4
    assert [start for start, _ in begun] == [0, *(start + size for start, size in begun[:-1])]
