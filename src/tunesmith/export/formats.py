"""What a run can be exported as, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from tunesmith.errors import RecipeError
from tunesmith.settings import GgufKind

KINDS: tuple[GgufKind, ...] = get_args(GgufKind)
USUAL: GgufKind = "q4_k_m"
EXPORTING = 1
"""Counts up when exporting changes what it writes or how it is proved: then older files are made again."""
TARGETS = ("gguf", "lora", "merged", "mlx", "mlx-lora", "ollama", "lmstudio")


@dataclass(frozen=True)
class Formats:
    """ggufs: kinds of GGUF to write, the first of which goes to Ollama and LM Studio; ollama: its name there."""

    ggufs: tuple[GgufKind, ...] = ()
    lora: bool = False
    merged: bool = False
    mlx: bool = False
    mlx_lora: bool = False
    ollama: str | None = None
    lmstudio: bool = False


def parse_formats(names: tuple[str, ...]) -> Formats:
    """From names as in a recipe: "gguf:q8_0", "lora", "merged", "mlx", "mlx-lora", "ollama:NAME",
    "lmstudio".

    Raises `RecipeError` for a name that is not known, and `ModelError` for one that Ollama would refuse.
    """
    ggufs: list[GgufKind] = []
    ollama = None
    for name in names:
        target, _, detail = name.partition(":")
        if target not in TARGETS or (detail and target not in ("gguf", "ollama")):
            raise RecipeError(f'{name!r} is no format; known are "gguf:KIND", "ollama:NAME", {_others()}')
        if target == "gguf":
            kind = detail or USUAL
            if kind not in KINDS:
                raise RecipeError(f"{kind!r} is no kind of GGUF; known are {', '.join(KINDS)}")
            ggufs.append(kind)
        elif target == "ollama":
            if not detail:
                raise RecipeError('"ollama" needs the name that the model gets there, as in "ollama:my-model"')
            from tunesmith.export.ollama import check_name  # which knows templates, and so takes a while to import

            check_name(detail)
            ollama = detail
    if not ggufs and (ollama or "lmstudio" in names):
        ggufs = [USUAL]
    return Formats(
        tuple(dict.fromkeys(ggufs)), "lora" in names, "merged" in names, "mlx" in names, "mlx-lora" in names, ollama,
        "lmstudio" in names,
    )  # fmt: skip


def _others() -> str:
    return ", ".join(f'"{name}"' for name in TARGETS if name not in ("gguf", "ollama"))
