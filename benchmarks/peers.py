"""Whom tunesmith is measured beside, each in an environment of its own under .peers/, and how a program is run."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE / ".peers"


@dataclass(frozen=True)
class Program:
    """Something that trains. ``script`` takes MODEL_FOLDER ROWS.json SETTINGS.json and prints one JSON object; without
    ``packages`` it runs in the environment of tunesmith itself. ``engine`` says which of ours it is measured beside."""

    name: str
    script: str
    engine: str
    packages: tuple[str, ...] = ()

    @property
    def short(self) -> str:
        return self.script.removesuffix("_peer.py").replace("_", "-")


OWN = {
    "torch": Program("tunesmith", "own.py", "torch"),
    "mlx": Program("tunesmith, mlx", "own.py", "mlx"),
}
PEERS = (
    Program("TRL + PEFT", "trl_peer.py", "torch",
            ("torch==2.13.0", "trl==1.16.0", "peft", "transformers", "datasets")),
    Program("LLaMA-Factory", "llamafactory_peer.py", "torch", ("torch==2.13.0", "llamafactory==0.9.5")),
    Program("mlx-lm", "mlx_lm_peer.py", "mlx", ("mlx[cpu]", "mlx-lm")),
)  # fmt: skip


class Failed(Exception):
    """A peer that cannot be measured, and why, in one line."""


def python_of(program: Program) -> str:
    """The python that runs it; its environment is made with plain pip the first time. Raises `Failed`."""
    if not program.packages:
        return sys.executable
    home = FOLDER / program.short
    python = str(home / "bin" / "python")
    wanted = "\n".join(program.packages)
    done = home / ".done"
    if not done.exists() or done.read_text() != wanted:
        print(f"making {home.relative_to(HERE.parent)} ...", file=sys.stderr, flush=True)
        call([sys.executable, "-m", "venv", str(home)])
        call([python, "-m", "pip", "install", "--quiet", *program.packages])
        done.write_text(wanted)
    return python


def call(command: list[str], environment: dict[str, str] | None = None) -> str:
    """What it prints. Raises `Failed` with the last line it had to say."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
    except OSError as error:
        raise Failed(str(error)) from None
    if done.returncode < 0:
        raise Failed(f"ended by signal {-done.returncode}")
    if done.returncode:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [line for line in said if line.startswith("ERROR:")]  # pip's; behind it come notices
        raise Failed((errors or said or [f"ended with {done.returncode}"])[-1][:200])
    return done.stdout


def versions(program: Program) -> dict[str, str]:
    """Of what it is made of."""
    names = ["torch", "transformers", "trl", "peft", "llamafactory", "mlx", "mlx-lm"]
    code = (
        "import importlib.metadata as m, json\nfound = {}\n"
        f"for name in {names}:\n try: found[name] = m.version(name)\n except m.PackageNotFoundError: pass\n"
        "print(json.dumps(found))"
    )
    return json.loads(call([python_of(program), "-c", code]))


def run(program: Program, model: Path, rows: dict, settings: dict, folder: Path) -> dict:
    """One training's result, with the cores that other work on this machine took meanwhile. Raises `Failed`."""
    python = python_of(program)
    folder.mkdir(parents=True, exist_ok=True)
    rows_file, settings_file = folder / "rows.json", folder / "settings.json"
    rows_file.write_text(json.dumps(rows))
    settings_file.write_text(json.dumps({**settings, "engine": program.engine, "out": str(folder / "out")}))
    environment = {
        **os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "datasets"),
        "TUNESMITH_CACHE": str(folder / "cache"),  # nothing is kept from round to round
    }  # fmt: skip
    busy = _Busy()
    said = call([python, str(HERE / program.script), str(model), str(rows_file), str(settings_file)], environment)
    result = json.loads(said.strip().splitlines()[-1])
    return {**result, "other_cores": busy.others()}


class _Busy:
    """How many cores other processes kept busy since this was made; Linux only."""

    def __init__(self) -> None:
        self._began, self._all, self._mine = time.monotonic(), self._machine(), self._children()

    def others(self) -> float | None:
        everyone = self._machine()
        if self._all is None or everyone is None:
            return None
        mine = self._children() - self._mine
        return max(0.0, (everyone - self._all - mine) / (time.monotonic() - self._began))

    @staticmethod
    def _machine() -> float | None:
        """Seconds that all cores together were busy, or taken by the machine's host."""
        try:
            user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
        except OSError:
            return None
        return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")

    @staticmethod
    def _children() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime
