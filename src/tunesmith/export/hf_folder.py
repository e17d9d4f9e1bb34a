"""A folder in Hugging Face's layout that appears whole or not at all: what merged and MLX exports share."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunesmith.errors import StorageError
from tunesmith.files import atomic_folder, storage_errors, write_json
from tunesmith.models.architecture import read_model_config
from tunesmith.models.safetensors_file import Tensor, write_safetensors
from tunesmith.models.weights import INDEX

OnProgress = Callable[[float], None]
COMPANIONS = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json", "generation_config.json",
)  # fmt: skip
"""Files of the base that the exported folder takes over as they are."""


def decoder_config(base: Path) -> dict[str, Any]:
    """config.json of the plain decoder: of a model that also sees images, its language part."""
    config = read_model_config(base)
    text = config.get("text_config")
    if not isinstance(text, dict):
        return config
    shared = ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "model_type")
    plain = {key: config[key] for key in shared if key in config} | text
    family = str(plain.get("model_type")).removesuffix("_text")
    plain["model_type"] = "gemma3_text" if family == "gemma3" else family
    return plain | {"architectures": [f"{family.capitalize()}ForCausalLM"]}


@contextmanager
def export_folder(base: Path, target: Path) -> Iterator[Path]:
    """A new folder with the tokenizer files of ``base``, put under ``target`` when it is complete.

    Raises `StorageError` when something else than an earlier export stands there.
    """
    ours = {*COMPANIONS, "config.json", INDEX, "README.md"}
    check_replaceable(base, target, lambda name: name in ours or name.endswith(".safetensors"))
    with atomic_folder(target) as folder:
        for name in COMPANIONS:
            if (base / name).is_file():
                shutil.copyfile(base / name, folder / name)
        yield folder


def check_replaceable(base: Path, target: Path, is_ours: Callable[[str], bool]) -> None:
    """`atomic_folder` replaces what stands there: that may be an earlier export, by its files' names, and nothing
    else. Raises `StorageError`."""
    with storage_errors(target):
        if target.resolve() in (base.resolve(), *base.resolve().parents):
            raise StorageError(f"{target} holds the base model; choose another folder to export to")
        if not target.exists():
            return
        found = sorted(p.name for p in target.iterdir()) if target.is_dir() else [target.name]
        if other := [name for name in found if not is_ours(name) and name != ".DS_Store"]:  # macOS puts one everywhere
            raise StorageError(f"{target} holds {other[0]}, which is not of an export; choose another folder")


def write_shards(
    folder: Path,
    tensors: list[Tensor],
    limit: int,
    metadata: dict[str, str],
    on_progress: OnProgress | None,
) -> None:
    """``model.safetensors``, or several files of at most ``limit`` bytes of weights and their index.

    A tensor larger than ``limit`` is a file of its own.
    """
    shards = _shards(tensors, limit)
    total, done = sum(t.nbytes for t in tensors), 0
    names: dict[str, str] = {}
    for i, shard in enumerate(shards, start=1):
        name = f"model-{i:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else "model.safetensors"
        size, before = sum(t.nbytes for t in shard), done

        def report(fraction: float, size: int = size, before: int = before) -> None:
            if on_progress:
                on_progress((before + fraction * size) / total)

        write_safetensors(folder / name, shard, metadata=metadata, progress=report)
        done += size
        names |= {t.name: name for t in shard}
    if len(shards) > 1:
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(names.items()))})


def _shards(tensors: list[Tensor], limit: int) -> list[list[Tensor]]:
    shards: list[list[Tensor]] = []
    size = limit
    for tensor in tensors:
        if size + tensor.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    return shards
