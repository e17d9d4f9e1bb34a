"""Which answers a report shows, and how: what differs from the reference is marked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

from tunesmith.pages.differences import UNITS, Marked, differences
from tunesmith.pages.text import harmless

OUTCOMES = {
    "better": "tuned is better", "worse": "tuned is worse", "ungraded": "not graded", "wrong": "both wrong",
    "right": "both right", "alike": "no preference",
}  # fmt: skip
"""What became of a question, the more telling first: its key, what people call it."""

MARGIN = 0.1
"""Two scores of one question that are nearer than this count as the same."""
SHOWN = 400
BYTES = 2_300_000
"""At most so many examples, and so many bytes of them, are part of a page."""
TURNS = 20
"""So many of every outcome in every task come before outcomes that tell more get all the room that is left."""
LONGEST = 2000
"""Characters after which a text is cut."""
ALIKE = 0.3
"""Differences are looked for from that share of common pairs of neighbours on …"""
MARKED = 0.7
"""… and marked up to that share of a text: a text that is marked all over tells nothing."""


@dataclass(frozen=True)
class Example:
    """A question, and what each model made of it: {model: line of samples.jsonl}."""

    task: str
    outcome: str
    gain: float
    """Score of tuned less that of base, where both are known."""
    answers: dict[str, dict[str, Any]]


def pair(samples: Iterable[dict[str, Any]]) -> list[Example]:
    """The lines of samples.jsonl question by question, in their order."""
    asked = dict[tuple[str, str], dict[str, dict[str, Any]]]()
    for sample in samples:
        asked.setdefault((sample["task"], sample["id"]), {})[sample["model"]] = sample
    return [Example(task, *_outcome(task, answers), answers) for (task, _), answers in asked.items()]


def _outcome(task: str, answers: dict[str, dict[str, Any]]) -> tuple[str, float]:
    """A judge compares tuned with base itself: half is a draw."""
    base, tuned = (answers.get(model, {}).get("score") for model in ("base", "tuned"))
    base = 0.5 if task == "judge" else base
    if base is None or tuned is None:
        return "ungraded", 0.0
    gain = tuned - base
    if abs(gain) >= MARGIN:
        return ("better" if gain > 0 else "worse"), gain
    if task == "judge":
        return "alike", gain
    return ("right" if tuned >= 0.5 else "wrong"), gain


def counts(examples: Sequence[Example]) -> list[tuple[str, dict[str, int]]]:
    """(task, how many of each outcome that there is in any task)."""
    found = {task: Counter[str]() for task in dict.fromkeys(example.task for example in examples)}
    for example in examples:
        found[example.task][example.outcome] += 1
    present = [outcome for outcome in OUTCOMES if any(count[outcome] for count in found.values())]
    return [(task, {outcome: count[outcome] for outcome in present}) for task, count in found.items()]


def choose(examples: Sequence[Example]) -> list[Example]:
    """In the order in which they should get room: some of every outcome in turn, then the most telling."""
    rank = {outcome: number for number, outcome in enumerate(OUTCOMES)}
    telling = sorted(examples, key=lambda e: (rank[e.outcome], -abs(e.gain)))
    before = Counter[tuple[str, str]]()
    turns = list[int]()
    for example in telling:
        turns.append(min(before[example.task, example.outcome], TURNS))
        before[example.task, example.outcome] += 1
    return [telling[i] for i in sorted(range(len(telling)), key=turns.__getitem__)]


def cards(examples: Sequence[Example]) -> list[dict[str, Any]]:
    """As many of them as a page has room for, as its template takes them, the most telling first."""
    rank = {outcome: number for number, outcome in enumerate(OUTCOMES)}
    made, room = list[dict[str, Any]](), BYTES
    for example in choose(examples)[:SHOWN]:
        card = _card(example)
        room -= _bytes(card)
        if room < 0:
            break
        made.append(card)
    return sorted(made, key=lambda card: rank[card["outcome"]])


def _card(example: Example) -> dict[str, Any]:
    first = next(iter(example.answers.values()))
    texts = {model: answer["answer"] for model, answer in example.answers.items()}
    reference = first["reference"] or ""
    models = [*(m for m in ("base", "tuned") if m in texts), *(m for m in texts if m not in ("base", "tuned"))]
    sides = list[dict[str, Any]]()
    for model in models:
        kind, grade = _grade(example.task, example.answers[model])
        pieces = _marked(texts[model], reference or _other(model, texts))
        reason = example.answers[model]["reason"]
        sides.append(
            {"model": model, "text": texts[model], "pieces": pieces, "kind": kind, "grade": grade, "reason": reason}
        )
    return {
        "task": example.task, "outcome": example.outcome, "origin": first.get("origin") or first["id"],
        "question": _cut(first["question"]), "reference": _cut(reference), "sides": sides,
    }  # fmt: skip


def _grade(task: str, answer: dict[str, Any]) -> tuple[str, str]:
    """(good, bad or neither, how an answer was graded in a word)."""
    score = answer["score"]
    if task == "judge" and answer["model"] == "base":
        return "", ""  # it is what the others are compared with
    if score is None:
        return "", "– not graded"
    if task == "judge" and score == 0.5:
        return "", "= no preference"
    if task == "judge":
        return ("good", "✓ preferred") if score > 0.5 else ("bad", "✗ base preferred")
    word = ("right" if score else "wrong") if score in (0, 1) else f"{score:.2f} of 1"
    return ("good", f"✓ {word}") if answer["right"] else ("bad", f"✗ {word}")


def _other(model: str, texts: dict[str, str]) -> str:
    """Without a reference base and tuned are compared with each other."""
    return texts.get({"base": "tuned", "tuned": "base"}.get(model, ""), texts[model])


def _marked(text: str, other: str) -> Marked:
    text, other = _cut(text), _cut(other)
    ours, theirs = (Counter(pairwise(unit for unit in UNITS.findall(t) if not unit.isspace())) for t in (text, other))
    common = 2 * (ours & theirs).total() / max(ours.total() + theirs.total(), 1)
    pieces = differences(text, other)[0] if common >= ALIKE else []
    marked = sum(len(piece) for differs, piece in pieces if differs)
    return pieces if pieces and marked <= MARKED * len(text) else [(False, text)]


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text) - LONGEST:,} more characters)"


def _bytes(card: dict[str, Any]) -> int:
    """About how many a card takes on the page; rather too many."""
    texts = [card["question"], card["question"][:100], card["reference"], card["origin"]]
    texts += [side["reason"] for side in card["sides"]]
    pieces = [piece for side in card["sides"] for _, piece in side["pieces"]]
    written = sum(len(escape(harmless(text)).encode()) for text in texts + pieces)
    return written + 13 * len(pieces) + 300 * len(card["sides"]) + 700
