"""Data sets of the Hugging Face hub and of ModelScope, by name: hf:OWNER/NAME, modelscope:OWNER/NAME.

A revision may follow ("@v1.0"), and the file or folder to take ("#data/train.jsonl"). Where nothing is named:

- the files of rows are taken (`ROWS`), or those of prose (`PROSE`) where there are no rows, without the card
  and the hub's own lists;
- of files whose paths name splits (train, validation, test), only those of train, of all configurations;
- loading scripts, pickles and archives are never taken, and nothing that is downloaded is run.

What was downloaded once stays as it was, and needs no network again; delete its folder to get it anew.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from tunesmith.errors import SourceError
from tunesmith.hubs.clients import connect
from tunesmith.hubs.download import OnProgress, download, is_whole, listed
from tunesmith.hubs.repository import RemoteFile, Repository, repository

ROWS = frozenset({".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".xlsx"})
PROSE = frozenset({".txt", ".md"})

_CARD = frozenset(map(PurePosixPath, ("readme", "license", "licence", "notice", "requirements", "changelog")))
_LISTS = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "configuration.json"})
_SPLITS = {
    "train": "train", "训练": "train", "validation": "valid", "valid": "valid", "val": "valid", "dev": "valid",
    "验证": "valid", "test": "test", "eval": "test", "evaluation": "test", "测试": "test",
}  # fmt: skip
_SPLIT_WORD = re.compile(r"[a-z]+|训练|验证|测试")


def fetched(path: str, on_progress: OnProgress | None = None) -> Path:
    """The folder with the data set's files, or the file or folder in it that the path names.

    Downloaded if it is not there yet; ``on_progress`` then gets bytes done and total. Raises `SourceError`
    when it cannot be had, `StorageError` when the disk is full.
    """
    data_set = repository(path, "data set", "data/train.jsonl")
    folder = data_set.folder()
    if not is_whole(folder):
        with connect(data_set) as hub:
            download(data_set, hub, _chosen(data_set, listed(data_set, hub)), on_progress)
    return folder / data_set.inside


def _chosen(data_set: Repository, files: list[RemoteFile]) -> list[RemoteFile]:
    """The files that the recipe means; the rules are the module's. Raises `SourceError` when there is none."""
    if data_set.inside:
        files = [f for f in files if f.path == data_set.inside or f.path.startswith(f"{data_set.inside}/")]
        if not files:
            raise SourceError(
                f"{data_set.path}: the data set has no {data_set.inside}; see its list of files on the hub"
            )
        chosen = [f for f in files if _suffix(f) in ROWS | PROSE]
    else:
        rows = [f for f in files if _suffix(f) in ROWS and PurePosixPath(f.path).name not in _LISTS]
        chosen = rows or [
            f for f in files if _suffix(f) in PROSE and PurePosixPath(f.path.lower()).with_suffix("") not in _CARD
        ]
    if not chosen:
        raise SourceError(_nothing_in(data_set, files))
    return chosen if data_set.inside else _of_train(data_set, chosen)


def _of_train(data_set: Repository, files: list[RemoteFile]) -> list[RemoteFile]:
    splits = [_split(file.path) for file in files]
    wanted = "train" if "train" in splits else ""
    chosen = [file for file, split in zip(files, splits, strict=True) if split == wanted]
    if not chosen:
        raise SourceError(
            f"{data_set.path} has no rows to train on, only {files[0].path} and the like; "
            f'to use them all the same, name them: "{data_set.path}#{files[0].path}"'
        )
    return chosen


def _split(path: str) -> str:
    """Which split the path names, its last word deciding: train, valid or test; "" for none, and for pages of prose."""
    place = PurePosixPath(path.lower())
    words = [] if place.suffix == ".md" else _SPLIT_WORD.findall(str(place.with_suffix("")))
    return next((_SPLITS[word] for word in reversed(words) if word in _SPLITS), "")


def _suffix(file: RemoteFile) -> str:
    return PurePosixPath(file.path).suffix.lower()


def _nothing_in(data_set: Repository, files: list[RemoteFile]) -> str:
    script = next((file.path for file in files if _suffix(file) == ".py"), None)
    if script:
        elsewhere = (
            f'try "hf:{data_set.repo}@refs/convert/parquet", where the hub keeps its rows as Parquet'
            if data_set.hub == "hf"
            else "run it yourself, save the rows as JSONL and name that file"
        )
        return f"{data_set.path} has only a loading script ({script}), and no such code is run here; {elsewhere}"
    there = ", ".join(sorted({_suffix(file) or "files without a suffix" for file in files})[:8]) or "no files"
    return f"{data_set.path} has nothing that is read ({', '.join(sorted(ROWS | PROSE))}); it holds {there}"
