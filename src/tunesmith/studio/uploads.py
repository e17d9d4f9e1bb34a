"""Files that a person drops on the page: kept in the project's uploads folder, under a name that harms nothing.

They are only ever read as data. The body of a PUT is the file itself, so nothing has to be taken apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import tempfile
import unicodedata
from collections.abc import AsyncIterator
from pathlib import Path

from tunesmith import files
from tunesmith.errors import SourceError
from tunesmith.machine import size
from tunesmith.studio.context import UPLOADS, Missing, within

MOST_BYTES = 2_000_000_000
LONGEST_NAME = 180
"""Bytes; file systems take 255, and a number and a temporary ending are still to come."""
_UNWANTED = re.compile(r'[<>:"/\\|?*#%]')
"""Not allowed in names by some system, or read as something else in a path or a recipe ("registry.json#NAME")."""


def clean_name(name: str) -> str:
    """The last part of ``name`` as a file may be called anywhere; letters of every language stay. Raises `SourceError`
    when nothing is left of it."""
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name))[-1]
    seen = "".join(c for c in last if unicodedata.category(c)[0] != "C")  # no control characters, no invisible ones
    stem, dot, suffix = _UNWANTED.sub("_", seen).strip(" .").rpartition(".")
    stem, suffix = (stem, dot + suffix) if dot and len(suffix) <= 10 else (stem + dot + suffix, "")
    stem = stem.encode()[: LONGEST_NAME - len(suffix.encode())].decode(errors="ignore").strip(" .")
    if not stem:
        raise SourceError(f"{name!r} is no name for a file; give it another one")
    return stem + suffix


async def keep(stream: AsyncIterator[bytes], project: Path, name: str, most: int = MOST_BYTES) -> Path:
    """Write a body to the project's uploads folder, and return the file. The same content under the same name is kept
    once; other content gets a number. Raises `SourceError` when it is longer than ``most`` bytes."""
    cleaned, folder = clean_name(name), within(project, UPLOADS, f"{UPLOADS} leads out of the project's folder")
    with files.storage_errors(folder):
        folder.mkdir(exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".upload.", suffix=".tmp", dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                digest = await _copy(stream, file, cleaned, most)
                file.flush()
                await asyncio.to_thread(os.fsync, file.fileno())
            Path(temporary).chmod(0o644)
            return await asyncio.to_thread(_settle, Path(temporary), folder, cleaned, digest)
        finally:
            Path(temporary).unlink(missing_ok=True)


async def _copy(stream: AsyncIterator[bytes], file, name: str, most: int) -> str:
    digest, count = hashlib.sha256(), 0
    async for chunk in stream:
        count += len(chunk)
        if count > most:
            raise SourceError(
                f"{name} is larger than {size(most)}; copy it into the project's folder and name it there"
            )
        digest.update(chunk)
        file.write(chunk)
    if not count:
        raise SourceError(f"{name} is empty")
    return digest.hexdigest()


def _settle(temporary: Path, folder: Path, name: str, digest: str) -> Path:
    """Give the file the first name that is free, unless one of them holds the same already."""
    stem, suffix = os.path.splitext(name)  # noqa: PTH122 (a Path takes ".." and "a." apart differently)
    number = 1
    while True:
        target = folder / (f"{stem}-{number}{suffix}" if number > 1 else name)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, target)  # in contrast to a rename, this never replaces anything
            return target
        if target.is_file() and not target.is_symlink() and files.file_hash(target) == digest:
            return target
        number += 1


def source_path(project: Path, name: str) -> Path:
    """The file or folder of that name in the project, or what a registry there ("dataset_info.json#NAME") lies in.
    Raises `Missing` for one that is elsewhere, also by a symbolic link, or is not there."""
    place = name.partition("#")[0]
    path = within(
        project, place, f"{name} is not inside the project's folder; copy it there, and name it as it is there"
    )
    if not path.exists():
        raise Missing(f"there is no {name!r} in the project's folder; check how it is spelled")
    return path


def uploaded(project: Path) -> list[Path]:
    """Files that were dropped before, the newest first."""
    found = [path for path in (project / UPLOADS).glob("[!.]*") if path.is_file() and not path.is_symlink()]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
