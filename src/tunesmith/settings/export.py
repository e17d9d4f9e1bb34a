"""``[export]``: what a finished run becomes, and how closely that is proved."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tunesmith.settings.section import Section

Limit = Literal["kl", "largest_kl", "top1", "perplexity", "difference", "run_on"]
GgufKind = Literal["f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m"]


class ProofSettings(Section):
    tokens: Annotated[int, Field(ge=16)] = 1024
    """Held-out tokens whose logits are compared."""
    prompts: Annotated[int, Field(ge=1)] = 12
    """Held-out questions that the trained model and the file both answer."""
    questions: Annotated[int, Field(ge=0)] = 100
    """Test questions that each file answers in llama.cpp, graded as in evaluation; 0: none."""
    limits: dict[GgufKind, dict[Limit, float]] = {}
    """Other limits than the measured ones in export/proof_limits.py: {q4_k_m = {kl = 0.3}}."""


class ExportSettings(Section):
    formats: tuple[str, ...] = ()
    """What a finished run becomes: "gguf:q4_k_m" (or f16, bf16, q8_0, q6_k, q5_k_m), "lora" (the adapter as GGUF),
    "merged" (a Hugging Face folder), "mlx" (4 bit), "mlx-lora" (the adapter for mlx-lm), "ollama:NAME", "lmstudio"."""
    proof: ProofSettings = ProofSettings()
    """How closely every GGUF is compared with the trained model."""
