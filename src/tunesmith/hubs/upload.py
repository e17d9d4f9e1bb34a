"""Sending files to a hub: they appear there in one commit or not at all, and what is there is not sent again.

The token goes nowhere but to the hub, in a header.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tunesmith.errors import ModelError, TunesmithError, first_line
from tunesmith.files import file_hash
from tunesmith.hubs.clients import api_client, endpoint, hub_errors, modelscope_file
from tunesmith.hubs.repository import TOKENS

_LARGE = 1 << 20
"""From this size on, and these always, ModelScope wants files sent apart."""
_ALWAYS_LARGE = (".safetensors", ".model", ".gguf")
_CHUNK = 1 << 20
_PRIVATE, _PUBLIC = 1, 5
"""ModelScope's numbers."""

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Item:
    """One file to be sent: its name on the hub, and where it lies or what it holds."""

    name: str
    content: Path | bytes

    @property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


@dataclass(frozen=True)
class Target:
    """Where it goes: "hf:OWNER/NAME" or "modelscope:OWNER/NAME"."""

    path: str
    hub: str
    repo: str

    error: type[TunesmithError] = ModelError
    broken: str = "the upload broke off; run the same command again, what arrived is not sent again"
    elsewhere: str = "the same command goes on where it stopped"

    def page(self, address: str) -> str:
        return f"{address}/{'models/' if self.hub == 'modelscope' else ''}{self.repo}"

    def refused(self, address: str) -> str:
        """What an answer of 401, 403 or 404 means."""
        return (
            f"{self.path}: {address} does not let this token write to {self.repo}; check the name, and that the token "
            f"in {TOKENS[self.hub]} is yours, valid and may write"
        )


def upload(
    target: Target, token: str, items: list[Item], *, private: bool, licence: str | None, on_progress: OnProgress | None
) -> str:
    """Send the items, and return the page's address; the repository is made if there is none.

    With ``private`` nothing is sent to one that everybody can see. ``licence`` is what ModelScope is told of a
    new one. ``on_progress`` gets bytes done and total. Raises the target's error.
    """
    address = endpoint(target.hub)
    count = _Count(sum(item.size for item in items), on_progress)
    with hub_errors(target, address):
        try:
            if target.hub == "hf":
                _to_hugging_face(target, address, token, items, private, count)
            else:
                _to_modelscope(target, address, token, items, private, licence, count)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = first_line(error)[:200]
            raise target.error(f"{target.path}: {address} did not answer as expected ({reason})") from None
    return target.page(address)


class _Count:
    """Bytes of whole files, and of the one that is under way."""

    def __init__(self, total: int, on_progress: OnProgress | None):
        self.done, self.total, self.on_progress = 0, total, on_progress

    def __call__(self, more: int) -> None:
        self.done += more
        if self.on_progress:
            self.on_progress(self.done, self.total)


# -- Hugging Face ----------------------------------------------------------------------------------


def _to_hugging_face(target: Target, address: str, token: str, items: list[Item], private: bool, count: _Count) -> None:
    """With the hub's own library, which sends what is large apart (Xet, or LFS), and what is there already not at
    all. It tells of no bytes on the way: progress goes file by file."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(endpoint=address, token=token)
    with _quiet():
        if not api.repo_exists(target.repo):
            api.create_repo(target.repo, private=private)
        if private and api.model_info(target.repo).private is False:
            raise ModelError(_would_be_public(target))
        operations: list[CommitOperationAdd] = []
        for item in items:
            operation = CommitOperationAdd(item.name, item.content)
            api.preupload_lfs_files(target.repo, [operation], free_memory=False)
            operations.append(operation)
            count(item.size)
        api.create_commit(target.repo, operations, commit_message="Upload with tunesmith")


def _would_be_public(target: Target) -> str:
    return (
        f"{target.path} can be seen by everybody, and nothing was sent; make it private on its page, choose another "
        "name, or say that you want to publish to all"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """The library draws bars and warns on the terminal, which is the command line's."""
    from huggingface_hub.utils import disable_progress_bars, logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with disable_progress_bars():
            yield
    finally:
        logging.set_verbosity(before)


# -- ModelScope ------------------------------------------------------------------------------------


def _to_modelscope(
    target: Target, address: str, token: str, items: list[Item], private: bool, licence: str | None, count: _Count
) -> None:
    """Through the HTTP API that its own client (modelscope_hub 0.1) uses: what is large is put into the storage,
    unless it is there; then one commit names everything."""
    with api_client("modelscope", address, token, timeout=600) as client:
        _make_repository(client, target, address, private, licence)
        there = _there(client, target)
        actions = []
        for item in items:
            digest = _digest(item)
            if there.get(item.name) == digest:
                count(item.size)
            elif item.size > _LARGE or item.name.endswith(_ALWAYS_LARGE):
                _store(client, target, address, item, digest, count)
                actions.append(_action(item, "lfs", digest, ""))
            else:
                content = base64.b64encode(_bytes(item)).decode()
                actions.append(_action(item, "normal", "", content))
                count(item.size)
        if actions:
            _data(client.post(
                f"/api/v1/repos/models/{target.repo}/commit/master",
                json={"commit_message": "Upload with tunesmith", "actions": actions},
            ), target, address)  # fmt: skip


def _make_repository(client: Any, target: Target, address: str, private: bool, licence: str | None) -> None:
    if not _exists(client, target):
        owner, name = target.repo.split("/")
        visibility = _PRIVATE if private else _PUBLIC
        body = {"Path": owner, "Name": name, "Visibility": visibility, "License": licence or "Other"}
        _data(client.post("/api/v1/models", json=body), target, address)
    # Asked as a stranger, whatever the hub may call it: what strangers can list is public.
    with api_client("modelscope", address, None) as stranger:
        if private and _exists(stranger, target):
            raise ModelError(_would_be_public(target))


def _exists(client: Any, target: Target) -> bool:
    answer = client.get(f"/api/v1/models/{target.repo}")
    if answer.status_code in (401, 403, 404):
        return False
    answer.raise_for_status()
    body = answer.json()
    return body.get("Success") is not False and body.get("Data") is not None


def _data(answer: Any, target: Target, address: str) -> Any:
    """What the answer holds. Some refusals come with status 200."""
    answer.raise_for_status()
    body = answer.json()
    if body.get("Success") is False or body.get("Code") not in (None, 200, "200"):
        said = str(body.get("Message") or "").splitlines()[:1]
        raise ModelError(target.refused(address) + (f" (it says: {said[0][:200]})" if said else ""))
    return body.get("Data")


def _there(client: Any, target: Target) -> dict[str, str | None]:
    """The hashes of the files that an earlier upload committed."""
    answer = client.get(f"/api/v1/models/{target.repo}/repo/files", params={"Revision": "master", "Recursive": "True"})
    if answer.status_code == 404:  # nothing was ever committed
        return {}
    answer.raise_for_status()
    entries = (answer.json().get("Data") or {}).get("Files") or []
    files = [modelscope_file(entry) for entry in entries if entry.get("Type") != "tree"]
    return {file.path: file.sha256 for file in files}


def _store(client: Any, target: Target, address: str, item: Item, digest: str, count: _Count) -> None:
    wanted = {"operation": "upload", "objects": [{"oid": digest, "size": item.size}]}
    path = f"/api/v1/repos/models/{target.repo}/info/lfs/objects/batch"
    known = _data(client.post(path, json=wanted), target, address)["objects"][0]
    href = ((known.get("actions") or {}).get("upload") or {}).get("href")
    if not href:  # it is there already
        return count(item.size)
    # The client carries the token; a storage of somebody else's gets a client without.
    with api_client("modelscope", address, None, timeout=600) as stranger:
        sender = client if _same_owner(address, href) else stranger
        sender.put(href, content=_chunks(item, count), headers={"Content-Length": str(item.size)}).raise_for_status()


def _same_owner(address: str, href: str) -> bool:
    """Whether the storage belongs to the hub: the same scheme, and a host below the hub's domain."""
    hub, storage = urlsplit(address), urlsplit(href)
    domain = (hub.hostname or "").removeprefix("www.")
    host = storage.hostname or ""
    return hub.scheme == storage.scheme and (host == domain or host.endswith(f".{domain}"))


def _chunks(item: Item, count: _Count) -> Iterator[bytes]:
    if isinstance(item.content, bytes):
        count(item.size)
        yield item.content
        return
    with item.content.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
            count(len(chunk))


def _digest(item: Item) -> str:
    return hashlib.sha256(item.content).hexdigest() if isinstance(item.content, bytes) else file_hash(item.content)


def _bytes(item: Item) -> bytes:
    return item.content if isinstance(item.content, bytes) else item.content.read_bytes()


def _action(item: Item, kind: str, digest: str, content: str) -> dict[str, Any]:
    return {
        "action": "create", "path": item.name, "type": kind, "size": item.size,
        "sha256": digest, "content": content, "encoding": "base64" if kind == "normal" else "",
    }  # fmt: skip
