"""Refuse model folders that would run somebody's code, before anything else reads them.

transformers imports the Python files that ``auto_map`` names (when told to trust them), mlx-lm those
that ``model_file`` names (CVE-2026-5843), and pickle files run code while they are loaded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError

CODE_KEYS = ("auto_map", "model_file")
READ_BY_LOADERS = ("config.json", "tokenizer_config.json")


def refuse_unsafe(folder: Path) -> None:
    """Return when ``folder`` is plain data that can be trained.

    Raises `ModelError` when config.json or tokenizer_config.json names Python code to run (at any
    depth), cannot be read, or says that the weights are quantized. Files that are missing are none
    of its business.
    """
    for name in READ_BY_LOADERS:
        path = folder / name
        config = _read(path)
        if key := _code_key(config):
            raise ModelError(
                f"{path}: the key {key!r} names Python code that would be run when the model is loaded; "
                f"use a model without code of its own, or the GGUF of this one"
            )
        if name == "config.json" and isinstance(config, dict) and _quantized(config):
            raise ModelError(
                f"{path}: the key 'quantization_config' says that the weights are quantized, and such a "
                f"folder cannot be trained; use the model's 16-bit folder or a GGUF of it"
            )


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise ModelError(f"{path} cannot be read as JSON ({error}); download the model again") from None


def _code_key(value: Any) -> str | None:
    if isinstance(value, list):
        return next((key for item in value if (key := _code_key(item))), None)
    if not isinstance(value, dict):
        return None
    named = next((key for key in CODE_KEYS if value.get(key) is not None), None)
    return named or _code_key(list(value.values()))


def _quantized(config: dict[str, Any]) -> bool:
    """Also where the language part of a multimodal model is quantized; mlx-lm writes ``quantization``."""
    parts = [config, config.get("text_config")]
    return any(isinstance(p, dict) and (p.get("quantization_config") or p.get("quantization")) for p in parts)
