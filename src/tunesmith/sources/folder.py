"""The files of a folder, in an order that stays the same."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from tunesmith.sources.example import Origin
from tunesmith.sources.quarantine import Quarantined
from tunesmith.sources.text import source_errors

DEPTH = 32
Seen = dict[tuple[int, int], str]
"""(device, inode) -> the name under which it was met first."""


def walk(path: Path, name: str) -> Iterator[tuple[Path, str] | Quarantined]:
    """Every file below a folder with the name that reports call it by, sorted by name; hidden ones are left out.

    Links are followed as long as they stay below the folder; what is met a second time, or cannot be read, is
    quarantined. Runs of ours are left out. Raises `SourceError` when the folder itself cannot be opened.
    """
    with source_errors(path):
        seen = {_identity(path.stat()): name}
        next(path.iterdir(), None)
    yield from _below(path, name, 1, seen, Path(os.path.realpath(path)))


def _below(folder: Path, name: str, depth: int, seen: Seen, root: Path) -> Iterator[tuple[Path, str] | Quarantined]:
    if (folder / "manifest.json").is_file() and (folder / "progress.jsonl").is_file():
        return  # what a run wrote is not what a person did
    try:
        entries = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        yield Quarantined(Origin(name), f"the folder cannot be read: {error.strerror}; check its permissions")
        return
    for entry in entries:
        if not entry.startswith("."):
            # A name that is not UTF-8 could not be written into a report.
            called = f"{name.rstrip('/')}/{entry}".encode("utf-8", "replace").decode()
            yield from _entry(folder / entry, called, depth, seen, root)


def _entry(path: Path, name: str, depth: int, seen: Seen, root: Path) -> Iterator[tuple[Path, str] | Quarantined]:
    try:
        status = path.stat()
    except OSError as error:
        what = "a link that leads nowhere" if path.is_symlink() else f"cannot be read: {error.strerror}"
        yield Quarantined(Origin(name), f"{what}; mend it or remove it")
        return
    reason = None
    folder = stat.S_ISDIR(status.st_mode)
    first = seen.setdefault(_identity(status), name)
    if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
        reason = "a link that leads out of the folder; name its target as a source of its own"
    elif first != name:
        reason = f"the same {'folder' if folder else 'file'} as {first}, which is read already; remove one of them"
    elif folder and depth >= DEPTH:
        reason = f"{DEPTH} folders deep, and no deeper is read; move it up"
    elif not folder and not stat.S_ISREG(status.st_mode):
        reason = "neither a file nor a folder; remove it"
    elif not folder and not os.access(path, os.R_OK):
        reason = "the file cannot be read; check its permissions"
    if reason:
        yield Quarantined(Origin(name), reason)
    elif folder:
        yield from _below(path, name, depth + 1, seen, root)
    else:
        yield path, name


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
