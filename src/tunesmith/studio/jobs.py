"""Work as processes of its own: the studio starts and stops them, finds them again, and they outlive it.

A process is known by its number and the time it began, which it writes into the run's lock itself (`RunFolder.lock`);
until it has come so far, or where it takes no lock, the record beside its log says which it is.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import psutil

from tunesmith import files
from tunesmith.errors import RunError
from tunesmith.machine import living_process, record_of
from tunesmith.stages.child import LOG, SAID
from tunesmith.studio.reading import changed, read_json

PROGRAM: Sequence[str] = (sys.executable, "-m", "tunesmith")
LOCK, RECORD, STOPPING = ".lock", ".process.json", ".stopping.json"
LOG_END = 64_000
"""Bytes of a log that are looked at: its end."""
END_SECONDS = 5
_starting = threading.Lock()


def start(recipe: Path, run: Path | None = None) -> None:
    """Begin or continue a run: of a recipe file in the folder ``run``, or of a run folder. Raises `RunError`."""
    begin(run or recipe, ["run", str(recipe.absolute()), "--run", str((run or recipe).absolute())])


def begin(folder: Path, arguments: Sequence[str], answer: Path | None = None) -> None:
    """Start `tunesmith ARGUMENTS`, which works in ``folder``; what it says goes to ``folder``/run.log, or its standard
    output to the file ``answer``. Raises `RunError` when something works there already."""
    with _starting:
        if running(folder):
            raise RunError(f"something is at work in {folder.name} already; stop it first, or wait until it is done")
        with files.storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / LOG).open("ab") as log, answer.open("wb") if answer else nullcontext(log) as output:
                at = log.tell()
                # A session of its own: neither Ctrl-C in the studio's terminal nor closing it reaches the process.
                process = subprocess.Popen(
                    [*PROGRAM, *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=log,
                    start_new_session=True,
                )  # fmt: skip
        threading.Thread(target=process.wait, daemon=True).start()  # or it stays behind as a zombie when it ends
        files.write_json(folder / RECORD, {**record_of(process.pid), "log": at, "arguments": list(arguments)})


def running(folder: Path) -> bool:
    """Whether a process works in this folder, whoever started it."""
    return _process(folder) is not None


def killed(folder: Path) -> bool:
    """Whether the last process that worked in this run ended without a word: its record is still in the lock."""
    record = _record(folder / LOCK)
    return bool(record) and living_process(record) is None


def doing(folder: Path) -> str:
    """The command that the studio started there last, such as "export"; empty when it started none."""
    return next(iter(_record(folder / RECORD).get("arguments", ())), "")


def stop(folder: Path) -> None:
    """As Ctrl-C does: it saves, and ends. Once asked, it is not asked again: a second Ctrl-C does not save."""
    process = _process(folder)
    if process is None:
        return
    if living_process(_record(folder / STOPPING)) == process:
        return
    files.write_json(folder / STOPPING, record_of(process.pid))
    with suppress(psutil.NoSuchProcess):  # it may be quicker
        process.send_signal(signal.SIGINT)


def end(folder: Path) -> None:
    """Stop what works there, and wait until it is gone: for what has nothing to save."""
    process = _process(folder)
    if process is None:
        return
    with suppress(psutil.NoSuchProcess):
        try:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=END_SECONDS)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(timeout=END_SECONDS)


def stopping(folder: Path) -> bool:
    """Whether what works there has been asked to stop."""
    return living_process(_record(folder / STOPPING)) is not None


def said(folder: Path) -> str:
    """The last sentence with which a process that the studio started ended, without "tunesmith: "; empty if none, or
    when a run that was begun in a terminal has gone on since."""
    if changed(folder / "progress.jsonl") > changed(folder / LOG) + 1:
        return ""
    for line in reversed(log_lines(folder)):
        if line.startswith(SAID):
            return line.removeprefix(SAID)
    return ""


def log_lines(folder: Path) -> list[str]:
    """What the process that was started last has said, its newest lines."""
    try:
        with (folder / LOG).open("rb") as log:
            end = log.seek(0, 2)
            log.seek(max(_record(folder / RECORD).get("log", 0), end - LOG_END))
            text = log.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()]


def _process(folder: Path) -> psutil.Process | None:
    return next((found for record in _records(folder) if (found := living_process(record))), None)


def _records(folder: Path) -> Iterator[Mapping[str, Any]]:
    yield _record(folder / LOCK)
    yield _record(folder / RECORD)


def _record(path: Path) -> Mapping[str, Any]:
    """Nothing where there is none, or it is only half written."""
    return read_json(path, {})
