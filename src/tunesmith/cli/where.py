"""Where the processes of one training are, as the command line says it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.cli.edge import UsageError

if TYPE_CHECKING:
    from tunesmith.stages.hosts import Hosts


@dataclass(frozen=True)
class Where:
    """``--processes``, ``--hosts`` and ``--here``."""

    processes: int = 1
    file: Path | None = None
    here: str | None = None

    def hosts(self) -> Hosts | None:
        """None for this process alone. Raises `UsageError` for what does not go together, and `RecipeError`."""
        from tunesmith.stages.hosts import on_this_machine, read_hosts

        if self.file is None:
            if self.here is not None:
                raise UsageError("--here names a host of the file that --hosts gives; give that too")
            return on_this_machine(self.processes)
        if self.processes > 1:
            raise UsageError("--processes is for this machine alone; with --hosts write slots=N in the file")
        return read_hosts(self.file, self.here)
