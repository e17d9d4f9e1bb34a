"""From a GGUF file to a Hugging Face folder that can be trained, without torch or transformers.

The folder holds the configuration and the tokenizer, and of the weights only a link to the file: they are read from
its blocks when they are needed (`gguf_tensors`).
"""

from __future__ import annotations

import contextlib
import json
import math
import secrets
import shutil
from dataclasses import replace
from pathlib import Path

from tunesmith.errors import ModelError
from tunesmith.files import storage_errors, sync_folder, write_text
from tunesmith.models.gguf_config import hf_config
from tunesmith.models.gguf_file import read_gguf
from tunesmith.models.gguf_tensors import InGguf, hf_tensors
from tunesmith.models.gguf_tokenizer import check_tokenizer, tokenizer_files
from tunesmith.models.hashes import file_hash
from tunesmith.models.stored import gone

UNFINISHED = ".unfinished-"
"""Prefix of folders that are being built; whatever is found under it may be removed."""
LINK = "weights.gguf"
"""The link to the file that was imported."""
SUM = "weights.sha256"
"""What its content was, as ``sha256sum`` writes it."""


def import_gguf(source: Path, target: Path) -> None:
    """Write the model in ``source`` as a new folder ``target``, whole or not at all; the weights stay where they are.

    Raises `ModelError` when the file cannot be imported exactly, or ``target`` exists; `StorageError`
    when the disk cannot take it.
    """
    gguf = read_gguf(source)
    config = hf_config(gguf)
    dtype = _main_dtype(hf_tensors(gguf, config))
    files = tokenizer_files(gguf)
    ids = files["generation_config.json"]
    files["config.json"] = config | ids | {"torch_dtype": dtype}
    texts = {name: json.dumps(content, indent=2, ensure_ascii=False) for name, content in files.items()}
    texts["tokenizer.json"] = check_tokenizer(gguf, files["tokenizer.json"])
    texts[SUM] = f"{file_hash(source)}  {LINK}\n"
    if target.exists():
        raise ModelError(f"{target} exists already; remove it or choose another name")
    building = target.with_name(f"{UNFINISHED}{target.name}-{secrets.token_hex(4)}")
    try:
        with storage_errors(target):
            building.mkdir(parents=True)
            link_weights(building, source)
            for name, text in texts.items():
                write_text(building / name, text)
            building.rename(target)
            sync_folder(target.parent)
    except OSError as error:  # another process was first, and the target is there
        raise ModelError(f"{target} could not be put in place ({error.strerror}); start again") from None
    finally:
        shutil.rmtree(building, ignore_errors=True)


def link_weights(folder: Path, source: Path) -> None:
    """Let an imported folder's weights be those of ``source``, which has the content it was imported from."""
    link, source = folder / LINK, source.resolve()
    with contextlib.suppress(OSError):
        if link.readlink() == source:
            return
    new = folder / f".{LINK}-{secrets.token_hex(4)}"
    with storage_errors(link):
        new.symlink_to(source)
        new.replace(link)


def is_imported(folder: Path) -> bool:
    """Whether its weights are those of a GGUF elsewhere."""
    return (folder / LINK).is_symlink()


def imported_tensors(folder: Path) -> dict[str, InGguf]:
    """The weights of an imported folder. Raises `ModelError` when the GGUF was moved, deleted, cut short or changed."""
    source = (folder / LINK).resolve()
    if not source.is_file():
        raise gone(source)
    gguf = read_gguf(source)
    try:
        expected = (folder / SUM).read_text(encoding="utf-8").split()[0]
    except (OSError, ValueError, IndexError):
        raise ModelError(f"{folder} lacks its {SUM}; remove it, and give the model by its .gguf file") from None
    if file_hash(source) != expected:
        raise ModelError(f"{source} was changed after it was imported; give the model by that file to import it again")
    return hf_tensors(replace(gguf, path=folder / LINK), hf_config(gguf))


def _main_dtype(tensors: dict[str, InGguf]) -> str:
    """The dtype most weights have, in torch's spelling."""
    sizes: dict[str, int] = {}
    for tensor in tensors.values():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + math.prod(tensor.shape)
    return {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}[max(sizes, key=lambda d: sizes[d])]
