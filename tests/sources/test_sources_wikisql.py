"""WikiSQL's questions become SQL that runs, and returns what WikiSQL's own rule returns."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.errors import SourceError
from tunesmith.sources.example import Example
from tunesmith.sources.quarantine import Quarantined
from tunesmith.sources.wikisql import (
    AGGREGATES,
    OPERATORS,
    Table,
    Tables,
    column_names,
    open_table,
    read_wikisql,
    sql_for,
)

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "wikisql" / "wikisql-exec"

TABLE = {
    "id": "1-1",
    "header": ["Player", "No.", "", 'The "best"', "no."],
    "types": ["text", "real", "text", "text", "text"],
    "rows": [["Zoë O'Neil", 7, "x", "y", "1867"], ["Al", 44851, "é", "z", "12 (3)"]],
}


@pytest.fixture
def table() -> Table:
    raw = TABLE
    return Table(raw["id"], tuple(raw["header"]), tuple(raw["types"]), tuple(map(tuple, raw["rows"])))


def write(folder: Path, rows: list[Any], tables: list[Any]) -> tuple[Path, Path]:
    paths = folder / "rows.jsonl", folder / "tables.jsonl"
    for path, values in zip(paths, (rows, tables), strict=True):
        lines = [value if isinstance(value, str) else json.dumps(value) for value in values]
        path.write_text("".join(line + "\n" for line in lines), "utf-8")
    return paths


def question(sel: Any = 0, agg: Any = 0, conds: Any = (), text: str = "Who?", table_id: str = "1-1") -> dict[str, Any]:
    return {
        "phase": 1,
        "table_id": table_id,
        "question": text,
        "sql": {"sel": sel, "agg": agg, "conds": conds},
    }


def test_a_question_becomes_a_prompt_with_its_columns_and_sql_to_learn(tmp_path: Path) -> None:
    row = question(1, 3, [[0, 0, "zoë o'neil"], [1, 1, "5,000"]], "How many  for ZOË O'Neil above 5,000?")
    [example] = read_wikisql(*write(tmp_path, [row], [TABLE]))
    assert isinstance(example, Example)
    assert [m.content for m in example.messages] == [
        """t("Player" = 'ZOË O''Neil', "No.", "column_3", """
        '''"The ""best""", "no._2")\n'''
        "How many for ZOË O'Neil above 5,000?",
        """SELECT COUNT("No.") FROM t WHERE "Player" = 'ZOË O''Neil' AND "No." > '5000'""",
    ]
    assert [m.learn for m in example.messages] == [False, True]
    assert example.extra == {"table_id": "1-1"}
    assert example.group == "1-1"
    assert (example.origin.file, example.origin.line) == (str(tmp_path / "rows.jsonl"), 1)


def test_a_literal_is_spelt_as_in_the_question_whole_words_first(table: Table) -> None:
    sql = {"sel": 0, "agg": 0, "conds": [[2, 0, "us"]]}
    assert sql_for(table, sql, "Because of the US?").endswith("= 'US'")
    assert sql_for(table, sql, "beCAUSe?").endswith("= 'US'")
    assert sql_for(table, sql, "Who?").endswith("= 'us'")


def test_the_prompt_shows_where_the_questions_words_stand_longest_cell_first(table: Table) -> None:
    table = replace(table, rows=(*table.rows, ("Al Ain", 7.0, "中文", "y", "")))
    assert table.mentioned(0, "Where is Al, where al ain?") == "al ain"
    assert table.mentioned(0, "İs it Al?") == "Al"
    assert table.mentioned(0, "All of Alain?") is None
    assert table.mentioned(1, "Who wears 7?") == "7"
    assert table.mentioned(1, "Who wears 77?") is None
    assert table.mentioned(2, "谁说中文吗?") == "中文"


def test_a_literal_stays_equal_to_its_cell_where_folding_would_change_it(table: Table) -> None:
    sql = {"sel": 0, "agg": 0, "conds": [[2, 0, "strase"]]}
    assert sql_for(table, sql, "Which ſtraſe?").endswith("= 'strase'")


def test_the_database_ignores_case_in_any_script_and_compares_numbers_as_numbers(table: Table) -> None:
    with closing(open_table(table)) as db:
        assert db.execute("""SELECT "No." FROM t WHERE "Player" = 'ZOË o''neil'""").fetchall() == [(7,)]
        assert db.execute("""SELECT "Player" FROM t WHERE "column_3" = 'É' """).fetchall() == [("Al",)]
        assert db.execute("""SELECT "Player" FROM t WHERE "No." > '100' """).fetchall() == [("Al",)]
        assert db.execute("""SELECT "Player" FROM t WHERE "no._2" = 1867""").fetchall() == [("Zoë O'Neil",)]


@pytest.mark.parametrize(("agg", "expected"), [(1, "1867"), (2, "12 (3)"), (3, 2), (4, 1879), (5, 939.5)])
def test_an_aggregate_over_text_gives_what_sqlite_gives(table: Table, agg: int, expected: Any) -> None:
    with closing(open_table(table)) as db:
        assert db.execute(sql_for(table, {"sel": 4, "agg": agg, "conds": []}, "?")).fetchall() == [(expected,)]


def test_digits_of_another_script_become_a_number_that_sqlite_reads(table: Table) -> None:
    sql = sql_for(table, {"sel": 0, "agg": 0, "conds": [[1, 1, "១០០"]]}, "above ១០០?")
    assert sql.endswith("> '100.0'")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=6), min_size=1, max_size=8))
def test_any_header_becomes_columns_that_sqlite_takes(header: list[str]) -> None:
    # A lone half of a surrogate pair is no text: neither JSON files nor SQLite can hold it.
    header = [title.encode("utf-8", "replace").decode() for title in header]
    names = column_names(header)
    assert len({name.lower() for name in names}) == len(header)
    assert all(name.strip() for name in names)
    table = Table("x", tuple(header), ("text",) * len(header), (tuple(header),))
    with closing(open_table(table)) as db:
        for place, cell in enumerate(header):
            assert db.execute(sql_for(table, {"sel": place, "agg": 0, "conds": []}, "?")).fetchall() == [(cell,)]


def test_a_name_made_unique_does_not_meet_one_that_is_there_already() -> None:
    assert column_names(["a", "A", "a_2", "", "column_4"]) == ["a", "A_2", "a_2_2", "column_4", "column_4_2"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{not json", "broken JSON: a key is missing"),
        ("[1]", "not a JSON object"),
        (question(table_id="9-9"), "'9-9' is not in"),
        (question(text=" "), '"question"'),
        ({"table_id": "1-1", "question": "Who?"}, '"sql"'),
        ({"table_id": "1-1", "question": "Who?", "sql": {"sel": 0}}, '"sql"'),
        (question(sel=5), "column 5"),
        (question(sel=-1), "column -1"),
        (question(sel=True), "column True"),
        (question(agg=6), "aggregate 6"),
        (question(conds=[[0, 3, "x"]]), "operator 3"),
        (question(conds=[[0, 0]]), '"sql"'),
        (question(conds=7), '"sql"'),
        (question(conds=[[1, 0, "many"]]), "'many' is not a number"),
    ],
)
def test_a_bad_line_is_quarantined_with_its_place_and_reason(tmp_path: Path, row: Any, reason: str) -> None:
    bad, good = read_wikisql(*write(tmp_path, [row, question()], [TABLE]))
    assert isinstance(bad, Quarantined)
    assert reason in bad.reason
    assert str(bad.origin) == f"{tmp_path / 'rows.jsonl'}:1"
    assert bad.text == (row if isinstance(row, str) else json.dumps(row))
    assert isinstance(good, Example)


def test_bytes_that_are_not_utf8_are_quarantined(tmp_path: Path) -> None:
    rows, tables = write(tmp_path, [], [TABLE])
    rows.write_bytes(b'{"question": "\xff"}\n\n')
    [bad] = read_wikisql(rows, tables)
    assert isinstance(bad, Quarantined)
    assert bad.reason.startswith("damaged: it holds bytes")


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "{}",
        "[]",
        json.dumps(TABLE | {"types": ["text"]}),
        json.dumps(TABLE | {"rows": [["short"]]}),
    ],
)
def test_a_bad_table_is_an_error_that_names_file_and_line(tmp_path: Path, line: str) -> None:
    rows, tables = write(tmp_path, [], [TABLE, line])
    with pytest.raises(SourceError, match=r"tables\.jsonl:2"):
        list(read_wikisql(rows, tables))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    rows, tables = write(tmp_path, [], [TABLE])
    with pytest.raises(SourceError, match=r"nowhere\.jsonl"):
        list(read_wikisql(tmp_path / "nowhere.jsonl", tables))
    with pytest.raises(SourceError, match=r"nowhere\.jsonl"):
        list(read_wikisql(rows, tmp_path / "nowhere.jsonl"))


def rule(table: Table, questions: list[dict[str, Any]]) -> list[tuple[list[Any], int]]:
    """WikiSQL's own rule, written independently: the rows it returns, and how many rows it selects."""
    results: list[tuple[list[Any], int]] = []
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute(f"CREATE TABLE x ({', '.join(f'col{i} {kind}' for i, kind in enumerate(table.types))})")
        db.executemany(f"INSERT INTO x VALUES ({', '.join('?' * len(table.types))})", table.rows)
        for sql in questions:
            where, values = ["1"], []
            for column, operator, value in sql["conds"]:
                where.append(f"col{column} {OPERATORS[operator]} ?")
                number = table.types[column] == "real"
                values.append(float(value.replace(",", "")) if number else value.lower())
            tail = f"FROM x WHERE {' AND '.join(where)}"
            rows = db.execute(f"SELECT {AGGREGATES[sql['agg']]}(col{sql['sel']}) {tail}", values).fetchall()
            results.append((rows, db.execute(f"SELECT COUNT(*) {tail}", values).fetchone()[0]))
    return results


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data/wikisql")
@pytest.mark.parametrize(("part", "count"), [("dev", 1500), ("train", 6004)])
def test_every_real_question_runs_and_returns_what_wikisqls_rule_returns(part: str, count: int) -> None:
    tables = Tables(DATA / f"{part}.tables.jsonl")
    rows = [json.loads(line) for line in (DATA / f"{part}.jsonl").read_text("utf-8").splitlines()]
    examples = list(read_wikisql(DATA / f"{part}.jsonl", tables.path))
    assert len(examples) == len(rows) == count
    by_table: dict[str, list[tuple[dict[str, Any], str]]] = {}
    for row, example in zip(rows, examples, strict=True):
        assert isinstance(example, Example)
        by_table.setdefault(row["table_id"], []).append((row["sql"], example.answer))
    for table_id, asked in by_table.items():
        table = tables[table_id]
        expected = rule(table, [sql for sql, _ in asked])
        with closing(open_table(table)) as db:
            assert [db.execute(answer).fetchall() for _, answer in asked] == [rows for rows, _ in expected]
        assert min(selected for _, selected in expected) >= 1


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data/wikisql")
def test_every_name_in_a_real_answer_can_be_copied_from_its_prompt() -> None:
    for example in read_wikisql(DATA / "dev.jsonl", DATA / "dev.tables.jsonl"):
        assert isinstance(example, Example)
        without_literals = re.sub(r"'(?:[^']|'')*'(?= AND |$)", "", example.answer)
        names = re.findall(r'"(?:[^"]|"")+"', without_literals)
        assert names
        assert all(name in example.messages[0].content for name in names)
