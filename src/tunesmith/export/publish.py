"""Upload a tuned model to the Hugging Face hub or to ModelScope: adapter, merged folder, or GGUF files.

What is sent appears on the hub in one commit, or not at all; started again after a break, nothing that
arrived is sent again. The token comes from the environment or the Hugging Face library's own login, and
goes nowhere but to the hub, in a header.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from tunesmith.errors import ModelError, RunError
from tunesmith.export.base_model import base_id, licence_of_card, shown_name
from tunesmith.hubs.repository import NAME, TOKENS
from tunesmith.hubs.upload import Item, OnProgress, Target, upload
from tunesmith.models.hub import DESCRIBING

_ALSO = re.compile(r"adapter_config\.json|added_tokens\.json|vocab\.json|merges\.txt|Modelfile")
"""What a folder is published with besides its weights and what a model is read from."""
_NOT = ("optimizer.safetensors",)
"""A checkpoint's, of no use to anybody else."""
_BASE_KEYS = ("base_model_name_or_path", "_name_or_path", "name_or_path")
"""Where the libraries write the path from which they loaded a model."""


def publish(
    what: Path | Sequence[Path],
    to: str,
    *,
    card: str = "",
    private: bool = True,
    on_progress: OnProgress | None = None,
) -> str:
    """Send a folder's model, or the named files, and ``card`` as README.md; returns the page's address.

    ``to`` is "hf:OWNER/NAME" or "modelscope:OWNER/NAME"; the repository is made if there is none, and with
    ``private`` nothing is sent to one that everybody can see. ``on_progress`` gets bytes done and total.
    Raises `ModelError` when the hub cannot be reached or refuses, `RunError` when there is nothing to send.
    """
    match = NAME.fullmatch(to)
    if not match or match[3] or match[4]:
        raise ModelError(f'{to} names no place to publish to; write "hf:OWNER/NAME" or "modelscope:OWNER/NAME"')
    target = Target(to, match[1], match[2])
    items = _items(what, card)
    return upload(
        target, _token(target), items, private=private, licence=licence_of_card(card), on_progress=on_progress
    )


def _token(target: Target) -> str:
    """From the environment; for Hugging Face also from the library's login. Never shown."""
    token = os.environ.get(TOKENS[target.hub])
    if not token and target.hub == "hf":
        from huggingface_hub import get_token

        token = get_token()
    if not token:
        login = " or run `hf auth login`" if target.hub == "hf" else ""
        raise ModelError(
            f"{target.path}: to publish, put a token that may write into the environment as {TOKENS[target.hub]}{login}"
        )
    return token


def _items(what: Path | Sequence[Path], card: str) -> list[Item]:
    """The files by their names on the hub, small ones first. Raises `RunError` when there are none."""
    if isinstance(what, Path):
        found = {path.name: path for path in sorted(what.glob("*")) if _is_published(path)}
    else:
        found = {path.name: path for path in what}
        if len(found) < len(what):
            raise RunError("two of the files to publish have the same name; give one of them another name")
    if missing := [path for path in found.values() if not path.is_file()]:
        raise RunError(f"{missing[0]} is not there; export the run first")
    if not any(name.endswith((".safetensors", ".gguf")) for name in found):
        raise RunError(f"{what if isinstance(what, Path) else 'this'} holds no model to publish; export the run first")
    items = [Item(name, _cleaned(path) if path.name.endswith("config.json") else path) for name, path in found.items()]
    if card:
        items = [item for item in items if item.name != "README.md"] + [Item("README.md", card.encode("utf-8"))]
    return sorted(items, key=lambda item: (item.size, item.name))


def _is_published(path: Path) -> bool:
    known = DESCRIBING.fullmatch(path.name) or _ALSO.fullmatch(path.name) or path.suffix in (".safetensors", ".gguf")
    return path.is_file() and bool(known) and not path.name.startswith(".") and path.name not in _NOT


def _cleaned(config: Path) -> Path | bytes:
    """A configuration, in which the base is named as the hub knows it: a path on this machine says nothing to
    others, except who works here."""
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
        bases = {key: str(values[key]) for key in _BASE_KEYS if values.get(key)}
    except (ValueError, AttributeError):
        raise RunError(f"{config} is damaged; make it again with the command that wrote it") from None
    named = {key: base_id(base) or shown_name(base) for key, base in bases.items()}
    if named == bases:
        return config
    return json.dumps(values | named, ensure_ascii=False, indent=2).encode("utf-8") + b"\n"
