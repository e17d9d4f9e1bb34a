"""The general set: what its file promises, and how answers to it are graded."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tunesmith.dataset.similar import normal
from tunesmith.evaluation.general import FILE, General, by_kind

ITEMS: list[dict[str, Any]] = [json.loads(line) for line in FILE.read_bytes().decode("utf-8").splitlines()]
CHOSEN = [item for item in ITEMS if item["kind"] == "knowledge"]
GENERAL = General()
QUESTIONS = {question.id: question for question in GENERAL.questions([])}


def ask(text: str) -> str:
    """The id of the one item that is asked so."""
    return next(item["id"] for item in ITEMS if item["question"].startswith(text))


def grade(text: str, answer: str) -> bool:
    return GENERAL.grade(QUESTIONS[ask(text)], answer).right


def test_about_three_hundred_items_half_in_each_language_none_twice() -> None:
    assert 280 <= len(ITEMS) <= 320
    assert len({item["id"] for item in ITEMS}) == len({normal(item["question"]) for item in ITEMS}) == len(ITEMS)
    languages = Counter(item["language"] for item in ITEMS)
    assert abs(languages["en"] - languages["zh"]) <= 2
    for item in ITEMS:
        chinese = any("\u4e00" <= c <= "\u9fff" for c in item["question"])
        assert chinese == (item["language"] == "zh"), item["id"]
    assert Counter(item["kind"] for item in ITEMS).keys() == {"arithmetic", "knowledge", "instruction"}


def test_every_item_is_short_enough_to_be_asked_quickly() -> None:
    for item in ITEMS:
        far = sum(c > "\u2e7f" for c in item["question"])
        assert far + (len(item["question"]) - far) / 3 < 45, item["id"]


def test_four_different_choices_and_the_answer_is_one_of_them() -> None:
    for item in CHOSEN:
        assert len({normal(choice) for choice in item["choices"]}) == 4, item["id"]
        assert item["answer"] in item["choices"], item["id"]


def test_no_choice_is_a_good_guess_by_its_place_or_its_length() -> None:
    guesses: list[Callable[[list[str]], str]] = [lambda c, at=place: c[at] for place in range(4)]
    for language in ("en", "zh"):
        items = [item for item in CHOSEN if item["language"] == language]
        for guess in (*guesses, lambda c: max(c, key=len), lambda c: min(c, key=len)):
            assert 0.12 < sum(guess(item["choices"]) == item["answer"] for item in items) / len(items) < 0.38


def test_no_number_that_is_asked_for_stands_in_its_question() -> None:
    for item in ITEMS:
        if item["kind"] == "arithmetic":
            assert GENERAL.grade(QUESTIONS[item["id"]], item["answer"]).right, item["id"]
            assert not GENERAL.grade(QUESTIONS[item["id"]], item["question"]).right, item["id"]


def test_each_instruction_is_kept_by_its_example_and_not_by_silence_or_chatter() -> None:
    chatter = "I would be glad to help you with that. Let me think about it for a while.\n\nHere is what I know.\n"
    for item in ITEMS:
        if item["kind"] == "instruction":
            question = QUESTIONS[item["id"]]
            if item["rule"].keys() in ({"one_of"}, {"any"}):
                assert GENERAL.grade(question, question.reference).right, item["id"]
            assert not GENERAL.grade(question, "").right, item["id"]
            assert not GENERAL.grade(question, chatter).right, item["id"]


@pytest.mark.parametrize(
    ("question", "kept", "broken"),
    [
        ("What color is the sky", ["Blue.", "It is **blue** today."], ["Red", "The bluebird", "SELECT color FROM sky"]),
        ("Do cats have wings", ["No.", "**No**, they do not."], ["Cats have no wings.", "Not at all", "Yes"]),
        ("Name a fruit", ["A fruit: mango!", "Apples"], ["pineapples-like", "Chair"]),
        ("Repeat this word", ["Banana.", '"banana"'], ["The word is banana."]),
        ('Write the word "hello" in capital', ["HELLO", '"HELLO"'], ["Hello", "HELLO WORLD"]),
        ("Name three things that you can eat", ["BREAD, RICE, EGGS"], ["Bread, rice, eggs", "BREAD"]),
        ("Describe summer in exactly three", ["Hot, bright, long."], ["Hot and bright.\nLong days."]),
        ("Count from 1 to 5", ["1, 2, 3, 4, 5", "1 2 3 4 5"], ["1, 2, 3, 4, 5, 6", "one to five"]),
        ("List three fruits", ["apple\npear\n\nplum", "- apple\n- pear\n- plum"], ["apple, pear, plum"]),
        ("Answer as JSON", ['{"color": "green"}', '```json\n{"color": "Green"}\n```'], ['{"color": "red"}', "green"]),
        ('Write a JSON object with the key "name"', ['{"name": "Anna"}'], ['{"name": "Anna", "age": 3}', '["Anna"]']),
        ("Ask me a short question", ["How are you?", "“How are you?”"], ["How are you", "Question? No."]),
        ("Name an animal that is neither", ["Horse"], ["Dog", "a horse"]),
        ("鱼会开汽车吗", ["不会。", "不会，鱼没有手。"], ["会", "鱼不会开汽车"]),
        ("“大”的反义词", ["小", "是“小”。"], ["矮"]),
        ("只回答“对”或“错”", ["对", "对。"], ["错", "对的，一年有十二个月"]),
        ("列出三种动物", ["猫\n狗\n鸟"], ["猫、狗、鸟"]),
        ('写一个JSON对象，键是"name"', ['{"name": "小明"}'], ["小明"]),
        ("人为什么要睡觉", ["因为身体需要休息。"], ["因为人的身体和大脑都需要得到充分的休息。"]),
        ("问我一个简短的问题", ["你叫什么名字？"], ["你叫什么名字。"]),
        ("写一句夸奖朋友的话", ["你真棒！"], ["你真棒"]),
    ],
)
def test_a_rule_tells_what_keeps_to_it(question: str, kept: list[str], broken: list[str]) -> None:
    assert [grade(question, answer) for answer in kept] == [True] * len(kept)
    assert [grade(question, answer) for answer in broken] == [False] * len(broken)


def test_the_last_number_that_the_question_does_not_have_is_the_answer() -> None:
    assert all(grade("What is 3 plus 4", answer) for answer in ("7", "3 + 4 = 7", "It is 7.0.", "７"))
    assert grade("How many minutes are in 2 hours", "There are 120 minutes in 2 hours.")
    assert grade("125乘以8", "等于1,000。")
    assert not any(grade("What is 3 plus 4", answer) for answer in ("seven", "", "3 plus 4", "7 or 8", "3.7"))


def test_what_has_choices_is_asked_by_likelihood_and_the_rest_with_few_tokens() -> None:
    for item in ITEMS:
        question = QUESTIONS[item["id"]]
        assert (len(question.choices), question.limit is None) == ((4, True) if item in CHOSEN else (0, False))
        assert question.cluster == question.id
    capital = QUESTIONS[ask("What is the capital of France")]
    assert [GENERAL.grade(capital, choice).score for choice in ("Paris", "London")] == [1.0, 0.0]


def test_scores_by_kind_and_language_leave_out_what_has_no_verdict() -> None:
    samples = [
        {"id": "know-en-001", "score": 1.0},
        {"id": "know-zh-001", "score": 0.0},
        {"id": "math-zh-002", "score": 1.0},
        {"id": "inst-zh-003", "score": None},
    ]
    assert by_kind(samples) == {
        "arithmetic": {"score": 1.0, "n": 1},
        "knowledge": {"score": 0.5, "n": 2},
        "en": {"score": 1.0, "n": 1},
        "zh": {"score": 0.5, "n": 2},
    }
