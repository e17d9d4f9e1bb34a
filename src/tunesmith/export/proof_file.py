"""proof.json in a run's export folder: the newest proof of each file, and the sentence for one that does not hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith import files
from tunesmith.errors import CheckFailed, RunError
from tunesmith.pages.words import percent
from tunesmith.run import RunFolder

ALWAYS = ("kl", "top1", "perplexity_ratio")
"""The numbers of a proof that are shown also where they hold."""


def proof_path(folder: RunFolder) -> Path:
    return folder.export / "proof.json"


def read_proofs(folder: RunFolder) -> list[dict[str, Any]]:
    """The proofs of a run's files; empty when there are none. Raises `RunError` when the file is damaged."""
    path = proof_path(folder)
    if not path.exists():
        return []
    try:
        return files.read_json(path)
    except ValueError:
        raise RunError(f"{path} is damaged; delete it, and `tunesmith prove {folder}` measures again") from None


def keep_proof(folder: RunFolder, proof: dict[str, Any]) -> None:
    """Add a proof, in the place of an older one of the same file; those of files that are gone go too."""
    kept = [p for p in read_proofs(folder) if p["gguf"] != proof["gguf"] and (folder.export / p["gguf"]).exists()]
    files.write_json(proof_path(folder), [*kept, proof])


def broken_limits(check: dict[str, Any]) -> list[str]:
    """What a check found beyond its limits, each with its limit: "mean KL 0.31 (at most 0.12)"."""
    return [f"{broken['said']} ({broken['limit']})" for broken in check.get("broken", ())]


def said(number: str, measured: Mapping[str, Any]) -> str:
    """One of a proof's numbers as people read it; – where it was not measured."""
    if number == "perplexity_ratio":
        before, after = measured.get("perplexity_trained"), measured.get("perplexity_file")
        return "–" if before is None or after is None else f"{before:.2f} → {after:.2f}"
    value = measured.get(number)
    if value is None:
        return "–"
    return percent(value) if number == "top1" else f"{value:.1e}" if value < 1e-3 else f"{value:.3f}"


def refuse_unproved(proofs: Sequence[dict[str, Any]]) -> None:
    """Raises `CheckFailed` when one of the files is not the trained model: which number broke which limit, why, and
    what to do."""
    for proof in proofs:
        if not proof["holds"]:
            numbers = ", ".join(said for check in proof["checks"] for said in broken_limits(check))
            causes = "; ".join(cause["sentence"].rstrip(".") for cause in proof["causes"])
            why = ": ".join(part for part in (numbers, causes) if part)
            raise CheckFailed(f"{proof['gguf']} is not the model that was trained: {why or 'see proof.json'}")
