"""EleutherAI's lm-eval on base and tuned model, where it is installed: both as the same kind of folder, asked the same.

What it measured is kept in evaluation/lm-eval.json, one entry for each set of tasks; what it said in lm-eval.log.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from tunesmith import files
from tunesmith.engines.choose import device_limits, engine_name, settled
from tunesmith.errors import EngineError, RunError
from tunesmith.export.merge import write_merged
from tunesmith.export.weights import Weights
from tunesmith.models.find import find
from tunesmith.progress import Progress
from tunesmith.run import RunFolder
from tunesmith.training.checkpoints import WEIGHTS

PACKAGE, COMMANDS = "lm_eval", ("lm_eval", "lm-eval")
INSTALL = 'pip install "lm_eval[hf]"'
KEPT = ("results", "versions", "n-shot", "n-samples", "higher_is_better", "group_subtasks", "lm_eval_version")
"""Of what it writes; the rest describes the machine and every task's prompt."""
BAR = re.compile(r"([^\r\n]*?):?\s*\d+%\|[^|]*\|\s*(\d+)/(\d+)")
"""A line of tqdm: what is done, how much of how much."""
Notify = Callable[[Progress], None]


@dataclass(frozen=True)
class Asked:
    """What is measured: ``tasks`` are names, or YAML files by their whole path; ``limit``: so many questions of each;
    ``chat``: through the model's chat template."""

    tasks: tuple[str, ...]
    limit: int | None = None
    chat: bool = False


def measure(folder: RunFolder, asked: Asked, notify: Notify = lambda _: None) -> Iterator[Progress]:
    """Measure both models; one that was measured in the same way before is not again. `entry` has the results.

    Raises `EngineError` when lm-eval is not installed or fails, `RunError` for a run that was trained on another base,
    and what merging raises.
    """
    command = _command()
    recipe = folder.recipe()
    base = find(recipe.model.name, _share(notify, f"making {recipe.model.name} ready"))
    trained = (folder.manifest().get("model") or {}).get("sha256")
    if trained and trained != base.hash:
        raise RunError(f"{folder} was trained on another model than {base.name} is now; put the old one back")
    Weights(base.folder, folder.adapter)  # no adapter, or one of another base, is said before hours of measuring
    name = engine_name(recipe.model.engine)
    dtype = {"bf16": "bfloat16", "fp32": "float32"}[settled(name, recipe.model.precision)[0]]
    fast = name == "torch" and device_limits(name)[0] is not None
    described = [files.file_hash(Path(task)) for task in asked.tasks if Path(task).is_file()]
    with folder.lock():
        files.write_text(folder.evaluation / "lm-eval.log", "")
        for model, adapter in (("base", None), ("tuned", folder.adapter)):
            weights = files.file_hash(adapter / WEIGHTS) if adapter else ""
            inputs = files.value_hash([base.hash, weights, asdict(asked), dtype, described])
            if entry(folder, asked).get("models", {}).get(model, {}).get("inputs") == inputs:
                yield Progress("measured", stage="lm-eval", model=model, message="unchanged")
                continue
            began = time.monotonic()
            with tempfile.TemporaryDirectory(prefix=".lm-eval.", suffix=".tmp", dir=folder.evaluation) as scratch:
                place = Path(scratch)
                write_merged(Weights(base.folder, adapter), base.folder, place / model,
                             on_progress=_share(notify, f"{model}: writing it for lm-eval"))  # fmt: skip
                given = _arguments(model, dtype, asked, fast=fast)
                _run([*command, *given], place, folder.evaluation / "lm-eval.log", model, notify)
                found = _results(place, folder)
            seconds = round(time.monotonic() - began, 1)
            _keep(folder, asked, model, {"inputs": inputs, "dtype": dtype, "seconds": seconds, **found})
            yield Progress("measured", stage="lm-eval", model=model, message=f"in {seconds:,.0f} s")


def entry(folder: RunFolder, asked: Asked) -> dict[str, Any]:
    """What is known of these tasks: tasks, limit, chat, "models" by name with what lm-eval wrote, and "scores", as
    `scores` makes them. Empty when nothing is."""
    return next((known for known in _entries(folder) if _is_of(known, asked)), {})


def scores(models: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One of each task and metric, base beside tuned, with lm-eval's standard errors (None where it has none).

    "part" says that the task is part of a group, which has a score of its own.
    """
    grouped = {sub for raw in models.values() for group, subs in raw.get("group_subtasks", {}).items()
               if _metrics(raw["results"].get(group, {})) for sub in subs}  # fmt: skip
    every = dict.fromkeys(
        (task, metric)
        for raw in models.values()
        for task, found in raw["results"].items()
        for metric in _metrics(found)
    )
    rows: list[dict[str, Any]] = []
    for task, key in every:
        metric, _, filtered = key.partition(",")
        raw = next(iter(models.values()))
        higher = raw.get("higher_is_better", {}).get(task) or {}
        row: dict[str, Any] = {
            "task": task, "metric": metric, "filter": filtered, "part": task in grouped,
            "higher_is_better": higher.get(metric, higher.get(key)),
            "n": raw.get("n-samples", {}).get(task, {}).get("effective"),
        }  # fmt: skip
        for model, found in models.items():
            values = found["results"].get(task, {})
            row[model] = {"score": values.get(key), "stderr": _number(values.get(f"{metric}_stderr,{filtered}"))}
        rows.append(row)
    return rows


def _metrics(found: dict[str, Any]) -> list[str]:
    """Keys such as "acc,none": a metric, and the filter that answers went through."""
    return [
        key for key, value in found.items()
        if "," in key and not key.partition(",")[0].endswith("_stderr") and _number(value) is not None
    ]  # fmt: skip


def _number(value: Any) -> float | None:
    """lm-eval writes "N/A" where it has none."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


# -- what is kept --------------------------------------------------------------------------------


def _entries(folder: RunFolder) -> list[dict[str, Any]]:
    path = folder.evaluation / "lm-eval.json"
    return files.read_json(path) if path.exists() else []


def _is_of(known: dict[str, Any], asked: Asked) -> bool:
    return all(known.get(key) == value for key, value in _named(asked).items())


def _named(asked: Asked) -> dict[str, Any]:
    return {"tasks": list(asked.tasks), "limit": asked.limit, "chat": asked.chat}


def _keep(folder: RunFolder, asked: Asked, model: str, found: dict[str, Any]) -> None:
    """Put one model's results beside the other's; those of other tasks stay."""
    models = {**entry(folder, asked).get("models", {}), model: found}
    others = [known for known in _entries(folder) if not _is_of(known, asked)]
    made = {**_named(asked), "scores": scores(models), "models": models}
    files.write_json(folder.evaluation / "lm-eval.json", [*others, made])


# -- the other program ---------------------------------------------------------------------------


def _command() -> list[str]:
    spec = importlib.util.find_spec(PACKAGE)
    if spec and spec.origin:  # a folder of that name is no package
        return [sys.executable, "-m", PACKAGE]
    for name in COMMANDS:
        if path := shutil.which(name):
            return [str(Path(path).absolute())]
    raise EngineError(f"lm-eval is not installed; install it with: {INSTALL}")


def _arguments(model: str, dtype: str, asked: Asked, *, fast: bool) -> list[str]:
    """Paths are relative to where it runs: in ``--model_args`` no comma or equals sign could be written, and "./" makes
    clear that the hub is not meant."""
    given = ["--model", "hf", "--model_args", f"pretrained=./{model},dtype={dtype}", "--tasks", ",".join(asked.tasks)]
    given += ["--output_path", "results"]
    given += ["--limit", str(asked.limit)] if asked.limit else []
    given += ["--apply_chat_template"] if asked.chat else []
    # Found by trying until memory is full, which only a graphics processor survives.
    return given + (["--batch_size", "auto"] if fast else [])


def _run(command: Sequence[str], place: Path, log: Path, model: str, notify: Notify) -> None:
    """Raises `EngineError` when it fails."""
    notify(Progress("working", stage="lm-eval", message=f"{model}: lm-eval begins"))
    with (
        log.open("ab") as said,
        subprocess.Popen(command, cwd=place, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT) as process,
    ):  # fmt: skip
        assert process.stdout is not None
        try:
            for text in _pieces(process.stdout, said):
                if bars := BAR.findall(text):
                    what, done, total = bars[-1]
                    message = f"{model}: {what.strip() or 'lm-eval'}"
                    notify(Progress("working", stage="lm-eval", message=message, done=int(done), total=int(total)))
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise EngineError(f"lm-eval failed on {model}: {_last_line(log) or f'exit status {process.returncode}'}; "
                          f"{log} has all that it said")  # fmt: skip


def _pieces(stream: IO[bytes], said: IO[bytes]) -> Iterator[str]:
    """What it says, as it says it; all of it is also written to ``said``."""
    while piece := stream.read1(65536):  # pyright: ignore[reportAttributeAccessIssue]
        said.write(piece)
        said.flush()
        yield piece.decode("utf-8", "replace")


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in re.split(r"[\r\n]+", log.read_text(encoding="utf-8", errors="replace"))]
    return next((line for line in reversed(lines) if line and not BAR.search(line)), "")


def _results(place: Path, folder: RunFolder) -> dict[str, Any]:
    """What it wrote below ``results``, whose folder it names after the model. Raises `EngineError`."""
    found = sorted((place / "results").rglob("results_*.json"))
    try:
        raw = json.loads(found[-1].read_text(encoding="utf-8"))
        if not any(_metrics(values) for values in raw["results"].values()):
            raise ValueError("there is no score in them")
    except (IndexError, KeyError, AttributeError, ValueError) as error:
        what = "wrote no results" if isinstance(error, IndexError) else f"wrote results that cannot be read ({error})"
        raise EngineError(f"lm-eval {what}; {folder.evaluation / 'lm-eval.log'} has all that it said") from None
    return {key: raw[key] for key in KEPT if key in raw}


def _share(notify: Notify, what: str) -> Callable[[float], None]:
    return lambda share: notify(Progress("working", stage="lm-eval", message=what, done=round(100 * share), total=100))
