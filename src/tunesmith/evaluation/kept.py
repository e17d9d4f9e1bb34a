"""What one evaluation has measured so far, kept so that the next start goes on behind it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tunesmith import files

KEPT = "kept.jsonl"


class Kept:
    """Values by key, appended to ``path`` as they come: one ``{"key": …, "value": …}`` a line.

    A last line that a crash has torn is taken off; a line that cannot be read is measured again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._values: dict[str, Any] = {}
        whole = 0
        if path.exists():
            with path.open("rb") as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    whole += len(line)
                    self._take(line)
            if path.stat().st_size > whole:
                os.truncate(path, whole)

    def _take(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            self._values[row["key"]] = row["value"]
        except (ValueError, TypeError, KeyError):
            return

    @staticmethod
    def key(*parts: Any) -> str:
        """The hash of everything that decides a value."""
        return files.value_hash(list(parts))

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def add(self, values: dict[str, Any]) -> None:
        """Keep these together. Raises `StorageError` when the disk is full."""
        self._values |= values
        lines = b"".join(files.json_line({"key": key, "value": value}) for key, value in values.items())
        with files.storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(lines)
