"""What became of every input, and what a person should look at: ``dataset/report.json``."""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tunesmith.dataset import decide
from tunesmith.dataset.decide import SHOWN
from tunesmith.dataset.split import PARTS, Part
from tunesmith.dataset.store import LEARNED
from tunesmith.settings import CleanSettings, DataSettings
from tunesmith.sources.example import Example
from tunesmith.sources.quarantine import Quarantined

_PARTICULAR = re.compile(r"""'[^']*'|"[^"]*"|[0-9][0-9.,]*""")
"""What differs in reasons of one kind."""
_DOUBTFUL = ("read as ", "an answer holds ")
"""How notes on rows begin that may be taught wrong."""
FEW: dict[Part, int] = {"train": 0, "valid": 5, "test": 20}
"""Of fewer, chance decides which checkpoint is best; and even where every one of 20 is better than the base's, the
interval of the share that is better reaches from 84 to 100 % (Wilson)."""
BINS = 32
"""Lengths are counted in so many bins up to the limit."""
EACH = 5
"""Of every kind of reason so many that are in quarantine are in the report with their text."""
BEGINS = 300
"""So many characters of such a text: a file that cannot be read may be large."""


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
class Reason:
    """Why rows are in quarantine: the first such reason, its place, how many there are that differ only in
    numbers and names, and the first of them."""

    reason: str
    place: str
    rows: int = 0
    first: list[dict[str, str]] = field(default_factory=list)


@dataclass
class Cut:
    """Rows that were longer than the limit: how many, the tokens they lost, and those that lost most."""

    rows: int = 0
    lost: int = 0
    _worst: list[tuple[int, int, str]] = field(default_factory=list)

    def add(self, origin: str, tokens: int, lost: int) -> None:
        self.rows += 1
        self.lost += lost
        entry = (lost, -self.rows, f"{tokens} {origin}")
        if len(self._worst) < SHOWN:
            heapq.heappush(self._worst, entry)
        else:
            heapq.heappushpop(self._worst, entry)

    def to_json(self) -> dict[str, Any]:
        worst = [(lost, *text.split(" ", 1)) for lost, _, text in sorted(self._worst, reverse=True)]
        shown = [{"origin": origin, "tokens": int(tokens), "lost": lost} for lost, tokens, origin in worst]
        return {"rows": self.rows, "lost": self.lost, "worst": shown}


@dataclass
class Tally:
    """Everything that is counted while rows stream through."""

    accounts: list[Account]
    reasons: dict[str, Reason] = field(default_factory=dict)
    removed: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)
    noted_at: dict[str, str] = field(default_factory=dict)
    personal: Counter[str] = field(default_factory=Counter)
    personal_at: dict[str, str] = field(default_factory=dict)
    boilerplate: Counter[str] = field(default_factory=Counter)
    near: list[tuple[int, int, float]] = field(default_factory=list)
    cut: Cut = field(default_factory=Cut)
    preferences: int = 0
    hints: list[str] = field(default_factory=list)
    """What else a person may want to know, in sentences."""
    tokens: dict[Part, int] = field(default_factory=lambda: dict.fromkeys(PARTS, 0))
    learned: int = 0
    longest: int = 0
    lengths: Counter[int] = field(default_factory=Counter)

    def count_reason(self, item: Quarantined) -> None:
        """Count one that is quarantined."""
        kind = _PARTICULAR.sub("…", item.reason)
        reason = self.reasons.setdefault(kind, Reason(item.reason, str(item.origin)))
        reason.rows += 1
        if len(reason.first) < EACH and len(self.reasons) <= SHOWN:
            text = item.text[:BEGINS] + ("…" if len(item.text) > BEGINS else "")
            shown = {"origin": str(item.origin), "reason": item.reason, "text": text}
            # Half a character, which a file in UTF-8 cannot hold, is one of the things that are quarantined.
            reason.first.append({k: v.encode("utf-8", "backslashreplace").decode() for k, v in shown.items()})

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
        "cut": tally.cut.to_json(),
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
        "conflicts": [_conflict(group, row) for group in made.conflicts],
        "near_duplicates": [_pair(a, b, row) | {"similarity": s} for a, b, s in tally.near[:SHOWN]],
        "leaks": [_pair(a, b, row) for a, b in made.leaks[:SHOWN]],
        "quarantine": _in_quarantine(tally),
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


def _in_quarantine(tally: Tally) -> list[dict[str, str]]:
    """`SHOWN` of those in quarantine, kind by kind: every kind has its first before any has its second."""
    kinds = sorted(tally.reasons.values(), key=lambda reason: -reason.rows)
    ranked = sorted((place, kind) for kind, reason in enumerate(kinds) for place in range(len(reason.first)))
    return [kinds[kind].first[place] for kind, place in sorted((kind, place) for place, kind in ranked[:SHOWN])]


def _conflict(group: np.ndarray, row: Callable[[int], Example]) -> dict[str, Any]:
    rows = [_shown(row(int(i))) for i in group[:SHOWN]]
    answers = list(dict.fromkeys(r["answer"] for r in rows))
    return {"question": rows[0]["question"], "origin": rows[0]["origin"], "rows": len(group), "answers": answers[:10]}


def _findings(
    tally: Tally, made: decide.Decisions, row: Callable[[int], Example], data: DataSettings
) -> list[dict[str, str]]:
    """(severity, message) of everything worth a look, the gravest kinds first."""
    found = [
        *_nothing(tally),
        *_leaked(made, row),
        *_unused(tally, data),
        *_conflicting(made, row, data.clean),
        *_alike(tally, made, row, data.clean),
        *(("note", hint) for hint in tally.hints),
        *_left_out(tally),
        *_personal(tally, data.clean),
    ]
    return [{"severity": severity, "message": message} for severity, message in found]


Found = Iterator[tuple[str, str]]


def _nothing(tally: Tally) -> Found:
    """Why there is nothing to train on."""
    if any(account.rows["train"] for account in tally.accounts):
        return
    inputs = sum(account.inputs for account in tally.accounts)
    if tally.reasons:
        first = next(iter(tally.reasons.values()))
        none = f"none of the {inputs:,} rows and documents can be trained on; the first"
        yield "error", f"{'it cannot be trained on' if inputs == 1 else none}, {first.place}: {first.reason}"
    elif inputs:
        yield "error", "all rows are for validation and test; add rows, or lower data.split.valid and data.split.test"
    else:
        yield "error", f"{', '.join(account.source for account in tally.accounts)}: no rows in there"


def _leaked(made: decide.Decisions, row: Callable[[int], Example]) -> Found:
    if made.leaks:
        measured, trained = (row(i).origin for i in made.leaks[0])
        yield (
            "error",
            (
                f"{_many(len(made.leaks), 'row that is measured on asks', 'rows that are measured on ask')} "
                f"what is trained on too, "
                f"the first at {measured} (trained on at {trained})"
            ),
        )


def _unused(tally: Tally, data: DataSettings) -> Found:
    most = sorted(tally.reasons.values(), key=lambda reason: -reason.rows)
    trained = any(account.rows["train"] for account in tally.accounts)
    for reason in most[:5] if trained or len(most) > 1 else []:  # a single one is the error's
        yield "warning", f"{reason.rows:,} quarantined, the first at {reason.place}: {reason.reason}"
    if more := sum(reason.rows for reason in most[5:]):
        yield "warning", f"{more:,} quarantined for other reasons, each in quarantine.jsonl"
    if tally.cut.rows:
        are = _many(tally.cut.rows, "row is", "rows are")
        yield "warning", f"{are} longer than {data.max_tokens:,} tokens, and {tally.cut.lost:,} tokens are lost"
    uses: dict[Part, str] = {"valid": "choose the best checkpoint", "test": "measure the result"}
    for part, use in uses.items():
        rows = sum(a.rows[part] for a in tally.accounts)
        if trained and rows < FEW[part]:
            have = (
                f"only {_many(rows, f'{part} row', f'{part} rows')}: hardly enough"
                if rows
                else f"no {part} rows: nothing"
            )
            yield (
                "warning",
                f"{have} to {use} with; add documents or rows, raise data.split.{part}, or name a file there",
            )


def _conflicting(made: decide.Decisions, row: Callable[[int], Example], clean: CleanSettings) -> Found:
    if made.conflicts:
        largest = made.conflicts[0]
        done = {"keep": "all kept", "first": "only the first kept", "drop": "none kept"}[clean.conflicts]
        asked = row(int(largest[0])).prompt[-1].content[:60]
        yield (
            "warning",
            (
                f"{_many(made.questions, 'question has', 'questions have')} different answers, "
                f"in {made.answers:,} rows ({done}); the most, {len(largest):,}: {asked}"
            ),
        )


def _alike(tally: Tally, made: decide.Decisions, row: Callable[[int], Example], clean: CleanSettings) -> Found:
    if merged := sum(a.merged for a in tally.accounts):
        repeats = _many(merged, "row repeats", "rows repeat")
        yield "note", f"{repeats} another one exactly and {'was' if merged == 1 else 'were'} left out"
    if tally.near:
        across = sum(made.part[a] != made.part[b] for a, b, _ in tally.near)
        sides = f", {across:,} across the split" if across else ""
        done = "left out" if clean.near_duplicates == "drop" else "kept; data.clean.near_duplicates drops them"
        yield (
            "warning" if across else "note",
            (
                f"{_many(len(tally.near), 'row is almost the same as another', 'rows are almost the same as others')}, "
                f"the first at {row(tally.near[0][1]).origin}{sides} ({done})"
            ),
        )


def _left_out(tally: Tally) -> Found:
    if tally.boilerplate:
        line, n = tally.boilerplate.most_common(1)[0]
        lines = _many(len(tally.boilerplate), "line was", "lines were")
        times = _many(n, "time", "times")
        yield (
            "note",
            f"{lines} left out with which many documents begin or end, the most frequent {times}: {line[:60]}",
        )
    for note, n in tally.noted.most_common():
        rows = _many(n, "row", "rows, the first")
        severity = "warning" if note.startswith(_DOUBTFUL) else "note"
        yield severity, f"{rows} at {tally.noted_at[note]}: {note}"
    if tally.preferences:
        bad = tally.removed[decide.REASONS[decide.BAD]]
        yield (
            "note",
            (
                f"{_many(tally.preferences, 'row says', 'rows say')} which answer is better: the better one is trained "
                f"on, all are kept in preferences.jsonl{f', {bad:,} bad answers only there' if bad else ''}"
            ),
        )


def _personal(tally: Tally, clean: CleanSettings) -> Found:
    names = {
        "email": ("e-mail address", "e-mail addresses"), "phone": ("telephone number", "telephone numbers"),
        "secret": ("password or key", "passwords or keys"),
    }  # fmt: skip
    for kind, n in tally.personal.most_common():
        done = kind in clean.redact
        what = f"replaced by [{kind}]" if done else f"data.clean.redact can replace them ({kind!r})"
        severity = "warning" if kind == "secret" and not done else "note"
        yield severity, f"{_many(n, *names[kind])} in the rows, the first at {tally.personal_at[kind]}; {what}"


def _many(count: int, one: str, more: str) -> str:
    """1 row is, 1,200 rows are."""
    return f"{count:,} {one if count == 1 else more}"
