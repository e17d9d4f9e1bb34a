"""Is the imported folder the model that llama.cpp runs? Measured, not believed.

A wrong order of q/k rows gives a folder that loads and talks, only worse: it shows as a KL divergence
far above 0.1 nats a token. A right import differs by rounding. For F16, BF16 and F32 files that is
1e-6 to 1e-5; for quantized ones more, because llama.cpp multiplies them with activations rounded to 8
bits: the starter (Q4_1) measures 0.0058, a 16-bit copy of the same weights 5e-6 against the same folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tunesmith.errors import ModelError
from tunesmith.models.llamacpp import ask_llamacpp

TEXTS = (
    "The quick brown fox jumps over the lazy dog. It isn't the fox's fault; they've done it for years, "
    "and I'll say so: \"We're all right!\"",
    "人工智能正在改变世界。通义千问是一个大型语言模型，由阿里云开发，能够回答问题、写作和编程。",
    "In 2024 there were 1,234,567 visitors (12.5% more than 1999), 0xDEADBEEF, ½ and ² included.",
    "def fib(n: int) -> int:\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n\n\nprint(fib(10))\n",
    "  two spaces,   three,\tone tab\t\ttwo\n\n\nthree newlines \n a space before and after \r\n done  ",
    "Emoji 😀👩‍👩‍👧‍👦🇩🇪 and naïve café, Ελληνικά, русский, العربية, 日本語テスト, 한국어 ✓ → ∑ €",
    "SELECT name, COUNT(*) FROM users WHERE age >= 18 AND city = 'Köln' GROUP BY name ORDER BY 2 DESC;",
)
"""About 300 tokens in which tokenizers like to differ."""


@dataclass(frozen=True)
class ImportCheck:
    """How far the folder is from what llama.cpp makes of the GGUF.

    kl: mean over positions of KL(llama.cpp || ours), in nats per token
    top1: fraction of positions where both find the same token likeliest
    max_difference: largest absolute difference between two logits
    different: the texts that become other ids, cut to 40 characters
    """

    tokens: int
    kl: float
    top1: float
    max_difference: float
    different: tuple[str, ...] = ()

    @property
    def same_tokens(self) -> bool:
        """Whether every text became the same ids."""
        return not self.different


def verify_import(
    gguf: Path,
    folder: Path,
    logits: Callable[[Sequence[int]], np.ndarray],
    texts: Sequence[str] = TEXTS,
) -> ImportCheck:
    """Compare ``folder`` with llama.cpp running ``gguf``, on ``texts`` and the special tokens.

    ``logits(ids)`` is the folder's model: float32 [len(ids), vocabulary]. Both get llama.cpp's ids, so
    that a difference of the tokenizers does not hide in the KL. Raises `ModelError` when llama.cpp
    cannot run the file, `EngineError` when it is not installed.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = [*texts, _special_text(tokenizer)]
    different: list[str] = []
    compared: list[tuple[np.ndarray, np.ndarray, float]] = []
    for text, reference in zip(texts, ask_llamacpp(gguf, texts), strict=True):
        if tokenizer.encode(text).ids != reference.ids:
            different.append(text[:40])
        if reference.ids and reference.logits is not None:
            compared.append(compare_logits(reference.logits, logits(reference.ids)))
    if not compared:
        raise ModelError(f"{gguf}: none of the texts has a token, so nothing was compared; give other texts")
    divergence = np.concatenate([kl for kl, _, _ in compared])
    agreed = np.concatenate([same for _, same, _ in compared])
    worst = max(difference for _, _, difference in compared)
    return ImportCheck(len(divergence), float(divergence.mean()), float(agreed.mean()), worst, tuple(different))


def compare_logits(reference: np.ndarray, ours: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """KL(reference || ours) per position in nats, float64 [length]; same top token, bool [length]; the
    largest absolute difference of two logits. Both arrays are [length, vocabulary]."""
    if reference.shape != ours.shape:
        raise ModelError(
            f"logits of shape {tuple(ours.shape)} cannot be compared with llama.cpp's {reference.shape}; "
            f"use the folder that was made from this GGUF"
        )
    divergence = np.empty(len(reference))
    for i, (p, q) in enumerate(zip(reference, ours, strict=True)):  # row by row: vocabularies are large
        log_p, log_q = _log_softmax(p), _log_softmax(q)
        divergence[i] = np.sum(np.exp(log_p) * (log_p - log_q))
    same = reference.argmax(-1) == ours.argmax(-1)
    return divergence, same, float(np.abs(reference - ours).max())


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - float(logits.max())
    return shifted - np.log(np.exp(shifted).sum())


def _special_text(tokenizer: object) -> str:
    """A text with up to six of the model's own special tokens in it, with and without spaces around."""
    added = tokenizer.get_added_tokens_decoder()  # type: ignore[attr-defined]
    tokens = [added[i].content for i in sorted(added)][:6]
    return "Hello" + "".join(f"{token}word {token} next\n" for token in tokens)
