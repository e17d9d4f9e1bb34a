"""One run of a sweep as a process of its own: started, followed through its progress.jsonl, asked to stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tunesmith.progress import Progress
from tunesmith.run import RunFolder

LOG = "run.log"
"""In the run's folder: what the process said, over all starts."""
SAID, BUG = "tunesmith: ", "this is a bug in tunesmith"
"""How the command begins its one sentence, and the one of an error that is ours."""
INTERRUPTED = (130, -signal.SIGINT)


def command(folder: RunFolder) -> Sequence[str]:
    """What does every stage of a run that has its recipe."""
    return [sys.executable, "-m", "tunesmith", "run", str(folder), "--json"]


class Child:
    """``threads``: how many the process may compute with; None: all."""

    def __init__(self, folder: RunFolder, threads: int | None = None) -> None:
        self.log = folder.path / LOG
        self._news = Tail(folder.path / "progress.jsonl")
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ} if threads else None
        with self.log.open("ab") as log:
            self._start = log.tell()
            # Ctrl-C in a terminal goes to a whole group: in one of its own the process hears it once, from us.
            self.process = subprocess.Popen(
                command(folder), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, process_group=0
            )

    def news(self) -> Iterator[Progress]:
        """What happened in the run since the last call."""
        return self._news.read()

    def status(self) -> int | None:
        """The exit status, negative for a signal; None while it works."""
        return self.process.poll()

    def interrupt(self) -> None:
        """As Ctrl-C does: it saves, and ends."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)

    def end(self) -> None:
        """At once; what it saved before is kept."""
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait()

    def sentence(self) -> str:
        """Why it failed."""
        status = self.process.returncode
        if status < 0:
            cause = "; most likely memory ran out" if status == -signal.SIGKILL else ""
            return f"it was ended from outside (signal {-status}){cause}; {self.log} has what it said"
        with self.log.open("rb") as log:
            log.seek(self._start)
            lines = [line.strip() for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
        said = next((line.removeprefix(SAID) for line in reversed(lines) if line.startswith(SAID)), "")
        if said and not said.startswith(BUG):
            return said
        cause = next((line for line in reversed(lines) if not line.startswith(SAID)), f"exit status {status}")
        return f"{cause} (this is a bug in tunesmith: {self.log} has the lines to report)"


class Tail:
    """Reads the lines that are added to a progress.jsonl from now on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._at = path.stat().st_size if path.exists() else 0

    def read(self) -> Iterator[Progress]:
        """Whole lines only: the last one may still be written."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._at)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._at += len(whole) + len(newline)
        for line in whole.split(b"\n"):
            try:
                yield Progress.from_json(json.loads(line))
            except (ValueError, TypeError):  # what a killed process left, or nothing
                continue
