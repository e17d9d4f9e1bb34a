"""How byte-level BPE tokenizers cut text before merging, by the name that a GGUF gives it.

The regular expressions are those of the models' own tokenizer.json files; llama.cpp's
``llama-vocab.cpp`` quotes them next to its own spellings ("original regex from tokenizer.json").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LLAMA3 = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_SEED_CODER = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# llama.cpp's own guess for files that name no pre-tokenizer: no model was trained with it, but it is
# what such a file runs with.
_DEFAULT = (
    r"[\p{P}\$\+<=>\^~\|]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
    r"\p{N}+",
    r"[0-9][0-9][0-9]",
)
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+", r"\p{N}")


@dataclass(frozen=True)
class PreTokenizer:
    """The parts of tokenizer.json that come before the merges.

    ``ignore_merges``: a cut piece that is itself a token is taken whole. ``adds_bos``: what llama.cpp
    does when the file does not say.
    """

    pre_tokenizer: dict[str, Any] | None = None
    normalizer: dict[str, Any] | None = None
    ignore_merges: bool = False
    adds_bos: bool = False


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _splits(*patterns: str) -> dict[str, Any]:
    """Cut at every match of each expression in turn, then write bytes as letters."""
    cuts = [{"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False} for p in patterns]
    return {"type": "Sequence", "pretokenizers": [*cuts, _byte_level(False)]}


_GPT2 = PreTokenizer(_byte_level(True))
_DIGITS = PreTokenizer(
    {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, _byte_level(True)],
    }
)
_LLAMA_BPE = PreTokenizer(_splits(_LLAMA3), ignore_merges=True, adds_bos=True)

KNOWN: dict[str, PreTokenizer] = {
    "gpt-2": _GPT2,
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "command-r": _DIGITS,
    "codeshell": _DIGITS,
    "minerva-7b": _DIGITS,
    "llama-bpe": _LLAMA_BPE,
    "llama-v3": _LLAMA_BPE,
    "llama3": _LLAMA_BPE,
    "falcon3": _LLAMA_BPE,
    "smaug-bpe": PreTokenizer(_splits(_LLAMA3)),
    # Qwen's tokenizer.json composes accents (NFC); llama.cpp does not: text with accents apart from
    # their letters gets other ids there. The model was trained on composed text.
    "qwen2": PreTokenizer(_splits(_QWEN2), normalizer={"type": "NFC"}),
    "deepseek-r1-qwen": PreTokenizer(_splits(_QWEN2)),
    "megrez": PreTokenizer(_splits(_QWEN2)),
    "tekken": PreTokenizer(_splits(_TEKKEN), ignore_merges=True, adds_bos=True),
    "seed-coder": PreTokenizer(_splits(_SEED_CODER)),
    "deepseek-coder": PreTokenizer(_splits(*_DEEPSEEK_CODER)),
    "default": PreTokenizer(_splits(*_DEFAULT)),
}


def pre_tokenizer(name: str) -> PreTokenizer | None:
    """What ``tokenizer.ggml.pre`` stands for, or None when it is not known here."""
    return KNOWN.get(name)
