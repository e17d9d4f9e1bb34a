"""Which rows stay, and where: decided over the keys of all rows at once."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from tunesmith.settings import CleanSettings

SHOWN = 50
"""Of each kind of finding so many are in the report with their text; all are counted."""

KEEP, DUPLICATE, NEAR, CONFLICT, BAD, REFUSED = range(6)
"""What became of a row. `REFUSED` by the template or for want of room: in quarantine; the others but `KEEP`
are in removed.jsonl, with these reasons."""

REASONS = {
    DUPLICATE: "repeats another row exactly",
    NEAR: "is almost another row",
    CONFLICT: "its question has other answers too",
    BAD: "marked as an answer not to give",
}


@dataclass
class Decisions:
    """fate int8 [rows]: `KEEP` or why not; part int8 [rows]: index into `PARTS`; twin int64 [rows]: the
    row that a removed one repeats, or -1. The lists are what the report shows."""

    fate: np.ndarray
    part: np.ndarray
    twin: np.ndarray
    questions: int = 0
    """That have several answers."""
    answers: int = 0
    """Rows of these questions."""
    conflicts: list[np.ndarray] = field(default_factory=list)
    """Rows of the `SHOWN` questions that have the most answers, the most first."""
    leaks: list[tuple[int, int]] = field(default_factory=list)
    """(measured, trained or validated) rows that ask the same on two sides."""

    @property
    def kept(self) -> np.ndarray:
        """Indices of the rows that stay."""
        return np.flatnonzero(self.fate == KEEP)


def decide(keys: np.ndarray, part: np.ndarray, clean: CleanSettings) -> Decisions:
    """Exact duplicates, conflicting answers, leaks; near-duplicates are found later, over what stays."""
    made = Decisions(np.zeros(len(keys), np.int8), part, np.full(len(keys), -1, np.int64))
    made.fate[keys["bad"]] = BAD
    if clean.duplicates == "drop":
        for rows in _alike(keys["content"], first_measured(made)):
            made.fate[rows[1:]], made.twin[rows[1:]] = DUPLICATE, rows[0]
    _find_conflicts(made, keys, clean)
    return made


def first_measured(made: Decisions) -> np.ndarray:
    """The rows that stay: test before valid before train, each in order. Of rows that repeat each other
    the first is kept: what is measured stays as it is, and is not trained on."""
    kept = made.kept
    return kept[np.argsort(-made.part[kept], kind="stable")]


def _alike(key: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """The rows of every key that several have, in the order given."""
    order = rows[np.argsort(key[rows], kind="stable")]
    starts = np.flatnonzero(np.diff(key[order], prepend=key[order[:1]] + np.uint64(1)))
    sizes = np.diff(starts, append=len(order))
    for i in np.flatnonzero(sizes > 1):
        yield order[starts[i] : starts[i] + sizes[i]]


def _find_conflicts(made: Decisions, keys: np.ndarray, clean: CleanSettings) -> None:
    # The same question about two documents or tables is not the same question.
    rows = first_measured(made)
    rows = rows[~keys["own"][rows] & ~keys["preference"][rows]]

    def found() -> Iterator[np.ndarray]:
        for group in _alike(keys["question"], rows):
            if len(np.unique(keys["answer"][group])) == 1:
                continue
            made.questions, made.answers = made.questions + 1, made.answers + len(group)
            removed = {"keep": group[:0], "first": group[1:], "drop": group}[clean.conflicts]
            made.fate[removed] = CONFLICT
            if clean.conflicts == "first":
                made.twin[removed] = group[0]
            yield group

    made.conflicts = heapq.nlargest(SHOWN, found(), key=len)


def find_leaks(made: Decisions, keys: np.ndarray) -> None:
    """Rows that stay and ask, on one side of the split, what is asked on another: the same document or table, the
    same question, the same row. Called when everything else is decided."""
    kept, found = made.kept, set[tuple[int, int]]()
    for key in ("group", "asked", "content"):
        for group in _alike(keys[key], kept):
            group = group[np.argsort(made.part[group], kind="stable")]
            first = group[0]
            found |= {(int(row), int(first)) for row in group[made.part[group] != made.part[first]]}
    made.leaks = sorted(found)


def drop_near(made: Decisions, pairs: list[tuple[int, int, float]]) -> None:
    """Take out the second row of each pair (kept, duplicate, similarity)."""
    for first, second, _ in pairs:
        made.fate[second], made.twin[second] = NEAR, first
