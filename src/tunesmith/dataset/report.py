"""What became of every input, and what a person should look at: ``dataset/report.json``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tunesmith.dataset import decide
from tunesmith.dataset.split import PARTS, Part
from tunesmith.dataset.store import LEARNED
from tunesmith.settings import CleanSettings, DataSettings
from tunesmith.sources.example import Example

SHOWN = 50
"""Of each kind of finding so many are in the report with their text; all are counted."""
BINS = 32
"""Lengths are counted in so many bins up to the limit."""


@dataclass
class Account:
    """One source: ``inputs + divided == rows + quarantined + merged + removed``, always."""

    source: str
    inputs: int = 0
    divided: int = 0
    """Rows beyond the first of every document."""
    rows: dict[Part, int] = field(default_factory=lambda: dict.fromkeys(PARTS, 0))
    quarantined: int = 0
    merged: int = 0
    removed: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.source, "inputs": self.inputs, "divided": self.divided, "rows": sum(self.rows.values()),
            "parts": dict(self.rows), "quarantined": self.quarantined, "merged": self.merged, "removed": self.removed,
        }  # fmt: skip


@dataclass
class Tally:
    """Everything that is counted while rows stream through."""

    accounts: list[Account]
    reasons: dict[str, tuple[str, Counter[int]]] = field(default_factory=dict)
    """Why rows are in quarantine: reason -> (the first place, rows by source)."""
    removed: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)
    personal: Counter[str] = field(default_factory=Counter)
    personal_at: dict[str, str] = field(default_factory=dict)
    boilerplate: Counter[str] = field(default_factory=Counter)
    near: list[tuple[int, int, float]] = field(default_factory=list)
    cut: list[dict[str, Any]] = field(default_factory=list)
    preferences: int = 0
    tokens: dict[Part, int] = field(default_factory=lambda: dict.fromkeys(PARTS, 0))
    learned: int = 0
    longest: int = 0
    lengths: Counter[int] = field(default_factory=Counter)

    def measure(self, part: Part, packed: np.ndarray) -> None:
        """Count one row of tokens."""
        self.tokens[part] += len(packed)
        self.longest = max(self.longest, len(packed))
        self.lengths[len(packed)] += 1
        if part == "train":
            self.learned += int((packed >= LEARNED).sum())


def build_report(
    tally: Tally, made: decide.Decisions, row: Callable[[int], Example], data: DataSettings
) -> dict[str, Any]:
    """The report as plain values. ``row`` gives the text of what is shown."""
    accounts = tally.accounts
    return {
        "inputs": sum(a.inputs for a in accounts),
        "divided": sum(a.divided for a in accounts),
        "rows": {part: sum(a.rows[part] for a in accounts) for part in PARTS},
        "quarantined": sum(a.quarantined for a in accounts),
        "merged": sum(a.merged for a in accounts),
        "removed": sum(a.removed for a in accounts),
        "sources": [a.to_json() for a in accounts],
        "cut": tally.cut,
        "tokens": {
            "train": tally.tokens["train"],
            "learned": tally.learned,
            "longest": tally.longest,
            "limit": data.max_tokens,
            "histogram": _histogram(tally, data.max_tokens),
        },
        "findings": _findings(tally, made, row, data),
        "preferences": tally.preferences,
        "boilerplate": [{"line": line, "documents": n} for line, n in tally.boilerplate.most_common(SHOWN)],
        "conflicts": [_conflict(group, row) for group in made.conflicts[:SHOWN]],
        "near_duplicates": [_pair(a, b, row) | {"similarity": s} for a, b, s in tally.near[:SHOWN]],
        "leaks": [_pair(a, b, row) for a, b in made.leaks[:SHOWN]],
    }


def _histogram(tally: Tally, limit: int) -> list[int]:
    """Rows by length, in `BINS` bins of equal width from 0 to the limit."""
    bins = [0] * BINS
    for length, n in tally.lengths.items():
        bins[min(BINS - 1, (length - 1) * BINS // limit)] += n
    return bins


def _pair(first: int, second: int, row: Callable[[int], Example]) -> dict[str, Any]:
    return {"first": _shown(row(first)), "second": _shown(row(second))}


def _shown(example: Example) -> dict[str, str]:
    asked = "\n".join(m.content for m in example.prompt if m.role != "system")
    return {"origin": str(example.origin), "question": asked[:2000], "answer": example.answer[:2000]}


def _conflict(group: np.ndarray, row: Callable[[int], Example]) -> dict[str, Any]:
    rows = [_shown(row(int(i))) for i in group[:SHOWN]]
    answers = list(dict.fromkeys(r["answer"] for r in rows))
    return {"question": rows[0]["question"], "origin": rows[0]["origin"], "rows": len(group), "answers": answers[:10]}


def _findings(
    tally: Tally, made: decide.Decisions, row: Callable[[int], Example], data: DataSettings
) -> list[dict[str, str]]:
    """(severity, message) of everything worth a look, the gravest kinds first."""
    found = [
        *_leaked(made, row),
        *_unused(tally, data),
        *_conflicting(made, row, data.clean),
        *_alike(tally, made, row, data.clean),
        *_left_out(tally),
        *_personal(tally, data.clean),
    ]
    return [{"severity": severity, "message": message} for severity, message in found]


Found = Iterator[tuple[str, str]]


def _leaked(made: decide.Decisions, row: Callable[[int], Example]) -> Found:
    if made.leaks:
        measured, trained = (row(i).origin for i in made.leaks[0])
        yield (
            "error",
            (
                f"{len(made.leaks)} rows that are measured on ask what is trained on too, "
                f"the first at {measured} (trained on at {trained})"
            ),
        )


def _unused(tally: Tally, data: DataSettings) -> Found:
    most = sorted(tally.reasons.items(), key=lambda kv: -sum(kv[1][1].values()))
    for reason, (first, where) in most[:5]:
        yield "warning", f"{sum(where.values())} put aside, the first at {first}: {reason}"
    if more := sum(sum(where.values()) for _, (_, where) in most[5:]):
        yield "warning", f"{more} put aside for other reasons, each in quarantine.jsonl"
    if tally.cut:
        lost = sum(c["lost"] for c in tally.cut)
        yield "warning", f"{len(tally.cut)} rows are longer than {data.max_tokens} tokens, and lose {lost}"
    uses: dict[Part, str] = {"valid": "choose the best checkpoint", "test": "measure the result"}
    for part, use in uses.items():
        if not any(a.rows[part] for a in tally.accounts):
            yield "warning", f"no {part} rows: nothing to {use} with"


def _conflicting(made: decide.Decisions, row: Callable[[int], Example], clean: CleanSettings) -> Found:
    if made.conflicts:
        rows, largest = sum(len(group) for group in made.conflicts), made.conflicts[0]
        done = {"keep": "all kept", "first": "only the first kept", "drop": "none kept"}[clean.conflicts]
        asked = row(int(largest[0])).prompt[-1].content[:60]
        yield (
            "warning",
            (
                f"{len(made.conflicts)} questions have different answers, in {rows} rows ({done}); "
                f"the most, {len(largest)}: {asked}"
            ),
        )


def _alike(tally: Tally, made: decide.Decisions, row: Callable[[int], Example], clean: CleanSettings) -> Found:
    if merged := sum(a.merged for a in tally.accounts):
        yield "note", f"{merged} rows repeat another one exactly and were left out"
    if tally.near:
        across = sum(made.part[a] != made.part[b] for a, b, _ in tally.near)
        done = "left out" if clean.near_duplicates == "drop" else "kept; data.clean.near_duplicates drops them"
        yield (
            "warning" if across else "note",
            (
                f"{len(tally.near)} rows are almost another one, {across} of them across the split ({done}), "
                f"the first at {row(tally.near[0][1]).origin}"
            ),
        )


def _left_out(tally: Tally) -> Found:
    if tally.boilerplate:
        line, n = tally.boilerplate.most_common(1)[0]
        lines = len(tally.boilerplate)
        yield "note", f"{lines} lines that many documents begin or end with were left out, {n} times: {line[:60]}"
    for note, n in tally.noted.most_common():
        yield "note", f"{n} rows: {note}"
    if tally.preferences:
        bad = tally.removed[decide.REASONS[decide.BAD]]
        yield (
            "note",
            (
                f"{tally.preferences} rows say which answer is better: the better one is trained on, "
                f"all are kept in preferences.jsonl{f', {bad} bad answers only there' if bad else ''}"
            ),
        )


def _personal(tally: Tally, clean: CleanSettings) -> Found:
    names = {"email": "e-mail addresses", "phone": "telephone numbers", "secret": "passwords or keys"}
    for kind, n in tally.personal.most_common():
        done = kind in clean.redact
        what = f"replaced by [{kind}]" if done else f"data.clean.redact can replace them ({kind!r})"
        severity = "warning" if kind == "secret" and not done else "note"
        yield severity, f"{n} {names[kind]} in the rows, the first at {tally.personal_at[kind]}; {what}"
