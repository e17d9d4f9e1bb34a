"""A data set or a model of a hub, by name: what the name says, and what is known of its files."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Literal

from tunesmith.errors import ModelError, SourceError, TunesmithError
from tunesmith.files import cache_folder

PREFIXES = ("hf:", "modelscope:")
TOKENS = {"hf": "HF_TOKEN", "modelscope": "MODELSCOPE_API_TOKEN"}
"""Where in the environment a token may lie."""
NAME = re.compile(r"(hf|modelscope):(\w[\w.-]*/\w[\w.-]*)(?:@([^#\0]+))?(?:#([^\0]+))?")

Kind = Literal["data set", "model"]
_ERRORS: dict[Kind, type[TunesmithError]] = {"data set": SourceError, "model": ModelError}
_CACHES: dict[Kind, str] = {"data set": "datasets", "model": "models-hub"}
_FIELDS: dict[Kind, str] = {"data set": "data.sources", "model": "model.name"}


@dataclass(frozen=True)
class Repository:
    """ "hf:OWNER/NAME@REVISION#INSIDE", taken apart."""

    path: str
    hub: str
    repo: str
    revision: str
    inside: str
    """The file or folder that was named, "" for none."""
    kind: Kind

    @property
    def error(self) -> type[TunesmithError]:
        """What is raised when it cannot be had."""
        return _ERRORS[self.kind]

    @property
    def broken(self) -> str:
        return "the download broke off; run the same command again"

    @property
    def elsewhere(self) -> str:
        """What else can be done where the hub is out of reach."""
        return f"or download the {self.kind} on another machine, and name its folder in {_FIELDS[self.kind]}"

    def folder(self) -> Path:
        """Where its files are kept: one folder for each revision and each part that was named."""
        part = f"{self.revision}#{self.inside}" if self.inside else self.revision
        escaped = part.replace("%", "%25").replace("/", "%2F")
        return cache_folder() / _CACHES[self.kind] / self.hub / self.repo / escaped

    def page(self, address: str) -> str:
        """Where people look at it."""
        section = "datasets/" if self.kind == "data set" else "models/" if self.hub == "modelscope" else ""
        return f"{address}/{section}{self.repo}"

    def refused(self, address: str) -> str:
        """What an answer of 401, 403 or 404 means."""
        variable = TOKENS[self.hub]
        token = "and the token" if os.environ.get(variable) else "or put a token"
        return (
            f"{self.path}: {address} has no {self.kind} {self.repo} at revision {self.revision}, or it is "
            f"private; check the name, {token} in the environment as {variable}"
        )


@dataclass(frozen=True)
class RemoteFile:
    path: str
    size: int | None = None
    sha256: str | None = None


class NotAsListed(Exception):
    """A file that arrived is not the one that the hub listed."""


def require(file: RemoteFile, size: int, sha256: str | None) -> None:
    """Raise `NotAsListed` unless size and hash, where they are known, are the file's."""
    if file.size not in (None, size) or file.sha256 not in (None, sha256):
        raise NotAsListed(f"{file.path} did not arrive as the hub lists it ({size:,} bytes of {file.size or size:,})")


def is_hub(path: str) -> bool:
    """Whether a name is one of a hub."""
    return path.startswith(PREFIXES)


def repository(path: str, kind: Kind, example: str) -> Repository:
    """The name taken apart. Raises the kind's error for another name; it shows ``example`` as a file to name."""
    match = NAME.fullmatch(path)
    parts = [part for part in (match[4] or "").split("/") if part not in ("", ".")] if match else []
    revision = (match[3] or {"hf": "main"}.get(match[1], "master")) if match else ""
    if not match or not revision.strip(".") or not stays_inside("/".join(["x", *parts])):
        raise _ERRORS[kind](
            f'{path} names no {kind}; write "hf:OWNER/NAME" or "modelscope:OWNER/NAME", and behind it '
            f'"@REVISION" or "#{example}" if you want them'
        )
    return Repository(path, match[1], match[2], revision, "/".join(parts), kind)


def stays_inside(path: str) -> bool:
    """Whether a path from a server is a relative one that goes nowhere upward, on any system."""
    as_windows = PureWindowsPath(path)  # knows both slashes, and drives
    return bool(as_windows.parts) and not as_windows.anchor and ".." not in as_windows.parts and "\0" not in path
