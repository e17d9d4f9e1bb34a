"""Base against tuned on rows that neither training nor the choice of the checkpoint has seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.dataset.split import groups_of
from tunesmith.dataset.store import Tokens
from tunesmith.engines.base import Engine, iterate_by_length
from tunesmith.errors import SourceError
from tunesmith.evaluation.sql import SqlTask
from tunesmith.evaluation.statistics import compare, interval
from tunesmith.models.chat import ChatFormat
from tunesmith.progress import Progress
from tunesmith.settings import EvaluateSettings, SqlTaskSettings
from tunesmith.sources.example import Example
from tunesmith.training.loop import mean_loss
from tunesmith.training.prefix import Prefix


@dataclass(frozen=True)
class Candidate:
    """One model to measure: the base, a checkpoint's adapter, or the tuned one. Tasks are asked of
    base and tuned only: they cost a generation per question."""

    name: str
    arrays: Callable[[], dict[str, np.ndarray]] | None
    asked: bool


@dataclass
class Evaluation:
    """What is measured, and the results as they come."""

    engine: Engine
    chat: ChatFormat
    settings: EvaluateSettings
    folder: Path
    rows: list[Example]
    tokens: Tokens
    prefix: Prefix | None = None
    """What is known of the layers below the trained ones."""
    notify: Callable[[Progress], None] = lambda _: None
    """Told what goes on inside one measurement."""
    results: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    _base_marks: dict[str, list[bool]] = field(default_factory=dict)
    """By task, what the first model got right: the others are compared with it question by question."""

    def run(self, candidates: list[Candidate]) -> Iterator[Progress]:
        """Measure every candidate; ``results`` and ``samples`` fill as it goes."""
        tasks = {t.kind: open_task(t, self.folder) for t in self.settings.tasks if isinstance(t, SqlTaskSettings)}
        rows = [row for row in self.rows if row.answer]
        if tasks and not rows:
            raise SourceError('no test row has an answer to grade by; evaluate.tasks can only be "loss" for raw text')
        for task in tasks.values():
            for row in rows:
                task.grade(row, row.answer)  # a gold answer that fails is said before hours of generating
        for candidate in candidates:
            self._tell(candidate.name, "loss", 0, len(self.tokens))
            if candidate.arrays is not None:
                self.engine.load_adapter_arrays(candidate.arrays())
            adapter = candidate.arrays is not None
            result: dict[str, Any] = {"model": candidate.name, "split": "test"}
            if any(t.kind == "loss" for t in self.settings.tasks):
                loss = mean_loss(
                    self.engine, self.tokens, self.settings.batch, adapter=adapter, prefix=self.prefix,
                    on_rows=lambda done, name=candidate.name: self._tell(name, "loss", done, len(self.tokens)),
                )  # fmt: skip
                result |= {"loss": loss, "perplexity": math.exp(min(loss, 700))}
            if candidate.asked and tasks and rows:
                answers: list[str] = []
                yield from self._answer(candidate.name, rows, answers, adapter)
                result["tasks"] = {
                    kind: self._grade(kind, task, candidate.name, rows, answers) for kind, task in tasks.items()
                }
            self.results.append(result)
            task, measured = next(iter(result.get("tasks", {}).items()), ("", {}))
            yield Progress(
                "measured", stage="evaluate", message=task, model=candidate.name,
                loss=result.get("loss"), score=measured.get("score"),
            )  # fmt: skip

    def _answer(self, name: str, rows: list[Example], answers: list[str], adapter: bool) -> Iterator[Progress]:
        """One greedy answer a row, in batches of rows of like length."""
        prompts = [self.chat.prompt(row.asked, row.extra.get("tools")) for row in rows]
        answers += [""] * len(rows)
        done, tokens = 0, 0

        def told(row: int, token: int) -> None:
            """The longest answers of a batch take as long as all of it: so much of the limit is so much of the rows."""
            nonlocal tokens
            tokens += 1
            self._tell(name, "answers", done + tokens // self.settings.max_new_tokens, len(rows))

        for part in iterate_by_length([len(p) for p in prompts], self.settings.batch):
            tokens = 0
            generated = self.engine.generate(
                [prompts[i] for i in part],
                max_new_tokens=self.settings.max_new_tokens,
                stop=self.chat.stop,
                adapter=adapter,
                on_token=told,
            )
            for i, generation in zip(part, generated, strict=True):
                answers[i] = self.chat.decode(generation.ids).strip()
            done += len(part)
            yield Progress(
                "working", stage="evaluate", model=name, message=f"{name}: answers", done=done, total=len(rows)
            )

    def _tell(self, model: str, what: str, done: int, total: int) -> None:
        said = f"{model}: {what}"
        self.notify(Progress("working", stage="evaluate", model=model, message=said, done=done, total=total))

    def _grade(self, kind: str, task: SqlTask, name: str, rows: list[Example], answers: list[str]) -> dict[str, Any]:
        verdicts = [task.grade(row, answer) for row, answer in zip(rows, answers, strict=True)]
        for row, answer, verdict in zip(rows, answers, verdicts, strict=True):
            self.samples.append({
                "model": name, "task": kind, "id": row.id, "origin": str(row.origin),
                "question": row.prompt[-1].content, "answer": answer, "reference": row.answer,
                "right": verdict.right, "reason": verdict.reason,
            })  # fmt: skip
        marks = [v.right for v in verdicts]
        low, high = interval(sum(marks), len(marks))
        measured: dict[str, Any] = {"score": sum(marks) / len(marks), "n": len(marks), "interval": [low, high]}
        base = self._base_marks.setdefault(kind, marks)
        if base is not marks:
            measured["difference"] = compare(base, marks, groups_of(rows)).to_json()
        return measured


def open_task(settings: SqlTaskSettings, folder: Path) -> SqlTask:
    """The task as the recipe names it; paths begin at ``folder``. Raises `SourceError`."""
    return SqlTask(
        database=folder / settings.database if settings.database else None,
        tables=folder / settings.tables if settings.tables else None,
    )
