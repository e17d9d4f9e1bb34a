"""LLaMA-Factory's registry of data sets: ``dataset_info.json`` says which file a name stands for, and how it is written.

{"my_set": {"file_name": "my.json", "formatting": "sharegpt", "columns": {"messages": "chat"}, "tags": {"role_tag": "who"}}}
"""  # noqa: E501

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tunesmith.errors import SourceError
from tunesmith.settings import Column
from tunesmith.sources.example import Example, Origin
from tunesmith.sources.forms import read_row
from tunesmith.sources.quarantine import Quarantined
from tunesmith.sources.rows import read_formed
from tunesmith.sources.text import Unreadable, decode, json_problem, source_errors

FILE = "dataset_info.json"
NAMED = 10
"""Data sets that are listed where a name is wrong."""

# Its names for columns, the names that a row has without the entry saying so, and those of `forms`.
_ALPACA = {"prompt": ("instruction", "instruction"), "query": ("input", "input"), "response": ("output", "output")}
_SHAREGPT = {"messages": ("conversations", "messages")}
_BOTH = {
    "system": (None, "system"), "tools": (None, "tools"), "history": (None, "history"), "chosen": (None, "chosen"),
    "rejected": (None, "rejected"), "kto_tag": (None, "kto_tag"), "images": (None, "images"),
    "videos": (None, "videos"), "audios": (None, "audios"),
}  # fmt: skip
_NEEDED = ("prompt", "response", "messages", "chosen", "rejected", "kto_tag")
# Its tags that name a role, their values without the entry saying so, and the roles of `forms`.
_ROLE_TAGS = {
    "user_tag": ("human", "user"), "assistant_tag": ("gpt", "assistant"), "system_tag": ("system", "system"),
    "observation_tag": ("observation", "tool"), "function_tag": ("function_call", "function_call"),
}  # fmt: skip


def read_registered(path: Path, entry: str, name: str) -> Iterator[Example | Quarantined]:
    """Every row of the data set that the registry at ``path`` calls ``entry``, read as it says.

    Raises `SourceError` when the registry, the entry or its file is not there, or the file is none of JSON.
    """
    entries = _entries(path)
    if entry not in entries:
        near = difflib.get_close_matches(entry, entries, 1)
        there = f"the nearest is {near[0]!r}" if near else f"it has {_listed(entries)}"
        raise SourceError(f"{path} has no data set {entry!r}; {there}")
    described = entries[entry]
    file = path.parent / _file_of(described, entry, path)
    if file.suffix.lower() not in (".json", ".jsonl", ".ndjson"):
        raise SourceError(f"{path}: {entry!r} is in {file.name}, which is not JSON; name {file} itself as the source")
    if name.endswith(f"{FILE}#{entry}"):  # the lines are those of the data
        name = name.removesuffix(f"{FILE}#{entry}") + described["file_name"]
    yield from read_formed(file, name, partial(_read, entry=described))


def _listed(entries: dict[str, dict[str, Any]]) -> str:
    more = f" and {len(entries) - NAMED:,} more" if len(entries) > NAMED else ""
    return (", ".join(map(repr, list(entries)[:NAMED])) or "none") + more


def refuse_itself(path: Path) -> None:
    """Raises `SourceError` for a registry that is named as if it held the data; nothing when it is none."""
    try:
        entries = _entries(path)
    except SourceError:
        return
    if any({"file_name", "hf_hub_url", "ms_hub_url"} & entry.keys() for entry in entries.values()):
        raise SourceError(f'{path} lists data sets and holds none; name one, "{FILE}#NAME"; it has {_listed(entries)}')


def file_of(path: Path, entry: str) -> Path:
    """The file that an entry of the registry at ``path`` is about; the registry itself where there is none."""
    described = _entries(path).get(entry, {})
    return path.parent / str(described.get("file_name") or path.name)


def registered(folder: Path, file_name: str) -> str | None:
    """The entry for a file, if the folder has a registry with one. Of several that differ, none."""
    try:
        found = {k: v for k, v in _entries(folder / FILE).items() if v.get("file_name") == file_name}
    except SourceError:
        return None
    name, entry = next(iter(found.items()), (None, None))
    return name if all(other == entry for other in found.values()) else None


def _entries(path: Path) -> dict[str, dict[str, Any]]:
    with source_errors(path):
        data = path.read_bytes()
    try:
        entries = json.loads(decode(data))
    except Unreadable as reason:
        raise SourceError(f"{path} cannot be read: {reason}") from None
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} is broken JSON: {json_problem(error)}; mend it") from None
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise SourceError(f'{path} is no registry of data sets; it should hold {{"NAME": {{"file_name": "…"}}}}')
    for name, entry in entries.items():
        for key in ("columns", "tags"):
            values = entry.get(key) or {}
            if not isinstance(values, dict) or not all(isinstance(v, str | None) for v in values.values()):
                raise SourceError(f'{path}: "{key}" of {name!r} must be an object that holds text')
    return entries


def _file_of(described: dict[str, Any], entry: str, path: Path) -> str:
    file_name = described.get("file_name")
    here = isinstance(file_name, str) and file_name != ""
    for key, hub in (("hf_hub_url", "hf"), ("ms_hub_url", "modelscope")):
        if key in described and not (here and (path.parent / str(file_name)).exists()):
            raise SourceError(f"{path}: {entry!r} is not a file here; name it as {hub}:{described[key]}")
    if not here:
        raise SourceError(f"{path}: {entry!r} names no file; name its data as a file, or as hf:OWNER/NAME")
    return str(file_name)


def _read(row: Any, origin: Origin, entry: dict[str, Any]) -> Example:
    if not isinstance(row, dict):
        return read_row(row, origin)
    made, decides = _canonical(row, entry)
    return read_row(made, origin, decides if all(key in made for key in decides.values()) else {})


def _canonical(row: dict[str, Any], entry: dict[str, Any]) -> tuple[dict[str, Any], dict[Column, str]]:
    """The row under the names that `forms` knows, and the column that decides its form.

    Raises `Unreadable` when a column that the entry names is not there.
    """
    columns = {k: v for k, v in (entry.get("columns") or {}).items() if v}
    sharegpt = entry.get("formatting") == "sharegpt"
    made, used = {}, set()
    for theirs, (usual, ours) in ((_SHAREGPT if sharegpt else _ALPACA) | _BOTH).items():
        key = columns.get(theirs, usual)
        if key in row:
            made[ours] = row[key]
            used.add(key)
        elif theirs in columns and theirs in _NEEDED:
            there = ", ".join(f'"{name}"' for name in list(row)[:30]) or "none"
            raise Unreadable(f'{FILE} names the column "{key}", and the row has no such key; it has {there}')
    decides: dict[Column, str] = {"question": "instruction"}
    if sharegpt:
        made["messages"] = _turns(made.get("messages"), entry.get("tags") or {})
        decides = {"messages": "messages"}
    elif "prompt" in columns and "output" not in made and "chosen" not in made:
        made = {"text": made["instruction"]}  # text to go on with, as in its data sets for pre-training
        decides = {"text": "text"}
    return {key: value for key, value in row.items() if key not in used and key not in made} | made, decides


def _turns(turns: Any, tags: dict[str, str]) -> Any:
    role_tag, content_tag = tags.get("role_tag") or "from", tags.get("content_tag") or "value"
    roles = {tags.get(tag) or usual: ours for tag, (usual, ours) in _ROLE_TAGS.items()}
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return turns
    made = []
    for turn in turns:
        role = turn.get(role_tag)
        named = {"role": roles.get(role, role) if isinstance(role, str) else role, "content": turn.get(content_tag)}
        made.append({k: v for k, v in turn.items() if k not in (role_tag, content_tag)} | named)
    return made
