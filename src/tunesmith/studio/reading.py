"""Reading what may be missing or damaged: pages over many runs do not fail for one of them."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from tunesmith import files

T = TypeVar("T")


def read_json(path: Path, otherwise: T) -> T:
    """What stands in a file; ``otherwise`` where it is missing, damaged, or of another kind."""
    try:
        found = files.read_json(path)
    except (OSError, ValueError):
        return otherwise
    return found if isinstance(found, type(otherwise)) else otherwise


def changed(path: Path) -> float:
    """When a file was written last, in seconds since 1970; 0 where there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
