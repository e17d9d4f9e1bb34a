"""The streaming writer is exact and atomic; the header reader sees what is cut short."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from tunesmith import files
from tunesmith.errors import ModelError, StorageError
from tunesmith.models.safetensors_file import Tensor, read_header, write_safetensors


def some() -> list[Tensor]:
    half = np.arange(6, dtype=np.float16).reshape(2, 3)
    return [
        Tensor("a", "F16", (2, 3), lambda: half),
        Tensor("b", "F32", (2,), lambda: np.array([1, 2], np.float32).tobytes()),
        Tensor("c", "BF16", (3, 2), lambda: iter([np.full((1, 2), 0x3F80, np.uint16)] * 3)),
        Tensor("empty", "F16", (0, 4), lambda: b""),
    ]


def test_the_safetensors_package_reads_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    seen: list[float] = []
    write_safetensors(path, some(), metadata={"format": "pt", "by": "me"}, progress=seen.append)
    assert seen[-1] == 1.0
    with safe_open(path, "pt") as file:
        assert sorted(file.keys()) == ["a", "b", "c", "empty"]
        assert file.metadata() == {"format": "pt", "by": "me"}
        assert file.get_tensor("c").tolist() == [[1, 1], [1, 1], [1, 1]]
    only = tmp_path / "y.safetensors"
    write_safetensors(only, some()[:2])
    np.testing.assert_array_equal(load_file(only)["a"], np.arange(6).reshape(2, 3))
    assert read_header(only)["a"].shape == (2, 3)


def test_one_tensor_is_in_memory_at_a_time(tmp_path: Path) -> None:
    alive: list[str] = []

    def piece(name: str) -> Iterator[np.ndarray]:
        alive.append(name)
        assert len(alive) == 1
        yield np.zeros(8, np.float32)
        alive.remove(name)

    tensors = [Tensor(f"t{i}", "F32", (8,), lambda i=i: piece(f"t{i}")) for i in range(4)]
    write_safetensors(tmp_path / "x.safetensors", tensors)


def test_a_tensor_of_another_size_than_its_shape_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gave 4 bytes"):
        write_safetensors(tmp_path / "x.safetensors", [Tensor("a", "F32", (2,), lambda: b"1234")])
    with pytest.raises(ValueError, match="two tensors"):
        write_safetensors(tmp_path / "x.safetensors", [some()[0], some()[0]])
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, some())
    before = path.read_bytes()

    def breaks() -> bytes:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_safetensors(path, [*some(), Tensor("z", "F16", (1,), breaks)])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(StorageError, match=r"the disk is full: .* Free some space"):
        write_safetensors(tmp_path / "x.safetensors", some())
    assert list(tmp_path.iterdir()) == []


def test_a_file_cut_short_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, some())
    whole = path.read_bytes()
    for length in (9, 60, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"cut short: it has .* download it again"):
            read_header(path)


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 40, b"\x02\0\0\0\0\0\0\0[]", b"\x02\0\0\0\0\0\0\0{x"])
def test_what_is_no_safetensors_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"x\.safetensors"):
        read_header(path)


def test_a_missing_file_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        read_header(tmp_path / "none.safetensors")
