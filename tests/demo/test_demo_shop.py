"""The sample: held out in wording and in value, and answered by its own database."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path

import pytest

from tunesmith.demo.questions import INTENTS
from tunesmith.demo.shop import SYSTEM, write_sample
from tunesmith.errors import StorageError

Pair = tuple[str, str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder)
    return folder


@pytest.fixture(scope="module")
def shop(folder: Path):
    connection = sqlite3.connect(":memory:")
    connection.executescript((folder / "shop.sql").read_text("utf-8"))
    yield connection
    connection.close()


def pairs(folder: Path, part: str) -> list[Pair]:
    rows = [json.loads(line)["messages"] for line in (folder / f"{part}.jsonl").read_text("utf-8").splitlines()]
    assert all([turn["role"] for turn in row] == ["system", "user", "assistant"] for row in rows)
    assert all(row[0]["content"] == SYSTEM for row in rows)
    return [(row[1]["content"], row[2]["content"]) for row in rows]


def bare(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s]", " ", text.lower()).split())


def literals(pairs: list[Pair]) -> set[str]:
    found: set[str] = set()
    for _, sql in pairs:
        # LIMIT 1 is "the cheapest": a word of the question's kind, not a value in it.
        found.update(re.findall(r"'[^']*'|\b\d+\b", re.sub(r"LIMIT 1$", "", sql)))
    return found


def test_no_question_comes_twice_nor_on_both_sides(folder: Path) -> None:
    train, test = ({bare(question) for question, _ in pairs(folder, part)} for part in ("train", "test"))
    assert (len(train), len(test)) == (1600, 200)
    assert not train & test


def test_no_value_in_a_test_query_is_in_a_training_query(folder: Path) -> None:
    assert not literals(pairs(folder, "train")) & literals(pairs(folder, "test"))


def test_no_test_value_stands_in_a_training_question(folder: Path) -> None:
    words = {value.strip("'%") for value in literals(pairs(folder, "test"))}
    questions = "\n".join(question for question, _ in pairs(folder, "train"))
    assert [word for word in words if re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", questions)] == []


def test_no_wording_is_on_both_sides_or_in_two_intents() -> None:
    wordings = [bare(w) for intent in INTENTS for part in ("train", "test") for w in intent.wordings(part)]
    assert len(wordings) == len(set(wordings))


@pytest.mark.parametrize("intent", INTENTS, ids=lambda intent: intent.sql[:60])
def test_each_wording_has_the_slots_of_its_query(intent) -> None:
    slots = set(re.findall(r"{(\w+)}", intent.sql))
    assert slots
    for part, least in (("train", 10), ("test", 4)):
        wordings = intent.wordings(part)
        assert len(wordings) >= least
        assert all(set(re.findall(r"{(\w+)}", wording)) == slots for wording in wordings)


def test_every_gold_query_returns_something_other_than_nothing(folder: Path, shop: sqlite3.Connection) -> None:
    for _, sql in pairs(folder, "train") + pairs(folder, "test"):
        rows = shop.execute(sql).fetchall()
        assert rows, sql
        assert rows[0] not in {(0,), (None,)}, sql


def test_every_value_stands_in_the_question_as_in_the_query(folder: Path) -> None:
    for part in ("train", "test"):
        for question, sql in pairs(folder, part):
            assert all(value.strip("'%") in question for value in literals([(question, sql)]))


def test_every_intent_is_asked_in_both_parts(folder: Path) -> None:
    shapes = [re.compile(re.sub(r"\\{\w+\\}", ".+", re.escape(intent.sql))) for intent in INTENTS]
    for part, least in (("train", 50), ("test", 6)):
        queries = [sql for _, sql in pairs(folder, part)]
        assert min(sum(bool(shape.fullmatch(sql)) for sql in queries) for shape in shapes) >= least


def test_no_two_products_share_a_price_so_that_the_dearest_are_certain(shop: sqlite3.Connection) -> None:
    assert shop.execute("SELECT count(*) = count(DISTINCT price) FROM products").fetchone() == (1,)


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_sample(tmp_path / name, train=60, test=30, seed=seed)
    for name in ("shop.sql", "train.jsonl", "test.jsonl"):
        first = (tmp_path / "a" / name).read_bytes()
        assert first == (tmp_path / "b" / name).read_bytes()
        assert first != (tmp_path / "c" / name).read_bytes()


def test_nothing_else_is_left_in_the_folder(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["shop.sql", "test.jsonl", "train.jsonl"]


def test_more_questions_than_there_are_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"only \d+ test questions"):
        write_sample(tmp_path, train=10, test=1_000_000)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises((StorageError, OSError), match="file"):
        write_sample(tmp_path / "file", train=10, test=10)
