"""LM Studio finds a model by where its file lies: ``models/PUBLISHER/NAME/FILE.gguf`` in LM Studio's own folder."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from tunesmith.errors import EngineError, ModelError, StorageError
from tunesmith.files import atomic_file, file_hash, storage_errors

_PART = re.compile(r"[\w][\w .-]{0,95}")


def install(gguf: Path, publisher: str, name: str, home: Path | None = None) -> Path:
    """Put ``gguf`` where LM Studio shows it as ``PUBLISHER/NAME``, without a second copy where the disk can
    (a hard link); returns the new path. ``home`` is the person's home folder.

    A file that is there already with the same content stays. Raises `StorageError` when another is there
    or the disk is full, `EngineError` when LM Studio is not, `ModelError` for a name that is no folder's name.
    """
    for part in (publisher, name):
        if not _PART.fullmatch(part) or part.endswith((".", " ")):
            raise ModelError(f"{part!r} cannot name a folder of LM Studio; use letters, digits, - and _")
    target = models_folder(home) / publisher / name / gguf.name
    if target.exists() or target.is_symlink():
        return _same_or_refused(gguf, target)
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(gguf, target)  # whole at once, and never over another file
        except FileExistsError:
            return _same_or_refused(gguf, target)
        except OSError:  # another disk, or one that knows no links
            with atomic_file(target) as file, gguf.open("rb") as source:
                shutil.copyfileobj(source, file, 1 << 20)
    return target


def models_folder(home: Path | None = None) -> Path:
    """Where LM Studio keeps models: the folder chosen in its settings, else ``models`` in its own.

    Its own folder is where ``~/.lmstudio-home-pointer`` says, else the older ``~/.cache/lm-studio``, else
    ``~/.lmstudio``: the order of LM Studio's own tools. Raises `EngineError` when none exists.
    """
    home = Path.home() if home is None else home
    own = _own_folder(home)
    if not own.is_dir():
        raise EngineError(
            f"LM Studio was not found ({own} does not exist); install it from https://lmstudio.ai and start it once, "
            "or open the .gguf file with any other program"
        )
    try:
        chosen = json.loads((own / "settings.json").read_text(encoding="utf-8")).get("downloadsFolder")
    except (OSError, ValueError, AttributeError):
        chosen = None
    if isinstance(chosen, str) and Path(chosen).is_dir():
        return Path(chosen)
    return own / "models"


def _own_folder(home: Path) -> Path:
    pointer = home / ".lmstudio-home-pointer"
    if pointer.is_file():
        return Path(pointer.read_text(encoding="utf-8").strip())
    older = home / ".cache" / "lm-studio"
    return older if older.is_dir() else home / ".lmstudio"


def _same_or_refused(gguf: Path, target: Path) -> Path:
    if target.is_file():
        if target.samefile(gguf):
            return target
        if target.stat().st_size == gguf.stat().st_size and file_hash(target) == file_hash(gguf):
            return target
    raise StorageError(
        f"LM Studio has another model at {target}; delete that file, or rename the run's folder, and export again"
    )
