"""How many questions are answered in a minute, beside transformers asking one at a time: same model, same questions.

    python benchmarks/answers.py --data FOLDER/wikisql/wikisql-exec [--questions 128] [--precision fp32]

The starter answers WikiSQL questions greedily, at most 32 tokens each. transformers' own generate, one question at a
time with its cache, is timed on a few of them, before and after ours on all: a minute in which the machine is slow is
slow for both. "same" counts the answers that are equal, of those that both gave. The rows of a table share its schema;
with --shared all rows begin with the same 200 tokens, as those of one database do.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from speed import starter

LIMIT = 32


def main() -> None:
    parser = argparse.ArgumentParser(description="Answers in a minute beside transformers")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=128)
    parser.add_argument("--alone", type=int, default=12, help="questions for transformers, each time")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--shared", action="store_true")
    asked = parser.parse_args()
    with TemporaryDirectory() as name:
        model = starter(Path(name) / "starter")
        prompts, stop = questions(asked.data, model, asked.questions, asked.shared)
        alone = Alone(model, asked.precision, stop)
        theirs = list[list[int]]()
        seconds = alone.answer(prompts[: asked.alone], theirs)
        ours, together = answer(model, asked.precision, prompts, stop)
        seconds += alone.answer(prompts[asked.alone : 2 * asked.alone], theirs)
    slow, fast = 60 * 2 * asked.alone / seconds, 60 * len(prompts) / together
    same = sum(a == b for a, b in zip(theirs, ours, strict=False))
    print("| precision | transformers, one at a time | tunesmith, 64 together | ratio | same |\n|---|---|---|---|---|")
    print(f"| {asked.precision} | {slow:,.0f} a minute | {fast:,.0f} a minute | {fast / slow:.1f} | "
          f"{same} of {len(theirs)} |")  # fmt: skip


def questions(data: Path, model: Path, count: int, shared: bool) -> tuple[list[list[int]], frozenset[int]]:
    from tunesmith.models.chat import ChatFormat
    from tunesmith.settings import SourceTable
    from tunesmith.sources.example import Example
    from tunesmith.sources.read import read_source

    chat = ChatFormat(model)
    source = SourceTable(path="dev.jsonl", kind="wikisql", tables="dev.tables.jsonl", limit=count)
    rows = [row for row in read_source(source, data) if isinstance(row, Example)]
    system = "You write SQL for a shop. " + " ".join(f"Table t{i} has the columns a, b and c{i}." for i in range(14))
    before = [{"role": "system", "content": system}] if shared else []
    return [chat.prompt([*before, *row.asked]) for row in rows], chat.stop


class Alone:
    """transformers as its documentation shows it."""

    def __init__(self, model: Path, precision: str, stop: frozenset[int]) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        self._model: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()
        self._stop = sorted(stop)

    def answer(self, prompts: list[list[int]], found: list[list[int]]) -> float:
        import torch

        began = time.monotonic()
        for prompt in prompts:
            with torch.no_grad():
                ids = self._model.generate(
                    torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                    max_new_tokens=LIMIT, do_sample=False, eos_token_id=self._stop, pad_token_id=self._stop[0],
                )  # fmt: skip
            new = ids[0, len(prompt) :].tolist()
            found.append(new[:-1] if new and new[-1] in self._stop else new)
        return time.monotonic() - began


def answer(
    model: Path, precision: Any, prompts: list[list[int]], stop: frozenset[int]
) -> tuple[list[list[int]], float]:
    """As the stage "evaluate" does it."""
    from tunesmith.engines.base import iterate_by_length
    from tunesmith.engines.choose import open_engine
    from tunesmith.models.architecture import read_architecture
    from tunesmith.settings import EvaluateSettings

    engine = open_engine(model, read_architecture(model), "torch", precision)
    answers: list[list[int]] = [[] for _ in prompts]
    began = time.monotonic()
    for part in iterate_by_length([len(p) for p in prompts], EvaluateSettings().batch):
        for i, one in zip(
            part, engine.generate([prompts[i] for i in part], max_new_tokens=LIMIT, stop=stop), strict=True
        ):
            answers[i] = one.ids
    return answers, time.monotonic() - began


if __name__ == "__main__":
    main()
