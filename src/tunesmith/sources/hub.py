"""Data sets of the Hugging Face hub and of ModelScope, by name: hf:OWNER/NAME, modelscope:OWNER/NAME.

A revision may follow ("@v1.0"), and the file or folder to take ("#data/train.jsonl"). Where nothing is named:

- the files of rows are taken (`ROWS`), or those of prose (`PROSE`) where there are no rows, without the card
  and the hub's own lists;
- of files whose paths name splits (train, validation, test), only those of train, of all configurations;
- loading scripts, pickles and archives are never taken, and nothing that is downloaded is run.

What was downloaded once stays as it was, and needs no network again; delete its folder to get it anew.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Protocol
from urllib.parse import urlsplit

from tunesmith.errors import SourceError
from tunesmith.files import atomic_file, cache_folder, file_hash, storage_errors, write_json

HUBS = ("hf:", "modelscope:")
ROWS = frozenset({".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".xlsx"})
PROSE = frozenset({".txt", ".md"})

WHOLE = ".whole.json"
"""Written last: the files of a download with their sizes."""
_NAME = re.compile(r"(hf|modelscope):(\w[\w.-]*/\w[\w.-]*)(?:@([^#\0]+))?(?:#([^\0]+))?")
_CARD = frozenset(map(PurePosixPath, ("readme", "license", "licence", "notice", "requirements", "changelog")))
_LISTS = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "configuration.json"})
_SPLITS = {
    "train": "train", "训练": "train", "validation": "valid", "valid": "valid", "val": "valid", "dev": "valid",
    "验证": "valid", "test": "test", "eval": "test", "evaluation": "test", "测试": "test",
}  # fmt: skip
_SPLIT_WORD = re.compile(r"[a-z]+|训练|验证|测试")
_PAGE = 200
_CHUNK = 1 << 20

_ELSEWHERE = "or download the data set on another machine, and name its folder in data.sources"

OnBytes = Callable[[int], None]


@dataclass(frozen=True)
class DataSet:
    """A source's path, taken apart."""

    path: str
    hub: str
    repo: str
    revision: str
    inside: str
    """The file or folder that was named, "" for none."""

    def folder(self) -> Path:
        """Where its files are kept: one folder for each revision and each part that was named."""
        part = f"{self.revision}#{self.inside}" if self.inside else self.revision
        return cache_folder() / "datasets" / self.hub / self.repo / part.replace("%", "%25").replace("/", "%2F")


@dataclass(frozen=True)
class RemoteFile:
    path: str
    size: int | None = None
    sha256: str | None = None


class Hub(Protocol):
    endpoint: str
    token_variable: str
    """Where in the environment a token may lie."""

    def files(self) -> list[RemoteFile]:
        """Everything in the data set's revision."""
        ...

    def fetch(self, file: RemoteFile, folder: Path, on_bytes: OnBytes) -> None:
        """Put the file below ``folder``, whole or not at all. Raises `SourceError` when it is not what was listed."""
        ...


def is_hub(path: str) -> bool:
    """Whether a source's path names a data set of a hub."""
    return path.startswith(HUBS)


def fetched(path: str, on_progress: Callable[[int, int], None] | None = None) -> Path:
    """The folder with the data set's files, or the file or folder in it that the path names.

    Downloaded if it is not there yet; ``on_progress`` then gets bytes done and total. Raises `SourceError`
    when it cannot be had, `StorageError` when the disk is full.
    """
    data_set = _data_set(path)
    folder = data_set.folder()
    if not _is_whole(folder):
        hub = _hub(data_set)
        chosen = _chosen(data_set, _listed(data_set, hub))
        with _hub_errors(data_set, hub):
            _download(hub, chosen, folder, on_progress or (lambda done, total: None))
    return folder / data_set.inside


def _data_set(path: str) -> DataSet:
    match = _NAME.fullmatch(path)
    parts = [part for part in (match[4] or "").split("/") if part not in ("", ".")] if match else []
    revision = (match[3] or {"hf": "main"}.get(match[1], "master")) if match else ""
    if not match or not revision.strip(".") or not _stays_inside("/".join(["x", *parts])):
        raise SourceError(
            f'{path} names no data set; write "hf:OWNER/NAME" or "modelscope:OWNER/NAME", and behind it '
            '"@REVISION" or "#data/train.jsonl" if you want them'
        )
    return DataSet(path, match[1], match[2], revision, "/".join(parts))


def _hub(data_set: DataSet) -> Hub:
    return HuggingFace(data_set) if data_set.hub == "hf" else ModelScope(data_set)


def _listed(data_set: DataSet, hub: Hub) -> list[RemoteFile]:
    """Everything in the data set that is not hidden, in an order that stays the same."""
    try:
        with _hub_errors(data_set, hub):
            files = hub.files()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SourceError(
            f"{data_set.path}: {hub.endpoint} answered, but not with a list of files; try again, {_ELSEWHERE}"
        ) from None
    for file in files:
        if not _stays_inside(file.path):
            raise SourceError(
                f"{data_set.path} lists the file {file.path!r}, which would lie outside of its folder; "
                "nothing of it was downloaded, and it is not to be trusted"
            )
    return sorted((file for file in files if not _is_hidden(file.path)), key=lambda file: file.path)


def _stays_inside(path: str) -> bool:
    """Whether a path from a server is a relative one that goes nowhere upward, on any system."""
    as_windows = PureWindowsPath(path)  # knows both slashes, and drives
    return bool(as_windows.parts) and not as_windows.anchor and ".." not in as_windows.parts and "\0" not in path


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(path).parts)


def _chosen(data_set: DataSet, files: list[RemoteFile]) -> list[RemoteFile]:
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


def _of_train(data_set: DataSet, files: list[RemoteFile]) -> list[RemoteFile]:
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


def _nothing_in(data_set: DataSet, files: list[RemoteFile]) -> str:
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


def _is_whole(folder: Path) -> bool:
    try:
        sizes: dict[str, int] = json.loads((folder / WHOLE).read_text(encoding="utf-8"))
        return all((folder / path).stat().st_size == size for path, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _download(hub: Hub, files: list[RemoteFile], folder: Path, on_progress: Callable[[int, int], None]) -> None:
    """Fill the folder; what an earlier, interrupted download left there whole is not fetched again."""
    from filelock import FileLock

    total = sum(file.size or 0 for file in files)
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        on_progress(done, max(done, total))

    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if _is_whole(folder):  # another process was faster
                return
            for file in files:
                before = done
                hub.fetch(file, folder, count)
                count((folder / file.path).stat().st_size - (done - before))  # what was there already
            _remove_others(folder, {folder / file.path for file in files})
            write_json(folder / WHOLE, {file.path: (folder / file.path).stat().st_size for file in files})


def _remove_others(folder: Path, wanted: set[Path]) -> None:
    """Take out what the data set no longer has, temporary files, and the library's notes."""
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    for path in folder.rglob("*"):
        if path.is_file() and path not in wanted:
            path.unlink()


def _require(file: RemoteFile, size: int, sha256: str | None) -> None:
    if file.size not in (None, size) or file.sha256 not in (None, sha256):
        raise SourceError(
            f"{file.path} did not arrive as the hub lists it ({size:,} bytes of {file.size or size:,}); "
            "run the same command again"
        )


class HuggingFace:
    """The hub at $HF_ENDPOINT, through its own library; $HF_TOKEN is the only token that is used."""

    token_variable = "HF_TOKEN"

    def __init__(self, data_set: DataSet):
        from huggingface_hub import HfApi

        self.endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
        self.repo, self.revision = data_set.repo, data_set.revision
        self.api = HfApi(endpoint=self.endpoint, token=os.environ.get(self.token_variable) or False)

    def files(self) -> list[RemoteFile]:
        from huggingface_hub import RepoFile

        # From here on the commit: a branch could move between two files.
        self.revision = self.api.dataset_info(self.repo, revision=self.revision, timeout=30).sha or self.revision
        tree = self.api.list_repo_tree(self.repo, repo_type="dataset", revision=self.revision, recursive=True)
        return [
            RemoteFile(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else None)
            for entry in tree
            if isinstance(entry, RepoFile)
        ]

    def fetch(self, file: RemoteFile, folder: Path, on_bytes: OnBytes) -> None:
        # The library renames when whole, takes up where it was interrupted, and knows what it fetched already.
        place = Path(
            self.api.hf_hub_download(self.repo, file.path, repo_type="dataset", revision=self.revision,
                                     local_dir=folder, tqdm_class=_silent_bar(on_bytes))
        )  # fmt: skip
        try:
            _require(file, place.stat().st_size, file_hash(place) if file.sha256 else None)
        except SourceError:
            place.unlink()
            raise


def _silent_bar(on_bytes: OnBytes) -> type[Any]:
    """A progress bar class for the library, which draws nothing and hands the bytes on."""
    from tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *_: Any, **__: Any):
            super().__init__(disable=True)

        def update(self, n: float | None = 1) -> None:
            on_bytes(int(n or 0))

        def update_transfer(self, n: float | None = 1) -> None:
            """Bytes on the wire, which the library counts apart from those on the disk."""

        def set_transfer_postfix_str(self, *_: Any, **__: Any) -> None: ...

    return Bar


class ModelScope:
    """The hub at $MODELSCOPE_ENDPOINT, through the HTTP API that its own client (modelscope_hub) uses."""

    token_variable = "MODELSCOPE_API_TOKEN"

    def __init__(self, data_set: DataSet):
        self.endpoint = (os.environ.get("MODELSCOPE_ENDPOINT") or "https://www.modelscope.cn").rstrip("/")
        self.data_set = data_set

    def _client(self) -> Any:
        import httpx2

        token, cookies, headers = os.environ.get(self.token_variable), httpx2.Cookies(), {}
        if token:  # older parts of the API want the cookie; neither goes along to where a redirect leads
            cookies.set("m_session_id", token, domain=urlsplit(self.endpoint).hostname or "")
            headers["Authorization"] = f"Bearer {token}"
        base = f"{self.endpoint}/api/v1/datasets/{self.data_set.repo}"
        return httpx2.Client(base_url=base, cookies=cookies, headers=headers, follow_redirects=True, timeout=30)

    def files(self) -> list[RemoteFile]:
        entries: dict[str, dict[str, Any]] = {}
        with self._client() as client:
            for number in itertools.count(1):
                page = {entry["Path"]: entry for entry in self._page(client, number)}
                known = page.keys() <= entries.keys()
                entries |= page
                if known or len(page) < _PAGE:
                    break
        # Size 0 and an empty hash mean that the hub does not know them.
        return [
            RemoteFile(str(path), int(entry.get("Size") or 0) or None, entry.get("Sha256") or None)
            for path, entry in entries.items()
            if entry.get("Type") != "tree"
        ]

    def _page(self, client: Any, number: int) -> list[dict[str, Any]]:
        query = {"Revision": self.data_set.revision, "Recursive": "True", "PageNumber": number, "PageSize": _PAGE}
        answer = client.get("/repo/tree", params=query)
        answer.raise_for_status()
        body = answer.json()
        if body.get("Success") is False or body["Data"] is None:  # some refusals come with status 200
            raise SourceError(_missing(self.data_set, self))
        return body["Data"]["Files"] or []

    def fetch(self, file: RemoteFile, folder: Path, on_bytes: OnBytes) -> None:
        place = folder / file.path
        if file.sha256 and place.is_file() and file_hash(place) == file.sha256:
            return
        query = {"Revision": self.data_set.revision, "FilePath": file.path}
        with self._client() as client, client.stream("GET", "/repo", params=query) as answer:
            answer.raise_for_status()
            with atomic_file(place) as out:
                size, digest = 0, hashlib.sha256()
                for chunk in answer.iter_bytes(_CHUNK):
                    size += out.write(chunk)
                    digest.update(chunk)
                    on_bytes(len(chunk))
                    if file.size is not None and size > file.size:
                        break
                _require(file, size, digest.hexdigest())


def _missing(data_set: DataSet, hub: Hub) -> str:
    token = "and the token" if os.environ.get(hub.token_variable) else "or put a token"
    return (
        f"{data_set.path}: {hub.endpoint} has no data set {data_set.repo} at revision {data_set.revision}, or it is "
        f"private; check the name, {token} in the environment as {hub.token_variable}"
    )


@contextmanager
def _hub_errors(data_set: DataSet, hub: Hub) -> Iterator[None]:
    """Both clients' errors, as one sentence each."""
    import httpx2
    from huggingface_hub import errors as hf

    name = data_set.path
    try:
        yield
    except hf.GatedRepoError:
        raise SourceError(
            f"{name} is given only to those who agreed to its terms; agree at {hub.endpoint}/datasets/{data_set.repo} "
            f"and put your token into the environment as {hub.token_variable}"
        ) from None
    except (hf.RepositoryNotFoundError, hf.RevisionNotFoundError, hf.HFValidationError):
        raise SourceError(_missing(data_set, hub)) from None
    except (hf.HfHubHTTPError, httpx2.HTTPStatusError) as error:
        status = error.response.status_code
        if status in (401, 403, 404):
            raise SourceError(_missing(data_set, hub)) from None
        raise SourceError(f"{name}: {hub.endpoint} answered with status {status}; try again later") from None
    except hf.OfflineModeIsEnabled:
        raise SourceError(
            f"{name} is not here yet, and HF_HUB_OFFLINE forbids to fetch it; unset it, {_ELSEWHERE}"
        ) from None
    except (httpx2.HTTPError, httpx2.InvalidURL, hf.LocalEntryNotFoundError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SourceError(f"{name}: {hub.endpoint} cannot be reached ({reason}); try again, {_ELSEWHERE}") from None
    except OSError as error:
        if error.errno is not None:
            raise  # the disk's, not the hub's
        raise SourceError(f"{name}: the download broke off; run the same command again") from None
