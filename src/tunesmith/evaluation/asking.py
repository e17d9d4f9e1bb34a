"""Putting questions to a model: in batches of like length, each exactly once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np

from tunesmith.engines.base import Engine, iterate_by_length
from tunesmith.evaluation.kept import Kept
from tunesmith.evaluation.question import Question
from tunesmith.models.chat import ChatFormat
from tunesmith.progress import Progress


@dataclass
class Asking:
    """Answers of one loaded model, with or without its adapter.

    What is in ``kept`` is not asked again: an answer depends on the weights (``identity`` below), the tokens of the
    prompt and the limit, and on nothing else.
    """

    engine: Engine
    chat: ChatFormat
    kept: Kept
    batch: int
    limit: int
    """Tokens of an answer, unless the question says otherwise."""
    notify: Callable[[Progress], None]

    def answers(
        self, name: str, identity: str, adapter: bool, questions: Sequence[Question]
    ) -> Generator[Progress, None, list[str]]:
        """An answer to each question, of the model ``name``; those with the longest prompts come first."""
        prompts = [self.chat.prompt(q.messages, q.tools) for q in questions]
        engine = [self.engine.name, self.engine.precision]
        keys = [
            Kept.key("answer", identity, engine, prompt, q.choices or q.limit or self.limit)
            for q, prompt in zip(questions, prompts, strict=True)
        ]
        # Two tasks may ask the same.
        waiting = list({key: i for i, key in enumerate(keys) if key not in self.kept}.values())
        told = _Told(name, len(set(keys)), len(set(keys)) - len(waiting), self.notify)
        for limit in sorted({questions[i].limit or self.limit for i in waiting if not questions[i].choices}):
            asked = [i for i in waiting if not questions[i].choices and (questions[i].limit or self.limit) == limit]
            for part in iterate_by_length([len(prompts[i]) for i in asked], self.batch):
                rows = [asked[at] for at in part]
                texts = self._generated([prompts[i] for i in rows], limit, adapter, told)
                self.kept.add({keys[i]: text for i, text in zip(rows, texts, strict=True)})
                yield told.advance(len(rows))
        choosing = [i for i in waiting if questions[i].choices]
        for part in iterate_by_length([len(prompts[i]) for i in choosing], self.batch):
            rows = [choosing[at] for at in part]
            chosen = self._chosen([(prompts[i], questions[i].choices) for i in rows], adapter)
            self.kept.add({keys[i]: text for i, text in zip(rows, chosen, strict=True)})
            yield told.advance(len(rows))
        return [self.kept[key] for key in keys]

    def _generated(self, prompts: list[list[int]], limit: int, adapter: bool, told: _Told) -> list[str]:
        generated = self.engine.generate(
            prompts, max_new_tokens=limit, stop=self.chat.stop, adapter=adapter, on_token=told.token(limit)
        )
        return [self.chat.decode(one.ids).strip() for one in generated]

    def _chosen(self, questions: Sequence[tuple[list[int], Sequence[str]]], adapter: bool) -> list[str]:
        """The likeliest choice for each prompt, by the mean log-likelihood of its tokens as the answer: the prompt is
        read once, nothing is generated. The mean, so that a longer choice is not less likely for its length."""
        endings = [[self.chat.encode(choice) for choice in choices] for _, choices in questions]
        losses = self.engine.ending_losses([prompt for prompt, _ in questions], endings, adapter=adapter)
        means = [of / [max(1, len(one)) for one in each] for of, each in zip(losses, endings, strict=True)]
        return [choices[int(np.argmin(mean))] for (_, choices), mean in zip(questions, means, strict=True)]


class _Told:
    """How far it is, told as each token comes: a batch may take minutes. What is kept from before counts as done."""

    def __init__(self, name: str, total: int, kept: int, notify: Callable[[Progress], None]) -> None:
        self._name, self._total, self._notify = name, total, notify
        self._message = f"{name}: answers" + (f", {kept:,} of them kept from before" if kept else "")
        self._done, self._tokens = kept, 0
        self._lock = threading.Lock()
        """Cores write side by side, and what is told must not go back."""

    def token(self, limit: int) -> Callable[[int, int], None]:
        """For one batch. Its longest answers take as long as all of it: so much of the limit is so much of the rows."""
        self._tokens = 0

        def told(row: int, token: int) -> None:
            with self._lock:
                self._tokens += 1
                self._notify(self._progress(min(self._done + self._tokens // limit, self._total)))

        return told

    def advance(self, count: int) -> Progress:
        self._done += count
        return self._progress(self._done)

    def _progress(self, done: int) -> Progress:
        return Progress("working", stage="evaluate", model=self._name, message=self._message, done=done,
                        total=self._total)  # fmt: skip
