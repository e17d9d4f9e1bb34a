"""What the units gave, as files: rows, questions held out, what became nothing, and the account of all of it.

Everything that was generated is compared with everything else, so it lies in a scratch file first.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunesmith import files
from tunesmith.dataset.similar import Signatures, jaccard, near_duplicates, normal, signature
from tunesmith.sources.example import Example, Message, Origin
from tunesmith.sources.quarantine import SHOWN, Quarantined
from tunesmith.teacher.quality import QUARANTINED
from tunesmith.teacher.units import Item, Lost, Taught, Unit

SIMILAR = 0.85
"""From this Jaccard similarity on, two questions, or two answers, are nearly the same."""
LONG = 80
"""Characters from which on two answers that are alike say that the teacher repeats itself; "Yes." may come often."""


class Gathering:
    """Takes what came of every unit, in the plan's order; `finish` compares, and writes into ``target``."""

    def __init__(self, target: Path, scratch: Path) -> None:
        self._target, self._scratch = target, scratch
        self._file = (scratch / "candidates.jsonl").open("w+b")
        self._rows, self._held = array("q"), array("q")
        self._facts = 0
        self._quarantine = (target / "quarantine.jsonl").open("wb")
        self.questions = self.waiting = 0
        self.lost: Counter[str] = Counter()
        """Questions, by fault."""
        self.others: dict[str, Counter[str]] = {what: Counter() for what in ("follow-up", "passage", "topic", "source")}
        """What else became nothing: by what it was, and by fault."""
        self.units: Counter[str] = Counter()
        self.unasked: Counter[str] = Counter()
        self.kept: Counter[str] = Counter()

    def close(self) -> None:
        self._file.close()
        self._quarantine.close()

    # -- taking ----------------------------------------------------------------------------------

    def unread(self, item: Quarantined) -> None:
        """A part of a source that could not be read."""
        self._lose(Lost("source", item.text[:SHOWN], item.reason, "", item.origin))

    def lose(self, lost: Lost) -> None:
        """What was not asked at all: a question that was there already, a passage that says nothing."""
        self.questions += lost.what == "question"
        self.units[lost.what] += lost.what != "question"
        self._lose(lost)

    def take(self, unit: Unit, items: list[Item] | None) -> None:
        """What came of one unit; None: it was not asked, because the budget was spent."""
        self.units[unit.what] += unit.what != "question"
        self.questions += unit.questions
        if items is None:
            self.unasked[unit.what] += unit.what != "question"
            self.waiting += unit.questions
        for item in items or ():
            if isinstance(item, Lost):
                # A passage's questions that are refused at once were never in a unit of their own.
                self.questions += item.what == "question" and unit.what != "question"
                self._lose(item)
            elif isinstance(item, Taught):
                self._keep(item)

    def _lose(self, lost: Lost) -> None:
        if lost.what == "question":
            self.lost[lost.fault] += 1
        else:
            self.others[lost.what][lost.fault] += 1
        self._quarantine.write(files.json_line({
            **lost.origin.to_json(), "what": lost.what, "reason": lost.fault, "text": lost.text, "reply": lost.reply,
        }))  # fmt: skip

    def _keep(self, taught: Taught) -> None:
        for number, question in enumerate(taught.wordings):
            turns = [Message("user", question), Message("assistant", taught.answer, learn=True)]
            if taught.follow_up and not number:
                turns += [Message("user", taught.follow_up[0]), Message("assistant", taught.follow_up[1], learn=True)]
            self._put(self._rows, taught, turns, taught.group)
        for question in taught.held:
            # Of its own group: it is measured with although its document is trained on, which is the point.
            self._put(self._held, taught, [Message("user", question), Message("assistant", taught.answer, True)], "")
        self._facts += 1

    def _put(self, places: array[int], taught: Taught, turns: list[Message], group: str) -> None:
        places.append(self._file.tell())
        row = Example(tuple(turns), taught.origin, group=group).to_json()
        self._file.write(files.json_line({"fact": self._facts, "row": row}))

    # -- comparing -------------------------------------------------------------------------------

    def finish(self) -> None:
        """Compare all rows and held-out questions, and write those that stay."""
        self._file.flush()
        places = self._rows + self._held
        gone = self._equal(places)
        for kept, repeats in self._alike("answers", self._first_of_fact(places), LONG, 1):
            fact = self._read(places[repeats])["fact"]
            if fact != self._read(places[kept])["fact"]:
                gone |= {row: "repeats an answer" for row in self._of_fact(places, repeats, fact) if row not in gone}
        for kept, repeats in self._alike("questions", [i for i in range(len(places)) if i not in gone], 0, 0):
            one, other = self._turns(places[kept]), self._turns(places[repeats])
            held = repeats >= len(self._rows)
            if held or jaccard(one[1], other[1]) >= SIMILAR:
                gone[repeats] = "nearly repeats a row"
        with (
            files.atomic_file(self._target / "rows.jsonl") as rows,
            files.atomic_file(self._target / "held-out.jsonl") as held_out,
        ):
            for i, place in enumerate(places):
                row = self._read(place)["row"]
                if i in gone:
                    self._drop(row, gone[i])
                    continue
                self.kept["held out" if i >= len(self._rows) else "rows"] += 1
                self.kept["follow-ups"] += len(row["messages"]) > 2
                (held_out if i >= len(self._rows) else rows).write(files.json_line(row))

    def _equal(self, places: array[int]) -> dict[int, str]:
        """Rows whose question, regardless of case, spaces and punctuation, was there before."""
        gone, seen = dict[int, str](), set[bytes]()
        for i, place in enumerate(places):
            digest = question_hash(self._turns(place)[0])
            if digest in seen:
                gone[i] = "repeats a question"
            seen.add(digest)
        return gone

    def _alike(self, name: str, rows: list[int], least: int, turn: int) -> Iterator[tuple[int, int]]:
        """(kept, repeats) of rows whose questions (``turn`` 0) or answers (1) of ``least`` characters are alike."""
        places = self._rows + self._held
        long = [i for i in rows if len(self._turns(places[i])[turn]) >= least]
        signatures = Signatures(self._scratch / name)
        for i in long:
            signatures.add(signature(self._turns(places[i])[turn]))
        found = near_duplicates(lambda k: self._turns(places[long[k]])[turn], signatures, SIMILAR)
        yield from ((long[kept], long[repeats]) for kept, repeats, _ in found)

    def _first_of_fact(self, places: array[int]) -> list[int]:
        """One row of each fact: its wordings have one answer."""
        firsts, last = list[int](), -1
        for i in range(len(self._rows)):
            fact = self._read(places[i])["fact"]
            if fact != last:
                firsts.append(i)
            last = fact
        return firsts

    def _of_fact(self, places: array[int], row: int, fact: int) -> list[int]:
        """The rows of a fact, which stand together."""
        rows = [row]
        while rows[-1] + 1 < len(self._rows) and self._read(places[rows[-1] + 1])["fact"] == fact:
            rows.append(rows[-1] + 1)
        return rows

    def _read(self, place: int) -> dict[str, Any]:
        self._file.seek(place)
        return json.loads(self._file.readline())

    def _turns(self, place: int) -> list[str]:
        return [turn["content"] for turn in self._read(place)["row"]["messages"]]

    def _drop(self, row: dict[str, Any], fault: str) -> None:
        turns = [turn["content"] for turn in row["messages"]]
        origin = Origin.from_json(row["origin"])
        self._lose(Lost("question", turns[0], fault, turns[1], origin))
        if len(turns) > 2:
            self._lose(Lost("follow-up", turns[2], fault, turns[3], origin))

    # -- the account -----------------------------------------------------------------------------

    def account(self) -> dict[str, Any]:
        """Every question, and what became of it: questions = rows + held out + quarantined + dropped + not asked."""
        quarantined = {fault: n for fault, n in self.lost.most_common() if fault in QUARANTINED}
        dropped = {fault: n for fault, n in self.lost.most_common() if fault not in QUARANTINED}
        return {
            "questions": self.questions,
            "rows": self.kept["rows"],
            "held_out": self.kept["held out"],
            "quarantined": quarantined,
            "dropped": dropped,
            "not_asked": self.waiting,
            "follow_ups": {"kept": self.kept["follow-ups"], "lost": dict(self.others["follow-up"])},
            "asked_about": {what: self._asked_about(what) for what in self.units if what != "question"},
            "unread": dict(self.others["source"]),
        }

    def _asked_about(self, what: str) -> dict[str, Any]:
        return {"all": self.units[what], "lost": dict(self.others[what]), "not_asked": self.unasked[what]}


def question_hash(question: str) -> bytes:
    """Equal for questions that are the same but for case, spaces and punctuation."""
    return hashlib.sha256(normal(question).encode("utf-8", "surrogatepass")).digest()[:12]
