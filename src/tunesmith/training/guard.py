"""Watches the machine while a run goes on: says what gets scarce, and pauses before it is gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tunesmith.machine import Machine, read_machine

EVERY = 5.0
"""Seconds between two looks."""
LOW_MEMORY, NO_MEMORY = 0.08, 0.02
"""Shares of memory that can still be had: say so below the first, pause below the second."""
SWAPPING = 512 << 20
"""Bytes swapped out since the run began that are worth a word: steps then wait for the disk."""
LOW_DISK, NO_DISK = 4 << 30, 1 << 30
"""Bytes of the disk, in the same way."""
NO_BATTERY = 0.1
PATIENCE = 600.0
"""Seconds that a pause lasts at most: memory that this run itself holds comes free only when it ends."""


@dataclass(frozen=True)
class Finding:
    """What gets scarce. ``pause``: going on would risk what was learned, or the whole machine."""

    what: str
    message: str
    pause: bool = False


@dataclass
class Guard:
    """``look`` says what is new; ``reading`` and ``clock`` are there for tests."""

    folder: Path
    reading: Callable[[Path], Machine] = read_machine
    clock: Callable[[], float] = time.monotonic
    wait: Callable[[float], None] = time.sleep
    _said: set[str] = field(default_factory=set)
    _swapped: int | None = None
    _looked: float | None = None

    def look(self) -> list[Finding]:
        """What was not said yet; nothing when the last look was a moment ago."""
        if self._looked is not None and self.clock() - self._looked < EVERY:
            return []
        self._looked = self.clock()
        findings = self.findings()
        new = [finding for finding in findings if finding.what not in self._said or finding.pause]
        self._said = {finding.what for finding in findings}  # what went away may be said again
        return new

    def findings(self) -> list[Finding]:
        """Everything that is scarce now."""
        now = self.reading(self.folder)
        self._swapped = now.swapped if self._swapped is None else min(self._swapped, now.swapped)
        return [f for f in (self._memory(now), self._swap(now), self._disk(now), self._power(now)) if f is not None]

    def lacking(self) -> str:
        """What forbids to go on now; empty when nothing does."""
        return next((finding.message for finding in self.findings() if finding.pause), "")

    def waiting(self) -> Iterator[str]:
        """What is waited for, every second, until it is there or patience ends."""
        end = self.clock() + PATIENCE
        while self.clock() < end and (what := self.lacking()):
            yield what
            self.wait(1.0)

    def _memory(self, now: Machine) -> Finding | None:
        left = f"{now.available / 1e9:.1f} of {now.memory / 1e9:.1f} GB of memory are left"
        if now.pressure == "critical" or now.available < NO_MEMORY * now.memory:
            return Finding("memory", f"{left}: close other programs", pause=True)
        if now.pressure == "warning" or now.available < LOW_MEMORY * now.memory:
            return Finding(
                "low memory", f"{left}; other programs take the rest, and soon steps would wait for the disk"
            )
        return None

    def _swap(self, now: Machine) -> Finding | None:
        grown = now.swapped - (self._swapped or 0)
        if grown < SWAPPING:
            return None
        return Finding("swap", f"{grown / 1e9:.1f} GB were swapped out since this began, so that steps wait for the "
                       "disk; close other programs, or stop and give a smaller train.micro_batch")  # fmt: skip

    def _disk(self, now: Machine) -> Finding | None:
        left = f"{now.disk_free / 1e9:.1f} GB are free on the disk of {self.folder}"
        if now.disk_free < NO_DISK:
            return Finding("disk", f"{left}: free some", pause=True)
        return Finding("low disk", left) if now.disk_free < LOW_DISK else None

    def _power(self, now: Machine) -> Finding | None:
        if now.battery is None:
            return None
        if now.battery < NO_BATTERY:
            return Finding("battery", f"{now.battery:.0%} are left in the battery: plug it in", pause=True)
        return Finding(
            "on battery", f"this runs on battery, with {now.battery:.0%} left; it pauses at {NO_BATTERY:.0%}"
        )
