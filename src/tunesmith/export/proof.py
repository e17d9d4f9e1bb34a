"""The proof that an exported GGUF is the trained model: asked in the same tokens, giving the same numbers, ending
at the same place, as llama.cpp runs it. What does not hold is named by `diagnose`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguf.constants import LlamaFileType

from tunesmith.engines.base import Engine
from tunesmith.engines.writing import Generation
from tunesmith.export import proof_prompt
from tunesmith.export.diagnose import OF_ROUNDING, ROUNDED, UNKNOWN, Cause, shape_causes, template_causes, token_causes
from tunesmith.export.diagnose_weights import tensor_causes
from tunesmith.export.llama_server import ask_server
from tunesmith.export.proof_limits import Broken, Check, KindLimits, Limits, Others
from tunesmith.export.proof_model import answer_checks, learned_rows, measure, model_check
from tunesmith.models.chat import ChatFormat
from tunesmith.models.gguf_file import Gguf, read_gguf
from tunesmith.sources.example import Example

if TYPE_CHECKING:
    from tunesmith.export.ollama_template import Derived

OnProgress = Callable[[str, float], None]
"""Called with what is being done and the fraction of it."""


@dataclass(frozen=True)
class Proof:
    """What was measured, whether all of it holds, and why not."""

    gguf: str
    kind: str
    checks: list[Check]
    causes: list[Cause] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        return all(check.holds for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """The content of proof.json; numbers that are none are null."""
        checks = [_plain(check.to_json()) for check in self.checks]
        return {
            "gguf": self.gguf, "kind": self.kind, "holds": self.holds, "checks": checks,
            "causes": [cause.to_json() for cause in self.causes], "seconds": round(self.seconds, 1),
        }  # fmt: skip


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def prove(
    gguf: Path,
    base: Path,
    adapter: Path | None,
    rows: Sequence[Example],
    engine: Engine,
    chat: ChatFormat,
    limits: Limits | None = None,
    derived: Derived | None = None,
    others: Others | None = None,
    on_progress: OnProgress = lambda _, __: None,
) -> Proof:
    """Compare the file with the trained model on held-out ``rows``.

    ``engine`` holds ``base`` in float32 with ``adapter`` loaded (none when ``adapter`` is None); ``derived`` is the
    TEMPLATE that Ollama will get, ``others`` what to advise by where rounding loses too much. Raises `ModelError` when
    the file cannot be read or llama.cpp refuses it, `StorageError` when the disk of temporary files is full,
    `EngineError` when llama.cpp is not installed.
    """
    return _Proving(
        read_gguf(gguf), base, adapter, rows, engine, chat, limits or Limits(), derived, others or Others(), on_progress
    ).run()


_BITS = {
    "F32": "f16", "F16": "f16", "BF16": "bf16", "Q8_0": "q8_0", "Q6_K": "q6_k", "Q5_K": "q5_k_m", "Q5_0": "q5_k_m",
    "Q5_1": "q5_k_m",
}  # fmt: skip


def kind_of(gguf: Gguf) -> str:
    """The name of the file's kind in `Limits`: as its metadata say, else by the type that most weights have."""
    number = gguf.get("general.file_type")
    named = {int(t): t.name.removeprefix("MOSTLY_").removeprefix("ALL_").lower() for t in LlamaFileType}
    kind = {"f32": "f16"}.get(named.get(number, ""), named.get(number, ""))
    if kind in Limits.__dataclass_fields__ and isinstance(getattr(Limits, kind), KindLimits):
        return kind
    sizes: dict[str, int] = {}
    for tensor in gguf.tensors.values():
        sizes[tensor.type.name] = sizes.get(tensor.type.name, 0) + math.prod(tensor.shape)
    return _BITS.get(max(sizes, key=lambda name: sizes[name]), "q4_k_m")


@dataclass
class _Proving:
    gguf: Gguf
    base: Path
    adapter: Path | None
    rows: Sequence[Example]
    engine: Engine
    chat: ChatFormat
    limits: Limits
    derived: Derived | None
    others: Others
    on_progress: OnProgress

    def run(self) -> Proof:
        start, path = time.monotonic(), self.gguf.path
        kind = kind_of(self.gguf)
        limit, tuned = self.limits.of(kind), self.adapter is not None
        facts = [*shape_causes(self.gguf, self.base), *token_causes(self.gguf, self.chat)]
        asked = proof_prompt.conversations(self.rows, self.chat, self.limits.conversations)
        prompts = self._questions()
        ours = self._generate(prompts, tuned)
        theirs = ask_server(
            path, [c.turns for c in asked.conversations], prompts, self.limits.max_new_tokens,
            lambda done: self.on_progress("answers of the file", done),
        )  # fmt: skip
        self.on_progress("prompts", 0.0)
        checks = [_file_check(facts), *proof_prompt.checks(self.gguf, self.chat, asked, theirs.prompts, self.derived)]
        if taken := learned_rows(self.rows, self.chat, self.limits.tokens, self.limits.row_tokens):
            distance = measure(
                path, self.engine, taken, adapter=tuned, on_progress=lambda done: self.on_progress("model", done)
            )
            checks.append(model_check(distance, limit))
        checks += answer_checks(self.engine, self.chat, prompts, ours, theirs.answers, tuned, self.limits.tie, limit)
        return Proof(str(path), kind, checks, self._causes(facts, checks, kind), time.monotonic() - start)

    def _questions(self) -> list[list[int]]:
        """Prompts of the first held-out rows that are short enough to be asked."""
        found = list[list[int]]()
        for row in self.rows:
            turns = row.asked
            if len(found) < self.limits.prompts and row.answer and turns:
                ids = self.chat.prompt(turns, row.extra.get("tools"))
                found += [ids] if len(ids) <= 4 * self.limits.row_tokens else []
        return found

    def _generate(self, prompts: list[list[int]], tuned: bool) -> list[Generation]:
        if not prompts:
            return []
        room, tokens = self.limits.max_new_tokens, 0

        def told(row: int, token: int) -> None:
            nonlocal tokens
            tokens += 1
            self.on_progress("answers of the trained model", tokens / (room * len(prompts)))

        return self.engine.generate(prompts, max_new_tokens=room, stop=self.chat.stop, adapter=tuned, on_token=told)

    def _causes(self, facts: list[Cause], checks: list[Check], kind: str) -> list[Cause]:
        """Why what does not hold does not; the template and the weights are read only where they are suspected."""
        failed = {check.name for check in checks if not check.holds}
        causes = list(facts)
        if failed & {"prompt", "template"}:
            causes += template_causes(self.gguf, self.base)
        if "ollama" in failed and not failed & {"prompt", "template"}:
            causes.append(OLLAMA)
        if failed & {"model", "text", "end"}:
            causes += tensor_causes(
                self.gguf, self.base, self.adapter, lambda done: self.on_progress("looking for the cause", done)
            )
        if failed and not causes:
            causes = [UNKNOWN if kind in ("f16", "bf16") or not failed & {"model", "end"} else ROUNDED]
        advice = self.others.instead_of(kind)
        return [replace(c, sentence=f"{c.sentence}; {advice}") if c.name in OF_ROUNDING else c for c in causes]


OLLAMA = Cause(
    "wrong Ollama TEMPLATE",
    "Ollama's TEMPLATE renders a conversation otherwise than the model's own template; rely on the template in the "
    "file, or write a TEMPLATE by hand.",
)


def _file_check(facts: list[Cause]) -> Check:
    return Check(
        "file", {"differences": [cause.sentence for cause in facts]}, {"differences": []},
        "The file's metadata, tokens, beginning and end are those that the model was trained with.",
        (Broken("differences", f"differences in the metadata or the tokens: {len(facts)}", "none may be"),) if facts
        else (),
    )  # fmt: skip
