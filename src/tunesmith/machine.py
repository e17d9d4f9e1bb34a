"""What this machine has left: memory, disk, battery. Every reading is a small function that tests can feed."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

SAME_SECONDS = 2.0
"""The system's clock is set right now and then, and a process's age is counted by it."""
Pressure = Literal["normal", "warning", "critical"]
_PRESSURES: dict[str, Pressure] = {"1": "normal", "2": "warning", "4": "critical"}


@dataclass(frozen=True)
class Machine:
    """Bytes, but for ``battery``: the share that is left in it (0 to 1) when nothing else feeds the machine."""

    memory: int
    available: int
    """What programs can still have without anything being swapped out."""
    swapped: int
    disk_free: int
    battery: float | None = None
    pressure: Pressure = "normal"
    """The system's own judgment, where it has one (macOS)."""


def read_machine(folder: Path) -> Machine:
    """How things stand now; the disk is that of ``folder``, or of where it would be made."""
    memory = psutil.virtual_memory()
    while not folder.exists():
        folder = folder.absolute().parent
    return Machine(
        memory.total, memory.available, _swapped(), shutil.disk_usage(folder).free, _battery(), _pressure(sys.platform)
    )


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def within_reach() -> int:
    """Bytes that this process may have in all: what it holds, and what can still be had."""
    return psutil.virtual_memory().available + psutil.Process().memory_info().rss


def record_of(pid: int) -> dict[str, float]:
    """What `living_process` knows a process by; of one that has ended already nothing is found by it."""
    try:
        return {"pid": pid, "created": psutil.Process(pid).create_time()}
    except psutil.Error:
        return {"pid": pid, "created": 0.0}


def living_process(record: Any) -> psutil.Process | None:
    """The process of that record if it still lives, and is not another one that was given the same number since."""
    try:
        process = psutil.Process(int(record["pid"]))
        same = abs(process.create_time() - record["created"]) < SAME_SECONDS
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.Error, KeyError, TypeError, ValueError, OverflowError):
        return None


def size(count: float) -> str:
    """Bytes as 2.1 GB, 340 MB, 12 kB; the smallest file as 1 kB."""
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{math.ceil(count / 1e3)} kB"


def _swapped() -> int:
    try:
        return psutil.swap_memory().used
    except (OSError, RuntimeError):  # some containers hide it
        return 0


def _battery() -> float | None:
    try:
        battery = psutil.sensors_battery()
    except (AttributeError, OSError, RuntimeError, ValueError):  # not every system tells
        return None
    return None if battery is None or battery.power_plugged is not False else battery.percent / 100


def _pressure(system: str) -> Pressure:
    if system != "darwin":
        return "normal"
    ask = ["sysctl", "-n", "kern.memorystatus_vm_pressure_level"]
    try:
        said = subprocess.run(ask, capture_output=True, text=True, timeout=2, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return "normal"
    return _PRESSURES.get(said.strip(), "normal")
