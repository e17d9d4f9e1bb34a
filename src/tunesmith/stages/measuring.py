"""The stage "evaluate": which models are measured, on what, and where the results go."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith import files
from tunesmith.errors import OutOfMemory, SourceError
from tunesmith.progress import Progress
from tunesmith.settings import EvaluateSettings, LossTask, Recipe
from tunesmith.stages import outcome

if TYPE_CHECKING:
    from tunesmith.stages.work import Work

NO_TEST_ROWS = "there are no test rows; raise data.split.test, or name a file there, before the next training"


def measure(work: Work) -> Iterator[Progress]:
    """Base, checkpoints and tuned model on the test rows; what an earlier start has measured is not measured again."""
    from tunesmith.dataset import prepare
    from tunesmith.evaluation.evaluate import TRAINED, Evaluation, Rows
    from tunesmith.evaluation.report import write_report
    from tunesmith.evaluation.verdict import verdict

    work.need("train", "trained")
    folder, recipe = work.folder, work.recipe
    test = Rows(list(prepare.read(folder.dataset, "test")), prepare.tokens(folder.dataset, "test"))
    if not test.examples:
        raise SourceError(f"{folder}: {NO_TEST_ROWS}")
    settings, left_out = affordable(work, int(test.tokens.lengths.max(initial=0)))
    models = candidates(work, settings)
    if left_out:
        yield Progress("note", stage="evaluate", message=left_out)
    if "loss" not in {task.kind for task in settings.tasks}:
        engine, prefix = work.engine, None
    else:  # the whole model is opened only where it is needed: it may not fit
        rows = [test.tokens[i][0] for i in range(len(test.tokens))]
        engine, prefix = yield from work.prefixed("evaluate", lambda: (rows, len(models)), whole=_asks(settings))
        if work.stopped:
            return
    evaluation = Evaluation(
        engine, work.chat, settings, recipe.folder(), folder.evaluation, test,
        prepare.tokens(folder.dataset, "train").spread(TRAINED), lambda: prepare.read(folder.dataset, "train"),
        work.inputs("prepare"), lambda: documents(work), prefix, work.heard,
    )  # fmt: skip
    yield from evaluation.run(models)
    if left_out:
        evaluation.results[0]["left_out"] = left_out
    files.write_jsonl(folder.evaluation / "samples.jsonl", evaluation.samples)
    files.write_json(folder.evaluation / "results.json", evaluation.results)
    about = {"base": recipe.model.name, "date": time.strftime("%Y-%m-%d %H:%M"), "rows": outcome.report(folder)["rows"],
             "settings": told(recipe)}  # fmt: skip
    write_report(
        folder.evaluation, folder.path.name, evaluation.results, evaluation.samples, list(folder.events()), about,
        verdict(evaluation.results),
    )  # fmt: skip


def affordable(work: Work, longest: int) -> tuple[EvaluateSettings, str]:
    """What of recipe.evaluate this machine's memory allows for rows of at most ``longest`` tokens: no more answers at
    once than fit, and none where the whole model does not, for the top layers of a model are trained and its loss is
    measured in less. Then also what was left out, and why. Raises `OutOfMemory` when nothing is left to measure."""
    from tunesmith.engines.room import room_for
    from tunesmith.evaluation.retrieval import PASSAGE

    settings, model = work.recipe.evaluate, work.recipe.model
    if not _asks(settings):
        return settings, ""
    tokens = longest + settings.retrieval * PASSAGE + settings.max_new_tokens
    room = room_for(work.arch, model.engine, model.precision, tokens)
    if not room.lacking:
        return settings.model_copy(update={"batch": min(settings.batch, room.texts)}), ""
    losses = [task for task in settings.tasks if task.kind == "loss"]
    asked = [task.kind for task in settings.tasks if task.kind != "loss"]
    asked += ["what was forgotten"] if settings.forgetting else []
    if not losses:
        raise OutOfMemory(f'{room.lacking}; add "loss" to evaluate.tasks, which takes less, or choose a smaller model')
    less = {"tasks": losses, "forgetting": False, "retrieval": 0}
    return settings.model_copy(update=less), (
        f"{room.lacking}: not measured are {', '.join(asked)}; where more memory is free, "
        f"tunesmith evaluate {shlex.quote(str(work.folder.path))} --fresh measures all"
    )


def _asks(settings: EvaluateSettings) -> bool:
    """Whether answers are wanted, and not losses alone."""
    return settings.forgetting or any(task.kind != "loss" for task in settings.tasks)


def refuse_bad_tasks(work: Work) -> None:
    """Raises what an evaluation would raise at its start: a file or a judge that is not there is said before hours of
    training, and not after them."""
    from tunesmith.evaluation.tasks.judge import Judge
    from tunesmith.evaluation.tasks.open import open_task

    for settings in work.recipe.evaluate.tasks:
        if not isinstance(settings, LossTask):
            task = open_task(settings, work.recipe.folder(), work.folder.evaluation)
            if isinstance(task, Judge):
                task.ready()
    affordable(work, work.recipe.data.max_tokens)


def told(recipe: Recipe) -> dict[str, Any]:
    """The settings that a reader of the report asks for first."""
    train = recipe.train
    return {
        "train.layers": train.layers, "train.lora.rank": train.lora.rank, "train.epochs": train.epochs,
        "train.batch": train.batch, "train.learning_rate": train.learning_rate,
        "data.max_tokens": recipe.data.max_tokens, "evaluate.max_new_tokens": recipe.evaluate.max_new_tokens,
    }  # fmt: skip


def forget(work: Work) -> None:
    """Let go of what was measured: all of it is measured again."""
    from tunesmith.evaluation.kept import KEPT

    (work.folder.evaluation / KEPT).unlink(missing_ok=True)


def candidates(work: Work, settings: EvaluateSettings) -> list[Any]:
    """What is measured, the base first."""
    from tunesmith.evaluation.evaluate import Candidate
    from tunesmith.training.checkpoints import WEIGHTS, Checkpoints, read_adapter

    def adapter(name: str, path: Path, *, asked: bool = True, documents: bool = False) -> Candidate:
        return Candidate(name, files.file_hash(path / WEIGHTS), lambda: read_adapter(path)[0], asked, documents)

    tuned = work.folder.adapter
    checkpoints = Checkpoints(work.folder.checkpoints)
    steps = checkpoints.milestones() if settings.checkpoints else []
    found = [Candidate("base", work.model.hash, None, asked=True)]
    found += [adapter(f"step-{step:06d}", checkpoints.path(step), asked=False) for step in steps]
    found.append(adapter("tuned", tuned))
    if settings.retrieval:
        found.insert(1, Candidate("base+retrieval", work.model.hash, None, asked=True, documents=True))
        found.append(adapter("tuned+retrieval", tuned, documents=True))
    return found


def documents(work: Work) -> Iterator[Any]:
    """What passages are looked for in: the documents that a teacher was given, else the training rows."""
    from tunesmith.dataset import prepare
    from tunesmith.evaluation.retrieval import document_of
    from tunesmith.sources.document import Document, Unread
    from tunesmith.sources.documents import read_later
    from tunesmith.sources.read import read_source

    recipe = work.recipe
    if not recipe.teacher.is_set or recipe.teacher.way != "documents":
        yield from map(document_of, prepare.read(work.folder.dataset, "train"))
        return
    for source in recipe.teacher.sources:
        for item in read_source(source, recipe.folder()):
            document = read_later(item) if isinstance(item, Unread) else item
            if isinstance(document, Document):
                yield document


def task_files(work: Work) -> list[Path]:
    """Files whose change makes a measurement be done again."""
    from tunesmith.evaluation.tasks.open import files_of

    return [path for task in work.recipe.evaluate.tasks for path in files_of(task, work.recipe.folder())]
