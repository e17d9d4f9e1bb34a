"""What a model would see of the data, what is wrong with it, and whether the training fits."""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tunesmith import files
from tunesmith.progress import Progress
from tunesmith.run import RunFolder
from tunesmith.settings import Recipe
from tunesmith.stages.fitting import examine
from tunesmith.stages.measuring import refuse_bad_tasks
from tunesmith.stages.work import Notify, Work


@dataclass(frozen=True)
class Sample:
    """One row as the model will see it: (text, learned, special) of every token."""

    origin: str
    tokens: list[tuple[str, bool, bool]]
    question: str = ""
    """What the row asks first; empty: it is text that nobody asks for."""


@dataclass(frozen=True)
class Check:
    """What `check` found."""

    report: dict[str, Any]
    samples: list[Sample]
    fit: Any = None
    """`training.fit.Fit`, unless the recipe says not to look, or there is nothing to train on."""


def check(recipe: Recipe, rows: int = 3, show: Notify = lambda _: None) -> Check:
    """Read, clean and tokenize everything; train nothing, and leave nothing behind."""
    from tunesmith.dataset import prepare

    work = Work(RunFolder(Path()), recipe, lambda: False, show)
    refuse_bad_tasks(work)
    with tempfile.TemporaryDirectory(prefix="tunesmith-") as scratch:
        dataset = Path(scratch) / "dataset"
        for progress in prepare.prepare(recipe.data, work.model.folder, dataset, cluster=recipe.cluster.address):
            show(progress)
        tokens, read = prepare.tokens(dataset, "train"), list(islice(prepare.read(dataset, "train"), rows))
        shown = [_sample(work.chat, read[row], *tokens[i]) for i, row in enumerate(tokens.rows[:rows])]
        fit = None
        if recipe.train.fit != "off":
            fit = _told(examine(work, dataset), show)
        return Check(files.read_json(dataset / "report.json"), shown, fit)


def _told(steps: Generator[Progress, None, Any], show: Notify) -> Any:
    """What the steps return, each of them shown."""
    while True:
        try:
            show(next(steps))
        except StopIteration as end:
            return end.value


def _sample(chat: Any, row: Any, ids: Any, learn: Any) -> Sample:
    from tunesmith.dataset.tokens import seen

    return Sample(
        str(row.origin), seen(chat, ids, learn), next((m.content for m in row.messages if m.role == "user"), "")
    )
