"""A repository's files on this machine: listed, downloaded whole, and not again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from tunesmith.errors import StorageError
from tunesmith.files import storage_errors, write_json
from tunesmith.hubs.clients import Hub, hub_errors
from tunesmith.hubs.repository import RemoteFile, Repository, stays_inside

WHOLE = ".whole.json"
"""Written last: the files of a download with their sizes."""
SPARE = 64 << 20
"""Bytes that are left free on the disk."""

OnProgress = Callable[[int, int], None]


def listed(place: Repository, hub: Hub) -> list[RemoteFile]:
    """Everything in the repository that is not hidden, in an order that stays the same."""
    try:
        with hub_errors(place, hub.endpoint):
            files = hub.files()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise place.error(
            f"{place.path}: {hub.endpoint} answered, but not with a list of files; try again, {place.elsewhere}"
        ) from None
    for file in files:
        if not stays_inside(file.path):
            raise place.error(
                f"{place.path} lists the file {file.path!r}, which would lie outside of its folder; "
                "nothing of it was downloaded, and it is not to be trusted"
            )
    return sorted((file for file in files if not _is_hidden(file.path)), key=lambda file: file.path)


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(path).parts)


def is_whole(folder: Path) -> bool:
    """Whether a download was finished there, and its files still have their sizes."""
    try:
        sizes: dict[str, int] = json.loads((folder / WHOLE).read_text(encoding="utf-8"))
        return all((folder / path).stat().st_size == size for path, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def download(
    place: Repository,
    hub: Hub,
    files: list[RemoteFile],
    on_progress: OnProgress | None = None,
    check: Callable[[Path], None] = lambda path: None,
) -> None:
    """Fill the repository's folder; what an earlier, interrupted download left there whole is not fetched again.

    ``on_progress`` gets bytes done and total, ``check`` each file as soon as it is whole. Raises the
    repository's error when a file cannot be had, `StorageError` when the disk is full.
    """
    from filelock import FileLock

    folder, total, done = place.folder(), sum(file.size or 0 for file in files), 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        if on_progress:
            on_progress(done, max(done, total))

    with hub_errors(place, hub.endpoint), storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if is_whole(folder):  # another process was faster
                return
            _require_space(folder, files)
            for file in files:
                before = done
                hub.fetch(file, folder, count)
                count((folder / file.path).stat().st_size - (done - before))  # what was there already
                check(folder / file.path)
            _remove_others(folder, {folder / file.path for file in files})
            write_json(folder / WHOLE, {file.path: (folder / file.path).stat().st_size for file in files})


def _require_space(folder: Path, files: list[RemoteFile]) -> None:
    """Said before hours of downloading, not after."""
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    needed = sum(file.size or 0 for file in files) - there
    free = shutil.disk_usage(folder).free
    if needed > 0 and needed + SPARE > free:
        raise StorageError(
            f"the disk is full: {needed / 1e9:.1f} GB are still to be downloaded, and {folder} has room for "
            f"{free / 1e9:.1f} GB; free some space, or set TUNESMITH_CACHE to a folder on another disk"
        )


def _remove_others(folder: Path, wanted: set[Path]) -> None:
    """Take out what the repository no longer has, and temporary files."""
    for path in folder.rglob("*"):
        if path.is_file() and path not in wanted:
            path.unlink()
