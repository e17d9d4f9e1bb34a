"""Base against tuned on rows that neither training nor the choice of the checkpoint has seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.dataset.split import groups_of
from tunesmith.dataset.store import Tokens
from tunesmith.engines.base import Engine
from tunesmith.evaluation.asking import Asking
from tunesmith.evaluation.general import General, by_kind
from tunesmith.evaluation.kept import KEPT, Kept
from tunesmith.evaluation.memorising import memorised
from tunesmith.evaluation.question import Question, Task, Verdict
from tunesmith.evaluation.retrieval import Retrieval, passages_of, with_passages
from tunesmith.evaluation.statistics import compare, mean_interval
from tunesmith.evaluation.tasks.judge import Judge
from tunesmith.evaluation.tasks.open import open_task
from tunesmith.models.chat import ChatFormat
from tunesmith.progress import Progress
from tunesmith.settings import EvaluateSettings, LossTask
from tunesmith.sources.document import Document
from tunesmith.sources.example import Example
from tunesmith.training.loop import row_losses
from tunesmith.training.prefix import Prefix

TRAINED = 64
"""Rows of the training whose loss is measured too, to see whether they are known by heart."""


@dataclass(frozen=True)
class Candidate:
    """One model to measure: the base, a checkpoint's adapter, or the tuned one.

    identity: the hash of its weights. Tasks are put to base and tuned alone (``asked``): they cost a generation per
    question. With ``documents`` the question comes with the passages that a search finds for it; then nothing but the
    tasks is measured.
    """

    name: str
    identity: str
    arrays: Callable[[], dict[str, np.ndarray]] | None
    asked: bool
    documents: bool = False


@dataclass(frozen=True)
class Rows:
    """A part of the dataset: its rows, and their tokens."""

    examples: list[Example]
    tokens: Tokens

    @cached_property
    def clusters(self) -> list[str]:
        """What each of the ``tokens`` has in common with others."""
        groups = groups_of(self.examples)
        return [groups[row] for row in self.tokens.rows]


@dataclass
class Evaluation:
    """What is measured, and the results as they come."""

    engine: Engine
    chat: ChatFormat
    settings: EvaluateSettings
    folder: Path
    """Where the paths of tasks begin."""
    out: Path
    """The run's folder for what is measured; what is kept there is not measured again."""
    test: Rows
    learned: Tokens
    """Some of the training rows."""
    train: Callable[[], Iterator[Example]]
    """All of them."""
    dataset: str
    """The hash of all rows."""
    documents: Callable[[], Iterator[Document]]
    """What passages are looked for in."""
    prefix: Prefix | None = None
    """What is known of the layers below the trained ones."""
    notify: Callable[[Progress], None] = lambda _: None
    """Told what goes on inside one measurement."""
    results: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    _base: dict[str, list[float | None]] = field(default_factory=dict)
    """By task, the scores of the first model: the others are compared with it question by question."""
    _read_up: dict[str, list[float | None]] = field(default_factory=dict)
    """By task, the scores of the base that may look into the documents."""
    _answers: dict[str, list[str]] = field(default_factory=dict)
    """By task, the first model's answers, for the judge."""
    _base_gap: float = 0.0
    """How much more a test row costs the base than a training row, a token."""

    def run(self, candidates: list[Candidate]) -> Iterator[Progress]:
        """Measure every candidate; ``results`` and ``samples`` fill as it goes. Raises `SourceError` before anything is
        generated when a task cannot be done on these rows, `TeacherError` when there is no judge."""
        tasks, questions = self._tasks, self._questions
        for candidate in candidates:
            if candidate.arrays is not None:
                self.engine.load_adapter_arrays(candidate.arrays())
            result: dict[str, Any] = {"model": candidate.name, "split": "test"}
            if self._measures_loss and not candidate.documents:
                result |= self._loss(candidate)
            said = list[tuple[Question, str]]()
            if candidate.asked and (tasks or self._general):
                asked = {name: self._with_documents(candidate, questions[name]) for name in tasks}
                said = yield from self._ask(candidate, asked, result)
            if candidate.asked and "loss" in result:
                self._by_heart(candidate, said, result)
            self.results.append(result)
            task, measured = next(iter(result.get("tasks", {}).items()), ("", {}))
            yield Progress(
                "measured", stage="evaluate", message=task, model=candidate.name,
                loss=result.get("loss"), score=measured.get("score"),
            )  # fmt: skip

    # -- what is asked ---------------------------------------------------------------------------

    @property
    def _measures_loss(self) -> bool:
        return any(task.kind == "loss" for task in self.settings.tasks)

    @cached_property
    def _tasks(self) -> dict[str, Task | Judge]:
        tasks = [t for t in self.settings.tasks if not isinstance(t, LossTask)]
        return {t.kind: open_task(t, self.folder, self.out) for t in tasks}

    @cached_property
    def _general(self) -> General | None:
        return General() if self.settings.forgetting else None

    @cached_property
    def _questions(self) -> dict[str, list[Question]]:
        questions = {name: task.questions(self.test.examples) for name, task in self._tasks.items()}
        for task in self._tasks.values():
            if isinstance(task, Judge):
                task.ready()
        return questions

    @cached_property
    def _retrieval(self) -> Retrieval:
        return Retrieval(passages_of(self.documents()))

    def _with_documents(self, candidate: Candidate, questions: list[Question]) -> list[Question]:
        if not candidate.documents:
            return questions
        count = self.settings.retrieval
        return [with_passages(q, self._retrieval.find(q.asked, count)) for q in questions]

    # -- measuring -------------------------------------------------------------------------------

    @cached_property
    def _kept(self) -> Kept:
        return Kept(self.out / KEPT)

    @cached_property
    def _asking(self) -> Asking:
        settings = self.settings
        return Asking(self.engine, self.chat, self._kept, settings.batch, settings.max_new_tokens, self.notify)

    def _loss(self, candidate: Candidate) -> dict[str, Any]:
        losses, counts = self._row_losses(candidate, "test", self.test.tokens)
        loss = float(losses.sum() / counts.sum())
        # Every row's share of the mean, so that a mean of these is the loss per token.
        shares = list(losses * (len(losses) / counts.sum()))
        found: dict[str, Any] = {"loss": loss, "perplexity": math.exp(min(loss, 700))}
        base = self._base.setdefault("loss", shares)
        if base is not shares:
            # A smaller loss is better.
            found["gain"] = compare(shares, base, self.test.clusters, bounded=False).to_json()
        return found

    def _row_losses(self, candidate: Candidate, part: str, rows: Tokens) -> tuple[np.ndarray, np.ndarray]:
        key = Kept.key("loss", candidate.identity, self.engine.name, self.engine.precision, self.dataset, part)
        if key not in self._kept:
            what = "loss" if part == "test" else "loss of rows that it learned"
            self._tell(candidate.name, what, 0, len(rows))
            losses, counts = row_losses(
                self.engine, rows, self.settings.batch, adapter=candidate.arrays is not None, prefix=self.prefix,
                on_rows=lambda done: self._tell(candidate.name, what, done, len(rows)),
            )  # fmt: skip
            self._kept.add({key: [losses.tolist(), counts.tolist()]})
        losses, counts = self._kept[key]
        return np.array(losses), np.array(counts)

    def _tell(self, model: str, what: str, done: int, total: int) -> None:
        said = f"{model}: {what}"
        self.notify(Progress("working", stage="evaluate", model=model, message=said, done=done, total=total))

    def _ask(
        self, candidate: Candidate, asked: dict[str, list[Question]], result: dict[str, Any]
    ) -> Generator[Progress, None, list[tuple[Question, str]]]:
        """All questions of all tasks, and what they show. Returns what was said about the test rows."""
        general = [] if self._general is None or candidate.documents else self._general.questions([])
        everything = [q for questions in asked.values() for q in questions] + general
        answers = yield from self._asking.answers(
            candidate.name, candidate.identity, candidate.arrays is not None, everything
        )
        measured, at = dict[str, Any](), 0
        for name, questions in asked.items():
            given, at = answers[at : at + len(questions)], at + len(questions)
            task = self._tasks[name]
            plain = self._questions[name]  # without passages, which only models have to read
            if isinstance(task, Judge):
                graded = self._judged(task, candidate, plain, given)
            else:
                graded = self._graded(name, task, candidate, plain, given)
            measured |= {name: graded} if graded else {}
        if measured:
            result["tasks"] = measured
        if self._general and general:
            graded = self._graded("general", self._general, candidate, general, answers[at:])
            mine = [s for s in self.samples if s["task"] == "general" and s["model"] == candidate.name]
            result["general"] = {**graded, "by": by_kind(mine)}
        said = zip(everything[:at], answers[:at], strict=True)
        return list({q.id: (q, answer) for q, answer in said if not q.choices}.values())

    def _graded(
        self, name: str, task: Task, candidate: Candidate, questions: list[Question], answers: list[str]
    ) -> dict[str, Any]:
        verdicts = [task.grade(q, answer) for q, answer in zip(questions, answers, strict=True)]
        self._keep_samples(name, candidate, questions, answers, verdicts)
        scores = [v.score for v in verdicts]
        clusters = [q.cluster for q in questions]
        found = _measured(scores, clusters)
        base = self._base.setdefault(name, scores)
        if base is not scores:
            found["difference"] = compare(base, scores, clusters).to_json()
        if candidate.documents and candidate.arrays is None:
            self._read_up[name] = scores
        elif candidate.name == "tuned" and name in self._read_up:
            found["over_retrieval"] = compare(self._read_up[name], scores, clusters).to_json()
        return found

    def _judged(
        self, judge: Judge, candidate: Candidate, questions: list[Question], answers: list[str]
    ) -> dict[str, Any]:
        """How often the judge prefers these answers to the first model's; of that model there is nothing to say, but
        its answers are kept: they are what the others were compared with."""
        before = self._answers.setdefault(judge.name, answers)
        if before is answers:
            self._keep_samples(judge.name, candidate, questions, answers, [Verdict(None, "")] * len(answers))
            return {}
        verdicts, agreement = judge.prefer(questions, before, answers, self.notify)
        self._keep_samples(judge.name, candidate, questions, answers, verdicts)
        scores, clusters = [v.score for v in verdicts], [q.cluster for q in questions]
        even = [0.5] * len(scores)
        return _measured(scores, clusters) | {
            "agreement": agreement, "difference": compare(even, scores, clusters).to_json()
        }  # fmt: skip

    def _keep_samples(
        self, task: str, candidate: Candidate, questions: list[Question], answers: list[str], verdicts: list[Verdict]
    ) -> None:
        self.samples += [
            {
                "model": candidate.name, "task": task, "id": q.id, "cluster": q.cluster, "origin": q.origin,
                "question": q.asked, "answer": answer, "reference": q.reference, "score": verdict.score,
                "right": verdict.right, "reason": verdict.reason,
            }
            for q, answer, verdict in zip(questions, answers, verdicts, strict=True)
        ]  # fmt: skip

    def _by_heart(self, candidate: Candidate, said: list[tuple[Question, str]], result: dict[str, Any]) -> None:
        """Whether the tuned model knows its rows by heart: by what they cost it, and by what it says."""
        losses, counts = self._row_losses(candidate, "train", self.learned)
        gap = result["loss"] - float(losses.sum() / counts.sum())
        if candidate.arrays is None:
            self._base_gap = gap
        else:
            result["memorised"] = memorised(
                said, self.train(), result["loss"] - gap, result["loss"], base_gap=self._base_gap
            )


def _measured(scores: Sequence[float | None], clusters: Sequence[str]) -> dict[str, Any]:
    """Mean and interval of what could be graded; what could not is counted apart."""
    known = [(s, c) for s, c in zip(scores, clusters, strict=True) if s is not None]
    graded = [s for s, _ in known]
    low, high = mean_interval(graded, [c for _, c in known])
    return {
        "score": sum(graded) / len(graded) if graded else None, "n": len(graded), "interval": [low, high],
        "ungraded": len(scores) - len(graded),
    }  # fmt: skip
