"""Memorising: planted copies are found, and what is only alike, short or common is not called one."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest

from tunesmith.evaluation.memorising import Words, memorised
from tunesmith.evaluation.question import Question
from tunesmith.sources.example import Example, Message, Origin

RANDOM = random.Random(5)
VOCABULARY = ["".join(RANDOM.choices("abcdefghijklmnop", k=RANDOM.randint(2, 9))) for _ in range(5000)]


def prose(words: int) -> str:
    return " ".join(RANDOM.choices(VOCABULARY, k=words))


def chinese(characters: int) -> str:
    return "".join(chr(RANDOM.randint(0x4E00, 0x6FFF)) for _ in range(characters))


def row(answer: str, line: int = 1, file: str = "rows.jsonl", group: str = "", question: str = "") -> Example:
    turns = (Message("user", question or f"question {line}"), Message("assistant", answer, True))
    return Example(turns, Origin(file, line), group=group)


def question(
    asked: str = "a test question", reference: str = "", cluster: str = "own", origin: str = "test.jsonl:1"
) -> Question:
    return Question("q", ({"role": "user", "content": asked},), reference, cluster, origin)


def copied(answer: str, rows: list[Example], asked: Question | None = None) -> tuple[float, int]:
    found = memorised([(asked or question(), answer)], rows, 1.0, 1.0)
    return found["copied"], found["longest"]


def test_a_run_of_a_training_answer_is_found_with_its_length_whatever_its_case_and_punctuation() -> None:
    secret = prose(30)
    rows = [row(prose(50), n) for n in range(40)] + [row(f"{prose(9)} {secret} {prose(7)}", 41)]
    said = ", ".join(secret.upper().split())
    assert copied(f"{prose(5)} {said}! {prose(8)}", rows) == (1.0, 30)


def test_a_run_of_chinese_is_counted_by_characters() -> None:
    secret = chinese(40)
    rows = [row(chinese(200), n) for n in range(20)] + [row(chinese(9) + secret + "。" + chinese(12), 21)]
    assert copied(f"{chinese(5)}{secret[:20]}，{secret[20:]}{chinese(6)}", rows) == (1.0, 40)


@pytest.mark.parametrize(("length", "counts"), [(19, False), (20, True)])
def test_twenty_words_are_a_copy_and_nineteen_are_not(length: int, counts: bool) -> None:
    secret = prose(length)
    rows = [row(f"{prose(20)} {secret} {prose(20)}")]
    assert copied(f"{prose(10)} {secret} {prose(10)}", rows) == ((1.0, 20) if counts else (0.0, 0))


@pytest.mark.parametrize(("length", "counts"), [(29, False), (30, True)])
def test_thirty_chinese_characters_are_a_copy_and_twenty_nine_are_not(length: int, counts: bool) -> None:
    secret = chinese(length)
    rows = [row(chinese(30) + secret + chinese(30))]
    assert copied(chinese(10) + secret + chinese(10), rows) == ((1.0, 30) if counts else (0.0, 0))


def test_what_the_question_or_the_reference_says_is_no_copy() -> None:
    secret = prose(40)
    rows = [row(secret)]
    assert copied(secret, rows, question(asked=f"Say this again: {secret}")) == (0.0, 0)
    assert copied(secret, rows, question(reference=secret)) == (0.0, 0)


def test_an_answer_may_be_like_the_rows_of_its_own_document_or_passage() -> None:
    secret = prose(40)
    assert copied(secret, [row(secret, group="guide.md")], question(cluster="guide.md")) == (0.0, 0)
    assert copied(secret, [row(secret, 7, "guide.md")], question(origin="guide.md:7")) == (0.0, 0)
    assert copied(secret, [row(secret, group="other.md")], question(cluster="guide.md")) == (1.0, 40)


def test_a_phrase_of_many_rows_is_no_copy_of_one_but_one_answer_to_many_questions_is() -> None:
    phrase = prose(30)
    assert copied(phrase, [row(f"{phrase} {prose(9)}", n) for n in range(4)]) == (0.0, 0)
    assert copied(phrase, [row(f"{phrase} {prose(9)}", n) for n in range(3)]) == (1.0, 30)
    assert copied(phrase, [row(phrase, n) for n in range(50)]) == (1.0, 30)


def test_a_run_goes_on_over_two_rows_of_a_file_nowhere() -> None:
    secret = prose(30).split()
    rows = [row(" ".join(secret[:15]), 1), row(" ".join(secret[15:]), 2)]
    assert copied(" ".join(secret), rows) == (0.0, 0)


def test_raw_text_and_every_answer_of_a_conversation_count_as_trained() -> None:
    secret = prose(20)
    raw = Example((Message("text", f"{prose(5)} {secret}", True),), Origin("a.txt", 1))
    talk = Example(
        (Message("user", "hello"), Message("assistant", secret), Message("user", "more"), Message("assistant", "no")),
        Origin("talk.jsonl", 1),
    )
    assert copied(secret, [raw]) == copied(secret, [talk]) == (1.0, 20)


@pytest.mark.parametrize("answer", ["", "…", "yes", "half \ud83d", "İstanbul 😀"])
def test_answers_without_a_run_are_counted_and_copy_nothing(answer: str) -> None:
    assert copied(answer, [row(answer), row("")]) == (0.0, 0)
    assert memorised([], [], 2.0, 2.1)["n"] == 0


def test_the_alarm_says_what_it_cost_and_where_to_go_back_to() -> None:
    found = memorised([], [], 0.0002, 2.91, best_step=120)
    assert found["alarm"] == (
        "It memorised: training rows cost 0.0002, rows it never saw 2.91; fewer epochs or a smaller rank would help, "
        "the best checkpoint was at step 120"
    )


@pytest.mark.parametrize(
    ("train_loss", "loss", "base_gap"),
    [
        (1.4, 1.9, 0.0),  # one good epoch of prose
        (0.03, 0.12, 0.0),  # SQL: four times as good, but nearly nothing
        (0.0001, 0.0001, 0.0),  # a fixed answer, known as well to rows never seen
        (0.5, 2.5, 1.8),  # the rows that were held out are harder, for the base too
        (float("nan"), 2.0, 0.0),
    ],
)
def test_no_alarm_where_training_rows_are_only_a_little_better_known(
    train_loss: float, loss: float, base_gap: float
) -> None:
    assert memorised([], [], train_loss, loss, base_gap=base_gap)["alarm"] == ""


def test_copies_are_an_alarm_only_where_training_rows_are_better_known_too() -> None:
    texts = [prose(30) for _ in range(20)]
    rows = [row(text, n) for n, text in enumerate(texts)]
    answers = [(question(), text if n < 3 else prose(30)) for n, text in enumerate(texts)]
    found = memorised(answers, rows, 1.2, 1.8)
    assert (found["copied"], found["n"], found["longest"]) == (0.15, 20, 30)
    assert found["alarm"].startswith("It memorised: 15% of its answers repeat training rows word for word")
    assert "\n" not in found["alarm"]
    assert memorised(answers, rows, 1.2, 1.3)["alarm"] == ""
    assert memorised(answers[2:], rows, 1.2, 1.8)["alarm"] == ""


def test_queries_of_one_kind_are_alike_and_no_alarm() -> None:
    """Long queries to one table share everything but a value or two."""
    shape = "SELECT {} FROM orders JOIN customers ON orders.customer = customers.id WHERE city = '{}' AND year > {}"
    columns = ["name", "count(*)", "sum(price)", "email"]
    made = [shape.format(columns[n % 4], VOCABULARY[n % 40], 1990 + n % 30) for n in range(400)]
    rows = [row(query, n) for n, query in enumerate(made[:300])]
    answers = [(question(reference=made[300 + n]), made[n + 1]) for n in range(100)]
    assert memorised(answers, rows, 0.02, 0.05)["alarm"] == ""


def test_the_time_grows_with_the_text_and_no_faster() -> None:
    texts = [prose(60) for _ in range(2000)]

    def rows() -> Iterator[Example]:
        for n in range(20_000):
            yield row(f"{n} {texts[n % 2000]} {texts[n * 7 % 2000]}", n)

    answers = [(question(), prose(100)) for _ in range(300)]
    begun = time.process_time()
    assert memorised(answers, rows(), 1.0, 1.0)["copied"] == 0.0
    assert time.process_time() - begun < 8  # about 1.5 s; comparing all with all takes minutes


def test_words_are_told_apart_as_people_do() -> None:
    words = Words.of(["It's 3.5 km, 中文abc", "", "x"])
    assert words.texts.tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 2]  # it s 3 5 km 中 文 abc, x
    assert words.weights.tolist() == [3, 3, 3, 3, 3, 2, 2, 3, 3]
