"""What the stages of a run have left: its report, results and proofs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith import files
from tunesmith.errors import RunError
from tunesmith.export.proof_file import read_proofs
from tunesmith.run import RunFolder


def proofs(folder: RunFolder) -> list[dict[str, Any]]:
    """The proofs of an exported run's files; empty when there are none."""
    return read_proofs(folder)


def report(folder: RunFolder) -> dict[str, Any]:
    """The dataset report of a prepared run."""
    return _read(folder, folder.dataset / "report.json", "prepared")


def results(folder: RunFolder) -> list[dict[str, Any]]:
    """The measured models of an evaluated run, base first."""
    return _read(folder, folder.evaluation / "results.json", "evaluated")


def _read(folder: RunFolder, path: Path, done: str) -> Any:
    try:
        return files.read_json(path)
    except FileNotFoundError:
        raise RunError(f"{folder} is not {done} yet; `tunesmith run` does every stage") from None
