"""The stage "teach": sources -> questions and answers of a bigger model, in the run's folder ``teacher``.

journal.jsonl   every request that was answered; what is in it is never asked again
rows.jsonl      what is learned, each with file, line and heading
held-out.jsonl  questions about the same facts in other words, to measure with
quarantine.jsonl  what became no row: why, and the reply
report.json     the account of all questions
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from tunesmith import files
from tunesmith.errors import TeacherError
from tunesmith.progress import Progress
from tunesmith.settings import TeacherSettings
from tunesmith.teacher import local
from tunesmith.teacher.asking import Asking, Budget
from tunesmith.teacher.client import Client, key_of
from tunesmith.teacher.context import refuse_too_small
from tunesmith.teacher.crew import Crew, in_order
from tunesmith.teacher.gather import Gathering
from tunesmith.teacher.journal import Journal
from tunesmith.teacher.plan import Estimate, answers, estimate, first_round
from tunesmith.teacher.prompts import Prompts
from tunesmith.teacher.teaching import Teaching
from tunesmith.teacher.units import Found, Item, Lost, Taught, Unit

EVERY = 1.0
"""Seconds between two events that say how far it is."""


class Teacher:
    """One call of `teach`. ``start``: where the paths of sources begin; ``folder``: the run's folder for it."""

    def __init__(self, settings: TeacherSettings, start: Path, folder: Path, stop: Callable[[], bool]) -> None:
        self.settings, self.start, self.folder, self._stop = settings, start, folder, stop
        self.stopped = False
        """Whether a person asked to stop before everything was asked."""
        self._halt = threading.Event()
        self._open = ExitStack()
        self._latest = ("", "")
        self._failed = 0

    def run(self) -> Iterator[Progress]:
        """Ask, then write. Raises `TeacherError` when the teacher cannot be used, or nothing came of it."""
        prompts = Prompts(self.settings.prompts)
        with self._open:
            self.journal = Journal(self.folder / "journal.jsonl")
            self._open.callback(self.journal.close)
            self.budget = Budget(self.settings, self.journal)
            self.asking = Asking(self.journal, self.budget, self._connect)
            self.teaching = Teaching(self.settings, prompts, self._model)
            known = self._known = estimate(self.teaching, self.start, 0)
            yield from self._ask(first_round(self.teaching, self.start), known.units, known.requests)
            if self.settings.way == "topics" and not self._halted:
                found = list(self._found())
                yield from self._ask(answers(self.teaching, iter(found)), len(found), len(found))
            self.stopped = self._stop()
            if self.stopped:
                return
            yield from self._write()

    # -- the teacher -----------------------------------------------------------------------------

    @cached_property
    def _gguf(self) -> Path:
        return local.gguf_file(self.settings)

    @cached_property
    def _client(self) -> Client:
        """A client of the server that is named; one of llama.cpp's when a file is."""
        url = self.settings.url or self._open.enter_context(local.served(self._gguf, self.settings, self._known.need))
        client = Client(url, self.settings, self._halt, key_of(self.settings.key) if self.settings.url else None)
        self._open.callback(client.close)
        return client

    @cached_property
    def _model(self) -> str:
        if self.settings.gguf:
            return local.gguf_name(self._gguf)
        return self.settings.model or self._client.only_model()

    def _connect(self) -> Client:
        client = self._client
        for model in filter(None, (self._model, self.settings.judge)):
            client.probe(model)
            if self.settings.url:
                refuse_too_small(client.context(model), f"{model} at {client.url}", self._known.need)
        return client

    # -- asking ----------------------------------------------------------------------------------

    @property
    def _halted(self) -> bool:
        return self._stop() or bool(self.budget.spent)

    def _ask(self, units: Iterator[Unit], total: int, requests: int) -> Iterator[Progress]:
        """Have every unit done. total: of units; requests: how many are expected."""
        before = self.asking.answered + self.asking.recalled
        crew = Crew(units, self.asking, self.settings.parallel, self._heard)
        told = time.monotonic() - EVERY
        for _ in crew.run(self._halt):
            if self._stop():
                self._halt.set()
            if time.monotonic() - told >= EVERY:
                told = time.monotonic()
                yield self._progress(crew, before, total, requests)
        yield self._progress(crew, before, total, requests)
        if self.budget.spent:
            limit = f"teacher.{self.budget.spent}"
            yield Progress("note", stage="teach", message=f"the budget is spent ({limit}); what is there is written")

    def _heard(self, items: list[Item]) -> None:
        """In any thread: what came of a unit."""
        for item in items:
            if isinstance(item, Taught):
                self._latest = (item.wordings[0], item.answer)
            elif isinstance(item, Lost):
                self._failed += 1

    def _progress(self, crew: Crew, before: int, total: int, requests: int) -> Progress:
        asking, journal = self.asking, self.journal
        done = asking.answered + asking.recalled - before
        expected = requests
        if crew.finished >= min(total, 2 * self.settings.parallel):
            expected = round(done * total / crew.finished)  # as many for each as so far
        if self.settings.most_requests is not None:
            expected = min(expected, done + max(0, self.settings.most_requests - len(journal)))
        left, seconds, speed = max(0, expected - done), None, None
        if asking.began is not None and asking.answered:
            elapsed = time.monotonic() - asking.began
            seconds, speed = left * elapsed / asking.answered, asking.tokens_out / max(elapsed, 1e-6)
        spent = self.budget.money(journal.tokens_in, journal.tokens_out)
        money = None
        if spent:
            money = left * spent / len(journal)
            if (most := self.settings.most_money) is not None:
                money = max(0.0, min(money, most - spent))
        return Progress(
            "asked", stage="teach", done=done, total=max(done, expected), failed=self._failed, tokens_per_second=speed,
            seconds_left=seconds, spent=spent or None, money_left=money, question=self._latest[0],
            answer=self._latest[1],
        )  # fmt: skip

    def _found(self) -> Iterator[Any]:
        """The questions that topics led to, in the plan's order."""
        for _, items in in_order(first_round(self.teaching, self.start), self.asking.only_recall):
            yield from (item.line for item in items or () if isinstance(item, Found))

    # -- writing ---------------------------------------------------------------------------------

    def _write(self) -> Iterator[Progress]:
        yield Progress("working", stage="teach", message="comparing what was written")
        scratch = Path(tempfile.mkdtemp(prefix=".teacher.", suffix=".tmp", dir=self.folder))
        try:
            gathering = Gathering(scratch, scratch)
            self._open.callback(gathering.close)
            for unit, items in in_order(self._plan(gathering), self.asking.only_recall):
                gathering.take(unit, items)
            gathering.finish()
            gathering.close()
            report = self._report(gathering)
            for name in ("rows.jsonl", "held-out.jsonl", "quarantine.jsonl"):
                (scratch / name).replace(self.folder / name)
            files.write_json(self.folder / "report.json", report)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        refuse_nothing(report, self.folder)

    def _plan(self, gathering: Gathering) -> Iterator[Unit]:
        """All units of all rounds, once more; what is wrong with the sources is told this time."""
        firsts = first_round(self.teaching, self.start, gathering.unread, gathering.lose)
        if self.settings.way != "topics":
            return firsts
        return chain(firsts, answers(self.teaching, self._found(), gathering.lose))

    def _report(self, gathering: Gathering) -> dict[str, Any]:
        journal = self.journal
        return {
            "way": self.settings.way,
            "model": self._model,
            **gathering.account(),
            "replies": len(journal),
            "tokens": {"in": journal.tokens_in, "out": journal.tokens_out},
            "money": round(self.budget.money(journal.tokens_in, journal.tokens_out), 6),
            "spent": self.budget.spent,
        }


def refuse_nothing(report: dict[str, Any], folder: Path) -> None:
    """Raises `TeacherError` when no row came out."""
    if report["rows"]:
        return
    faults = Counter(report["quarantined"]) + Counter(report["dropped"])
    for about in report["asked_about"].values():
        faults += Counter(about["lost"])
    del faults["almost no text"]  # which was not asked for
    why = f"most of what was asked for: {faults.most_common(1)[0][0]}" if faults else "there was nothing to ask"
    raised = ""
    if spent := report["spent"]:
        why, raised = f"the budget (teacher.{spent}) was spent before", f"raise teacher.{spent}, or "
    raise TeacherError(
        f"the teacher gave no row that can be used; {why}. Look at {folder / 'quarantine.jsonl'}, and {raised}name "
        "a better model or other sources"
    )


def dry_run(settings: TeacherSettings, start: Path, folder: Path) -> tuple[Estimate, float, int]:
    """What would be asked: (estimate, money that it costs, replies that are there already). Asks nothing."""
    model = settings.model or (local.gguf_name(local.gguf_file(settings)) if settings.gguf else "")
    known = estimate(Teaching(settings, Prompts(settings.prompts), model), start)
    money = (known.tokens_in * settings.price.input + known.tokens_out * settings.price.output) / 1e6
    path = folder / "journal.jsonl"
    replies = 0
    if path.exists():
        with path.open("rb") as file:
            replies = sum(1 for _ in file)
    return known, money, replies
