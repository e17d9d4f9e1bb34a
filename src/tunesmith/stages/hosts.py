"""Where the processes of one training are: so many on this machine, or on the hosts of a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import RecipeError


@dataclass(frozen=True)
class Hosts:
    """``slots``: processes of each host, by name. ``here`` is this machine; on the first one are the run and the
    terminal that shows it."""

    slots: dict[str, int]
    here: str

    @property
    def names(self) -> list[str]:
        return list(self.slots)

    @property
    def first(self) -> bool:
        return self.here == self.names[0]

    @property
    def processes(self) -> int:
        """On this machine."""
        return self.slots[self.here]


def on_this_machine(processes: int) -> Hosts | None:
    """None for one process, which needs no launcher."""
    return Hosts({"localhost": processes}, "localhost") if processes > 1 else None


def read_hosts(path: Path, here: str | None) -> Hosts:
    """A file with a host on each line, as ``node1 slots=2``; one slot where nothing is said, and # begins a comment.
    The first line is this machine unless ``here`` names another. Raises `RecipeError`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read ({error}); give a file with a host on each line") from None
    slots: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        name, count = words[0], "".join(words[1:]).removeprefix("slots=") or "1"
        if not count.isdecimal() or int(count) < 1 or name in slots:
            why = "this host is there twice" if name in slots else "a line is a host's name, and slots=2 behind it"
            raise RecipeError(f"{path}, line {number}: {line.strip()!r} cannot be used: {why}")
        slots[name] = int(count)
    if not slots:
        raise RecipeError(f"{path} names no host; write one on each line, as in: node1 slots=2")
    if here is not None and here not in slots:
        raise RecipeError(f"{path} names no host {here}; it names {', '.join(slots)}")
    return Hosts(slots, here or next(iter(slots)))
