from __future__ import annotations

import hashlib

from tunesmith.dataset.split import PARTS, groups_of, parts_of, shares_of
from tunesmith.sources.example import Example, Message, Origin


def example(question: str, answer: str = "a", group: str = "") -> Example:
    return Example((Message("user", question), Message("assistant", answer, True)), Origin("f", 1), group=group)


def part(row: Example, valid: float, test: float) -> str:
    return PARTS[parts_of(shares_of(groups_of([row]), 0)[0], valid, test)[0]]


def test_shares_come_out_as_asked():
    parts = parts_of(shares_of([f"question {i}" for i in range(4000)], 0)[0], 0.1, 0.2)
    assert abs((parts == 1).mean() - 0.1) < 0.02
    assert abs((parts == 2).mean() - 0.2) < 0.02


def test_a_row_stays_where_it_is_whatever_else_there_is():
    # The side is a function of the row alone: these were read off once and must never change.
    assert "".join(part(example(q), 0.3, 0.3)[:2] for q in "abcdefgh") == "trtrtrvatrtevate"


def test_one_question_with_many_answers_is_on_one_side():
    assert len(set(groups_of([example(q, str(i)) for i, q in enumerate(("你是谁？", "你是谁?", " 你是谁"))]))) == 1


def test_a_share_is_what_the_hash_says_to_the_last_bit():
    assert shares_of(["a", "中"], 7)[0].tolist() == [
        int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64 for text in ("7:a", "7:中")
    ]


def test_rows_of_one_group_are_on_one_side():
    assert len({part(example(f"q{i}", group="table 7"), 0.4, 0.4) for i in range(50)}) == 1


def test_growing_the_test_share_moves_no_row_out_of_it():
    rows = [example(f"q{i}") for i in range(500)]
    small = {r.id for r in rows if part(r, 0, 0.1) == "test"}
    assert small < {r.id for r in rows if part(r, 0, 0.2) == "test"}
