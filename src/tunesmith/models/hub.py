"""Models of the Hugging Face hub and of ModelScope, by name: hf:OWNER/NAME, modelscope:OWNER/NAME.

A revision may follow ("@v1.0"), and a GGUF file to take ("#model-q8_0.gguf"). Where none is named, what is
taken is what a model folder is read from, from the top of the repository only: weights as safetensors (of
the second copy, consolidated.safetensors, nothing), the configuration, the tokenizer, the card and the
licence. Never pickles or Python.

What was downloaded once stays as it was, and needs no network again; delete its folder to get it anew.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from tunesmith.errors import ModelError
from tunesmith.hubs.clients import connect
from tunesmith.hubs.download import OnProgress, download, is_whole, listed
from tunesmith.hubs.repository import RemoteFile, Repository, is_hub, repository
from tunesmith.models.architecture import read_architecture
from tunesmith.models.safety import refuse_unsafe
from tunesmith.models.weights import INDEX, NOT_THE_MODEL, PICKLES

__all__ = ["fetched", "is_hub"]

DESCRIBING = re.compile(
    r"config\.json|generation_config\.json|tokenizer\w*\.json|tokenizer\.model|chat_template\.jinja"
    r"|special_tokens_map\.json|model\.safetensors\.index\.json|readme\.md|(licen[cs]e|notice)(\.(md|txt))?",
    re.IGNORECASE,
)
"""The files besides the weights; card and licence are what a tuned model's card cites."""
_SHARD = re.compile(r".+-\d{5}-of-\d{5}\.safetensors")
_PART = re.compile(r".+-\d{5}-of-\d{5}\.gguf", re.IGNORECASE)


def fetched(name: str, on_progress: OnProgress | None = None) -> Path:
    """The folder of the model, or the GGUF file that the name means.

    Downloaded if it is not there yet; ``on_progress`` then gets bytes done and total. Raises `ModelError`
    when it cannot be had or could not be trained, `StorageError` when the disk is full.
    """
    model = repository(name, "model", "model-q8_0.gguf")
    folder = model.folder()
    if not is_whole(folder):
        with connect(model) as hub:
            files = _chosen(model, listed(model, hub))
            describing = [folder / file.path for file in files if not _is_weights(file)]

            def check(place: Path) -> None:
                if describing and place == describing[-1]:
                    _require_trainable(model, folder)

            download(model, hub, files, on_progress, check)
    if model.inside:
        return folder / model.inside
    return folder if (folder / "config.json").exists() else next(folder.rglob("*.gguf"))


def _require_trainable(model: Repository, folder: Path) -> None:
    """Said when the small files are there, not after all of the weights."""
    try:
        refuse_unsafe(folder)
        read_architecture(folder)
    except ModelError as error:
        raise ModelError(f"{model.path} was not downloaded: {error}") from None


def _chosen(model: Repository, files: list[RemoteFile]) -> list[RemoteFile]:
    """What makes the model, the weights last; the rules are the module's. Raises `ModelError` when it has none."""
    if model.inside:
        return [_named(model, files)]
    top = [file for file in files if "/" not in file.path]
    weights = _safetensors(top)
    describing = [file for file in top if DESCRIBING.fullmatch(file.path)]
    if weights and any(file.path == "config.json" for file in describing):
        return describing + weights
    if weights:
        raise ModelError(f"{model.path} has weights but no config.json, so it is no whole model; choose another one")
    return [_only_gguf(model, files)]


def _is_weights(file: RemoteFile) -> bool:
    return PurePosixPath(file.path).suffix.lower() in (".safetensors", ".gguf")


def _safetensors(top: list[RemoteFile]) -> list[RemoteFile]:
    """One copy of the weights: that of the index where there is one, then model.safetensors, then what there is."""
    found = [f for f in top if f.path.endswith(".safetensors") and not f.path.startswith(NOT_THE_MODEL)]
    shards = [file for file in found if _SHARD.fullmatch(file.path)]
    single = [file for file in found if file.path == "model.safetensors"]
    indexed = shards if any(file.path == INDEX for file in top) else []
    return indexed or single or found


def _named(model: Repository, files: list[RemoteFile]) -> RemoteFile:
    if not model.inside.lower().endswith(".gguf"):
        raise ModelError(
            f"{model.path}: behind the # stands the name of a .gguf file; leave it out for the whole model"
        )
    file = next((file for file in files if file.path == model.inside), None)
    if file is None:
        raise ModelError(f"{model.path}: the model has no {model.inside}; {_there(files)}")
    if _PART.fullmatch(file.path):
        raise ModelError(
            f"{model.path} is one of several parts; choose a GGUF in one file, or join the parts yourself with "
            "llama-gguf-split --merge and name the result in model.name"
        )
    return file


def _only_gguf(model: Repository, files: list[RemoteFile]) -> RemoteFile:
    ggufs = _language_ggufs(files)
    if len(ggufs) == 1:
        return ggufs[0]
    if ggufs:
        raise ModelError(f"{model.path} holds {len(ggufs)} GGUF files; name one, as in {model.path}#{ggufs[0].path}")
    pickles = sorted(f.path for f in files if any(PurePosixPath(f.path).match(pattern) for pattern in PICKLES))
    if pickles:
        raise ModelError(
            f"{model.path} has its weights only as pickle files ({pickles[0]}), which are refused because they run "
            "code when they are loaded; look for a safetensors or GGUF version of this model"
        )
    adapter = any(file.path == "adapter_config.json" for file in files)
    what = "is an adapter without its base" if adapter else f"holds no weights: {_there(files)}"
    raise ModelError(f"{model.path} {what}; choose a model with *.safetensors, or with a .gguf file")


def _language_ggufs(files: list[RemoteFile]) -> list[RemoteFile]:
    """In one file, and no vision tower (mmproj)."""
    return [
        file for file in files
        if file.path.lower().endswith(".gguf") and not _PART.fullmatch(file.path) and "mmproj" not in file.path.lower()
    ]  # fmt: skip


def _there(files: list[RemoteFile]) -> str:
    names = [file.path for file in _language_ggufs(files)] or [file.path for file in files]
    return f"it has {', '.join(names[:6])}{' …' if len(names) > 6 else ''}" if names else "it is empty"
