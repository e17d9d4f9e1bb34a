"""The two hubs' HTTP, spoken as their own clients speak it, and their errors as one sentence each."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from tunesmith.errors import TunesmithError, first_line
from tunesmith.files import file_hash, storage_errors, sync_folder
from tunesmith.hubs.repository import TOKENS, NotAsListed, RemoteFile, Repository, require

_PAGE = 200
_CHUNK = 1 << 20

OnBytes = Callable[[int], None]
OpenFrom = Callable[[dict[str, str]], AbstractContextManager[Any]]
"""Headers -> the opened answer."""


class Place(Protocol):
    """What is asked for, in the words of whoever asks: a download's `Repository`, or an upload's target."""

    @property
    def hub(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def error(self) -> type[TunesmithError]: ...
    @property
    def broken(self) -> str: ...
    @property
    def elsewhere(self) -> str: ...
    def page(self, address: str) -> str: ...
    def refused(self, address: str) -> str: ...


class Hub(Protocol):
    endpoint: str

    def files(self) -> list[RemoteFile]:
        """Everything in the repository's revision."""
        ...

    def fetch(self, file: RemoteFile, folder: Path, on_bytes: OnBytes) -> None:
        """Put the file below ``folder``, whole or not at all. Raises `NotAsListed` when it is another."""
        ...


def endpoint(hub: str) -> str:
    """Where the hub is: $HF_ENDPOINT, $MODELSCOPE_ENDPOINT, or its usual address."""
    variable, usual = {
        "hf": ("HF_ENDPOINT", "https://huggingface.co"),
        "modelscope": ("MODELSCOPE_ENDPOINT", "https://www.modelscope.cn"),
    }[hub]
    return (os.environ.get(variable) or usual).rstrip("/")


@contextmanager
def connect(place: Repository) -> Iterator[Hub]:
    """The hub that the name means, with one connection for all that is asked."""
    address = endpoint(place.hub)
    with hub_errors(place, address):
        client = api_client(place.hub, address, os.environ.get(TOKENS[place.hub]))
    with client:
        yield (HuggingFace if place.hub == "hf" else ModelScope)(place, address, client)


class HuggingFace:
    """The hub through its own library; $HF_TOKEN is the only token that is used."""

    def __init__(self, place: Repository, address: str, client: Any):
        from huggingface_hub import HfApi

        self.endpoint, self.client = address, client
        self.repo, self.revision = place.repo, place.revision
        self.type = "dataset" if place.kind == "data set" else "model"
        self.api = HfApi(endpoint=self.endpoint, token=os.environ.get(TOKENS["hf"]) or False)

    def files(self) -> list[RemoteFile]:
        from huggingface_hub import RepoFile

        # From here on the commit: a branch could move between two files.
        info = self.api.repo_info(self.repo, repo_type=self.type, revision=self.revision, timeout=30)
        self.revision = info.sha or self.revision
        tree = self.api.list_repo_tree(self.repo, repo_type=self.type, revision=self.revision, recursive=True)
        return [
            RemoteFile(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else None)
            for entry in tree
            if isinstance(entry, RepoFile)
        ]

    def fetch(self, file: RemoteFile, folder: Path, on_bytes: OnBytes) -> None:
        # Not with the library: since 1.x it begins an interrupted file anew.
        section = "datasets/" if self.type == "dataset" else ""
        path = f"/{section}{self.repo}/resolve/{quote(self.revision, safe='')}/{quote(file.path)}"
        fetch_file(lambda headers: _opened(self.client, path, headers), file, folder, on_bytes)


@contextmanager
def _opened(client: Any, path: str, headers: dict[str, str], query: dict[str, Any] | None = None) -> Iterator[Any]:
    """A streamed answer. Raises the Hugging Face library's errors, which know more than the status."""
    from huggingface_hub.utils import hf_raise_for_status

    with client.stream("GET", path, params=query, headers=headers) as answer:
        if answer.status_code >= 400 and answer.status_code != 416:
            answer.read()
            hf_raise_for_status(answer)
        yield answer


def api_client(hub: str, address: str, token: str | None, timeout: float = 30) -> Any:
    """An httpx2 client for the hub; neither token nor cookie goes along to where a redirect leads."""
    import httpx2

    cookies, headers = httpx2.Cookies(), {}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    if token and hub == "modelscope":  # older parts of its API want the cookie
        cookies.set("m_session_id", token, domain=urlsplit(address).hostname or "")
    return httpx2.Client(base_url=address, cookies=cookies, headers=headers, follow_redirects=True, timeout=timeout)


class ModelScope:
    """The hub through the HTTP API that its own client (modelscope_hub) uses."""

    def __init__(self, place: Repository, address: str, client: Any):
        self.endpoint, self.place, self.client = address, place, client
        self.api = f"/api/v1/{'datasets' if place.kind == 'data set' else 'models'}/{place.repo}"

    def files(self) -> list[RemoteFile]:
        entries: dict[str, dict[str, Any]] = {}
        for number in itertools.count(1):
            page = {entry["Path"]: entry for entry in self._page(number)}
            known = page.keys() <= entries.keys()
            entries |= page
            if known or len(page) < _PAGE or self.place.kind == "model":
                break
        return [modelscope_file(entry) for entry in entries.values() if entry.get("Type") != "tree"]

    def _page(self, number: int) -> list[dict[str, Any]]:
        query: dict[str, Any] = {"Revision": self.place.revision, "Recursive": "True"}
        if self.place.kind == "model":  # which come in one piece
            answer = self.client.get(f"{self.api}/repo/files", params=query)
        else:
            answer = self.client.get(f"{self.api}/repo/tree", params=query | {"PageNumber": number, "PageSize": _PAGE})
        answer.raise_for_status()
        body = answer.json()
        if body.get("Success") is False or body["Data"] is None:  # some refusals come with status 200
            raise self.place.error(self.place.refused(self.endpoint))
        return body["Data"]["Files"] or []

    def fetch(self, file: RemoteFile, folder: Path, on_bytes: OnBytes) -> None:
        query = {"Revision": self.place.revision, "FilePath": file.path}
        path = f"{self.api}/repo"
        fetch_file(lambda headers: _opened(self.client, path, headers, query), file, folder, on_bytes)


def modelscope_file(entry: dict[str, Any]) -> RemoteFile:
    """Size 0 and an empty hash mean that the hub does not know them."""
    return RemoteFile(str(entry["Path"]), int(entry.get("Size") or 0) or None, entry.get("Sha256") or None)


def fetch_file(open_from: OpenFrom, file: RemoteFile, folder: Path, on_bytes: OnBytes) -> None:
    """Put one file below ``folder``, whole or not at all. What arrived of an interrupted one is kept beside it,
    and only the rest is asked for; a file that is there already, by its hash, is not asked for again."""
    import httpx2

    place = folder / file.path
    if file.sha256 and place.is_file() and file_hash(place) == file.sha256:
        return
    part = place.with_name(f".{place.name}.part")
    with storage_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        # Without a hash nobody would notice two halves of different files.
        start = part.stat().st_size if file.sha256 and part.is_file() else 0
        on_bytes(start)
        while start != file.size or not start:
            try:
                _fetch_rest(open_from, file, part, start, on_bytes)
                break
            except httpx2.TransportError:
                before, start = start, part.stat().st_size if file.sha256 and part.is_file() else 0
                if start <= before:  # as long as something arrives, it goes on
                    raise
        try:
            require(file, part.stat().st_size, file_hash(part) if file.sha256 else None)
        except NotAsListed:
            part.unlink()
            raise
        part.replace(place)
        sync_folder(place.parent)


def _fetch_rest(open_from: OpenFrom, file: RemoteFile, part: Path, start: int, on_bytes: OnBytes) -> None:
    # Packed on the way, a file has other bytes and no middle.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with open_from(headers) as answer:
        if answer.status_code == 416:  # the part is longer than the file: the check that follows removes it
            return
        goes_on = answer.status_code == 206
        on_bytes(0 if goes_on else -start)
        with part.open("ab" if goes_on else "wb") as out:
            for chunk in answer.iter_raw(_CHUNK):
                out.write(chunk)
                on_bytes(len(chunk))
                if file.size is not None and out.tell() > file.size:
                    break
            out.flush()
            os.fsync(out.fileno())


@contextmanager
def hub_errors(place: Place, address: str) -> Iterator[None]:
    """Both clients' errors, as one sentence each, of the class that the place wants."""
    try:
        yield
    except Exception as error:
        sentence = _sentence(place, address, error)
        if sentence is None:  # not the hub's
            raise
        raise place.error(sentence) from None


def _sentence(place: Place, address: str, error: BaseException) -> str | None:
    import httpx2
    from huggingface_hub import errors as hf

    name = place.path
    match error:
        case NotAsListed():
            return f"{error}; run the same command again"
        case hf.GatedRepoError():
            return (
                f"{name} is given only to those who agreed to its terms; agree at {place.page(address)} "
                f"and put your token into the environment as {TOKENS[place.hub]}"
            )
        case hf.RepositoryNotFoundError() | hf.RevisionNotFoundError() | hf.HFValidationError():
            return place.refused(address)
        case hf.HfHubHTTPError() | httpx2.HTTPStatusError():
            status = error.response.status_code
            if status in (401, 403, 404):
                return place.refused(address)
            return f"{name}: {address} answered with status {status}; try again later"
        case hf.OfflineModeIsEnabled():
            return f"{name}: HF_HUB_OFFLINE forbids to ask {address}; unset it, {place.elsewhere}"
        case httpx2.HTTPError() | httpx2.InvalidURL() | hf.LocalEntryNotFoundError():
            reason = first_line(error)
            return f"{name}: {address} cannot be reached ({reason}); try again, {place.elsewhere}"
        case hf.XetDownloadError() | RuntimeError():  # the libraries' wrapping of what happened in a thread
            inner = _sentence(place, address, error.__cause__) if error.__cause__ else None
            return inner or f"{name}: {place.broken}"
        case OSError() if error.errno is None:  # else it is the disk's
            return f"{name}: {place.broken}"
    return None
