"""The tensors of a model folder: in safetensors files, or in the GGUF that was imported."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from tunesmith.errors import ModelError
from tunesmith.models.gguf_import import imported_tensors, is_imported
from tunesmith.models.safetensors_file import InSafetensors, read_header
from tunesmith.models.stored import Stored

INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
NOT_THE_MODEL = ("consolidated", "adapter_model", "optimizer")
"""Mistral's second copy of the same weights, a LoRA adapter, a trainer's state."""
_WRAPPERS = ("model.language_model.", "language_model.model.", "language_model.")
_KEPT = re.compile(r"model\.(embed_tokens|norm|layers\.\d+)\..+|lm_head\..+")


def canonical_name(name: str) -> str | None:
    """The name a plain decoder has for a tensor, or None when it is no part of the decoder.

    ``language_model.model.norm.weight`` -> ``model.norm.weight``; vision towers, projectors and
    stored rotary frequencies -> None.
    """
    for wrapper in _WRAPPERS:
        if name.startswith(wrapper):
            rest = name.removeprefix(wrapper)
            name = rest if rest.startswith("lm_head.") else f"model.{rest}"
            break
    return name if _KEPT.fullmatch(name) and not name.endswith("rotary_emb.inv_freq") else None


def tensor_index(folder: Path) -> Mapping[str, Stored]:
    """The model's tensors by their canonical names; none is read before it is asked for.

    Only headers are read. Raises `ModelError` when there are no weights, only pickled ones, a file
    of the index is missing, or a file is cut short, moved or changed.
    """
    return imported_tensors(folder) if is_imported(folder) else _in_safetensors(folder)


def _in_safetensors(folder: Path) -> dict[str, InSafetensors]:
    index: dict[str, InSafetensors] = {}
    for path, wanted in _files(folder).items():
        names = read_header(path)
        if missing := sorted(wanted - names.keys()):
            raise ModelError(f"{path} lacks the tensor {missing[0]} that {INDEX} names; download it again")
        for name in sorted(wanted) if wanted else names:
            canonical = canonical_name(name)
            if canonical is None:
                continue
            if canonical in index:
                raise ModelError(
                    f"{folder}: {canonical} is in {index[canonical].path.name} and in {path.name}; "
                    f"keep only the files of one copy of the model"
                )
            index[canonical] = InSafetensors(path, name, names[name])
    if not index:
        raise ModelError(f"{folder}: its safetensors files hold no language model; choose another folder")
    return index


def _files(folder: Path) -> dict[Path, set[str]]:
    """The weight files, each with the names that the index gives it (none: all that it holds)."""
    index = folder / INDEX
    if index.is_file():
        return _indexed(folder, index)
    found = sorted(p for p in folder.glob("*.safetensors") if not p.name.startswith(NOT_THE_MODEL))
    single = folder / "model.safetensors"
    if found:
        return {p: set() for p in ([single] if single in found else found)}
    pickles = sorted(p.name for pattern in PICKLES for p in folder.glob(pattern))
    if pickles:
        raise ModelError(
            f"{folder} has its weights only as pickle files ({pickles[0]}), which are refused because they "
            f"run code when they are loaded; get the safetensors version of this model"
        )
    raise ModelError(f"{folder} has no *.safetensors file; download the model's weights")


def _indexed(folder: Path, index: Path) -> dict[Path, set[str]]:
    try:
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files: dict[Path, set[str]] = {}
        for name, file in weight_map.items():
            if file != Path(file).name:
                raise ValueError(f"{file!r} is outside the folder")
            files.setdefault(folder / file, set()).add(name)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ModelError(f"{index} cannot be read ({error}); download it again") from None
    if missing := sorted(p.name for p in files if not p.is_file()):
        raise ModelError(f"{folder} lacks {missing[0]} that {INDEX} names; download it again")
    return dict(sorted(files.items()))
