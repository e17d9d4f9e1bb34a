"""Retrieval: the passage that has the fact is found, and the model is shown it with the question."""

from __future__ import annotations

import random

import pytest

from tunesmith.errors import SourceError
from tunesmith.evaluation.question import Question
from tunesmith.evaluation.retrieval import PASSAGE, Retrieval, document_of, passages_of, terms, with_passages
from tunesmith.sources.document import Document
from tunesmith.sources.example import Example, Message, Origin
from tunesmith.teacher.request import tokens_of

ENGLISH = [
    "The library opens at nine and closes at six, except on Sundays.",
    "Every new member of the library gets a card, and pays five crowns for it.",
    "A lost card is replaced at the desk; the fee for that is twelve crowns.",
    "Books may be kept for four weeks, and once again as long.",
]
CHINESE = [
    "图书馆早上九点开门，晚上六点关门，星期日休息。",
    "新读者办理借书证，需要交五元工本费。",
    "借书证丢失后可以到服务台补办，补办费用是十二元。",
    "图书可以借四个星期，还可以再续借一次。",
]


def question(*turns: tuple[str, str]) -> Question:
    return Question("q1", tuple({"role": role, "content": text} for role, text in turns), "reference", "cluster")


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("What do I pay when my card was lost?", ENGLISH[2]),
        ("HOW LONG MAY BOOKS BE KEPT?", ENGLISH[3]),
        ("借书证丢了，补办要多少钱？", CHINESE[2]),
        ("图书馆星期日开门吗？", CHINESE[0]),
    ],
)
def test_the_passage_with_the_fact_comes_first(asked: str, found: str) -> None:
    assert Retrieval(ENGLISH + CHINESE).find(asked, 3)[0] == found


def test_at_most_as_many_as_asked_for_and_none_that_shares_no_word() -> None:
    retrieval = Retrieval([*ENGLISH, *ENGLISH])
    assert len(retrieval.find("the library card", 2)) == 2
    assert sorted(retrieval.find("books and a card at the library for members", 99)) == sorted(ENGLISH)
    assert retrieval.find("zebra", 3) == retrieval.find("", 3) == retrieval.find("？", 3) == []


def test_equally_good_passages_come_in_their_order_every_time() -> None:
    passages = [f"number {n} apple" for n in range(50)]
    assert Retrieval(passages).find("apple", 5) == passages[:5]


@pytest.mark.parametrize("passages", [[], ["", " … "]])
def test_nothing_to_search_in_is_said(passages: list[str]) -> None:
    with pytest.raises(SourceError, match="retrieval = 0"):
        Retrieval(passages)


def test_chinese_is_compared_by_characters_and_pairs_and_width_and_case_do_not_matter() -> None:
    assert terms("ＳＱＬ 查询语句, don't") == ["sql", "查", "询", "语", "句", "查询", "询语", "语句", "don", "t"]


def test_a_fact_deep_in_a_long_document_is_found_with_the_headings_above_it() -> None:
    chance = random.Random(1)
    words = [f"word{n}" for n in range(500)]
    sections = [
        f"## Part {n}\n\n" + "\n\n".join(" ".join(chance.choices(words, k=60)) + "." for _ in range(5))
        for n in range(9)
    ]
    sections[6] += "\n\nThe harbour master keeps the brass key under a blue stone."
    passages = list(passages_of([Document("# Harbour\n\n" + "\n\n".join(sections), "Handbook", Origin("h.md"))]))
    assert all(tokens_of(passage) <= 1.1 * PASSAGE for passage in passages)
    assert len(passages) > 20
    best = Retrieval(passages).find("Where is the brass key?", 1)[0]
    assert "under a blue stone" in best
    assert best.startswith("Handbook › Harbour › Part 6")


def test_rows_are_searched_by_question_and_answer() -> None:
    origin = Origin("rows.jsonl", 1)
    fact = Example((Message("system", "s"), Message("user", "Where is it?"), Message("assistant", "In Bern.")), origin)
    talk = Example((*fact.messages, Message("user", "And then?"), Message("assistant", "In Basel.")), origin)
    raw = Example((Message("text", "It is in Geneva."),), origin)
    long = Example((Message("user", "long " * 200), Message("assistant", "short")), origin)
    assert list(passages_of(map(document_of, [fact]))) == ["Where is it?\nIn Bern."]
    assert list(passages_of(map(document_of, [talk]))) == ["Where is it?\n\nIn Bern.\n\nAnd then?\n\nIn Basel."]
    assert list(passages_of(map(document_of, [raw]))) == ["It is in Geneva."]
    assert "short" in list(passages_of([document_of(long)]))[-1]


def test_passages_stand_before_the_last_question_in_its_language() -> None:
    asked = question(("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello"), ("user", "What is the fee?"))
    shown = with_passages(asked, ENGLISH[1:3])
    assert shown.messages[:3] == asked.messages[:3]
    assert shown.asked == (
        "Here are passages that may help to answer the question.\n\n"
        f"[1] {ENGLISH[1]}\n\n[2] {ENGLISH[2]}\n\nQuestion: What is the fee?"
    )
    assert (shown.id, shown.reference, asked.asked) == ("q1", "reference", "What is the fee?")
    assert with_passages(question(("user", "补办多少钱？")), CHINESE[2:3]).asked == (
        f"下面的资料可能有助于回答问题。\n\n[1] {CHINESE[2]}\n\n问题：补办多少钱？"
    )


def test_without_passages_the_question_is_asked_as_it_is() -> None:
    asked = question(("user", "What is the fee?"))
    assert with_passages(asked, []) is asked
