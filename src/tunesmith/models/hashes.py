"""sha256 of files, remembered in the cache: a model of many GB is read once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

from tunesmith.errors import ModelError, StorageError
from tunesmith.files import atomic_file, cache_folder


def file_hash(path: Path) -> str:
    """sha256 of a file's content, hex. A file of the same path, size and modification time (ns) is not
    read again. Raises `ModelError` when it cannot be read."""
    path = path.resolve()
    try:
        stat = path.stat()
        identity = [str(path), stat.st_size, stat.st_mtime_ns]
        note = _note(path)
        if (known := _remembered(note, identity)) is not None:
            return known
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror or error}); check its permissions") from None
    _remember(note, identity, digest)
    return digest


def _note(path: Path) -> Path:
    """One small file per hashed file, so that processes never write the same one with other content."""
    return cache_folder() / "hashes" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.json"


def _remembered(note: Path, identity: list[object]) -> str | None:
    try:
        saved = json.loads(note.read_text(encoding="utf-8"))
        return str(saved["sha256"]) if saved["identity"] == identity else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(note: Path, identity: list[object], digest: str) -> None:
    # A hash that is not remembered is only computed again.
    with contextlib.suppress(StorageError, OSError), atomic_file(note) as file:
        file.write(json.dumps({"identity": identity, "sha256": digest}).encode("utf-8", "surrogateescape"))
