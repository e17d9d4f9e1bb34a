from __future__ import annotations

import pytest

from tunesmith.teacher import parse

TWO = ["How do I add a page?", "What is a block?"]


@pytest.mark.parametrize("reply", [
    '{"questions": ["How do I add a page?", "What is a block?"]}',
    '["How do I add a page?", "What is a block?"]',
    'Sure! Here you are:\n```json\n{"questions": ["How do I add a page?", "What is a block?",]}\n```\nAnything else?',
    '{"questions": [{"question": "How do I add a page?"}, {"question": "What is a block?"}], }',
    '<think>\nThey want ["x"]\n</think>\n{"questions": ["How do I add a page?", "What is a block?"]}',
    "1. How do I add a page?\n2. What is a block?",
    "Of course:\n\n- How do I add a page?\n- **What is a block?**\n",
    "1) \"How do I add a page?\"\n2) “What is a block?”",
    '{"questions": [{"wordings": ["How do I add a page?"]}, {"wordings": ["What is a block?"]}]}',
])  # fmt: skip
def test_questions_are_found_in_whatever_a_teacher_writes_around_them(reply):
    assert [wordings[0] for wordings in parse.groups(reply)] == TWO


@pytest.mark.parametrize("reply", ["I would be happy to help you.", "", "{", "[]", '{"questions": []}', "null"])
def test_what_holds_no_question_gives_none(reply):
    assert parse.groups(reply) == []


@pytest.mark.parametrize("reply", [
    '{"questions": [{"wordings": ["a b?", "c d?"]}, {"wordings": ["e f?"]}]}',
    '[["a b?", "c d?"], ["e f?"]]',
    '{"questions": [{"question": "a b?", "wordings": ["c d?", "a b?"]}, {"question": "e f?"}]}',
])  # fmt: skip
def test_wordings_stay_with_their_question(reply):
    assert parse.groups(reply) == [["a b?", "c d?"], ["e f?"]]


def test_an_answer_is_what_stands_behind_label_and_reasoning():
    assert parse.plain("<think>hm</think>\n**Answer:** It is *blue*.") == "It is *blue*."
    assert parse.plain("答案：蓝色。") == "蓝色。"
    assert parse.plain("```markdown\n# Title\n```") == "# Title"
    assert parse.plain("```sql\nSELECT 1\n```") == "```sql\nSELECT 1\n```"
    assert parse.plain("<think>never ends") == ""


def test_one_question_and_a_verdict():
    assert parse.one_question('{"question": "Why?"}') == "Why?"
    assert parse.one_question('"Why is that?"') == "Why is that?"
    assert parse.one_question("Well.\nThere are many.") == ""
    assert parse.verdict('{"good": false}') is False
    assert parse.verdict("Yes, it does.") is True
    assert parse.verdict("不对。") is False
    assert parse.verdict("It may be.") is None
