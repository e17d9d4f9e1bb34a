"""What strangers may be told of the base model: its name on the hub, and its licence."""

from __future__ import annotations

import re
from pathlib import Path, PureWindowsPath
from typing import Any

from tunesmith.hubs.repository import NAME

STARTER = "HuggingFaceTB/SmolLM2-135M-Instruct"
STARTER_LICENCE = {"license": "apache-2.0"}
_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)|models-hub/\w+/([\w.-]+)/([\w.-]+)")
"""The caches' folders: of the Hugging Face library, and of tunesmith."""
_KEYS = ("license", "license_name", "license_link")


def base_id(name: str) -> str | None:
    """The hub's name of a recipe's model.name, where there is one: "hf:Qwen/Qwen3-0.6B@main" -> "Qwen/Qwen3-0.6B"."""
    if name == "starter":
        return STARTER
    if match := NAME.fullmatch(name):
        return match[2]
    if match := _CACHED.search(name.replace("\\", "/")):
        return f"{match[1] or match[3]}/{match[2] or match[4]}"
    return name if _ID.fullmatch(name) and not Path(name).exists() else None


def shown_name(name: str) -> str:
    """A path's last part: where it lies on this machine is nobody's business."""
    return PureWindowsPath(name).name or "the base model"


def is_quantized(name: str) -> bool:
    """Whether the base was a GGUF, whose weights were de-quantized for training."""
    return name == "starter" or name.lower().endswith(".gguf")


def licence_of(name: str, folder: Path | None) -> dict[str, str]:
    """The licence's keys for a card: known for the starter, else from the card in the base model's folder."""
    if name == "starter":
        return STARTER_LICENCE
    card = folder / "README.md" if folder else None
    if card is None or not card.is_file():
        return {}
    values = _front_matter(card.read_text(encoding="utf-8", errors="replace"))
    known = {key: " ".join(values[key].split()) for key in _KEYS if isinstance(values.get(key), str)}
    return known if "license" in known else {}


def licence_of_card(card: str) -> str | None:
    """What a card's front matter says of the licence."""
    value = _front_matter(card).get("license")
    return value if isinstance(value, str) else None


def _front_matter(card: str) -> dict[str, Any]:
    from huggingface_hub import ModelCard

    if not card.startswith("---"):
        return {}
    try:
        return ModelCard(card, ignore_metadata_errors=True).data.to_dict()
    except Exception:  # whatever a stranger's YAML makes of the parser: then nothing is known
        return {}
