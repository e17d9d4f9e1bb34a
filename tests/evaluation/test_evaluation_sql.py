"""Execution accuracy, and that a model's SQL can neither change anything nor run away."""

from __future__ import annotations

import gc
import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tunesmith.errors import SourceError
from tunesmith.evaluation.question import Question, ask_rows
from tunesmith.evaluation.tasks import sql as module
from tunesmith.evaluation.tasks.sql import QueryFailed, SqlTask, extract_sql, same_rows
from tunesmith.sources.example import Example, Message, Origin

SCRIPT = """
CREATE TABLE p (name TEXT, price REAL, n INTEGER);
INSERT INTO p VALUES ('a', 1.5, 2), ('b', 2.5, 3), ('c; d', 4, NULL), ('a', 1.5, 2);
"""
DATA = Path(__file__).parents[2].parent / "shared" / "data" / "wikisql" / "wikisql-exec"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "p.sql"
    path.write_text(SCRIPT)
    return path


@pytest.fixture
def task(database: Path) -> SqlTask:
    return SqlTask(database=database)


def row(gold: str, **extra: object) -> Example:
    return Example((Message("user", "?"), Message("assistant", gold, True)), Origin("rows.jsonl", 7), extra)


def asked(gold: str, **extra: object) -> Question:
    return ask_rows([row(gold, **extra)])[0]


def reason(task: SqlTask, answer: str, gold: str = "SELECT name FROM p WHERE n = 3") -> str:
    verdict = task.grade(asked(gold), answer)
    assert verdict.right == (verdict.reason == "same rows")
    return verdict.reason


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("SELECT name FROM p", "select NAME from p order by price desc"),
        ("SELECT n FROM p WHERE name = 'b'", "SELECT 3.0"),
        ("SELECT price FROM p", "SELECT price + 1e-12 FROM p"),
        ("SELECT sum(price) * 0.1 FROM p", "SELECT sum(price * 0.1) FROM p"),
        ("SELECT name FROM p WHERE n = 99", "SELECT price FROM p WHERE name = 'nobody'"),
        ("SELECT name FROM p ORDER BY price DESC LIMIT 1", "SELECT name FROM p WHERE price = 4"),
        ("SELECT n FROM p WHERE price = 4", "SELECT NULL"),
    ],
)
def test_the_same_rows_are_right_whatever_the_query(task: SqlTask, gold: str, answer: str) -> None:
    assert reason(task, answer, gold) == "same rows"


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("SELECT name FROM p", "SELECT DISTINCT name FROM p"),
        ("SELECT name, n FROM p", "SELECT n, name FROM p"),
        ("SELECT name FROM p", "SELECT name, n FROM p"),
        ("SELECT n FROM p WHERE name = 'b'", "SELECT '3'"),
        ("SELECT n FROM p WHERE price = 4", "SELECT 0"),
        ("SELECT name FROM p WHERE n = 3", "SELECT 'B'"),
        ("SELECT price FROM p WHERE n = 3", "SELECT 2.50001"),
        ("SELECT name FROM p WHERE n = 99", "SELECT name FROM p"),
        ("SELECT name FROM p ORDER BY price DESC LIMIT 1", "SELECT name FROM p ORDER BY price LIMIT 1"),
    ],
)
def test_other_rows_are_wrong(task: SqlTask, gold: str, answer: str) -> None:
    assert reason(task, answer, gold) == "different rows"


def test_rows_that_differ_by_rounding_still_meet_their_partners() -> None:
    first = [(0.1 + 0.2, 1, "x"), (0.3, 2, "x"), (None, 0, "y"), (1e300, b"z", "y")]
    second = [(None, 0, "y"), (0.3, 1, "x"), (1e300, b"z", "y"), (0.1 + 0.2, 2, "x")]
    assert same_rows(first, second)


@pytest.mark.parametrize(
    ("answer", "query"),
    [
        ("SELECT 1", "SELECT 1"),
        ("  select 1 ; ", "select 1"),
        ("SELECT 1; DROP TABLE p", "SELECT 1"),
        ("```sql\nSELECT 1;\n```\nThis selects one.", "SELECT 1"),
        ("Here you are:\n```\nSELECT 1\nFROM p\n```", "SELECT 1\nFROM p"),
        ("```SELECT 1```", "SELECT 1"),
        ("```sql\nSELECT 1", "SELECT 1"),
        (
            "SELECT name FROM p WHERE name = 'c; d' -- why; not\n;",
            "SELECT name FROM p WHERE name = 'c; d' -- why; not",
        ),
        ("SELECT 1\n\nThis query selects one.", "SELECT 1"),
        ("You can select the row with this query: SELECT 1", "SELECT 1"),
        ("With this you select it:\nselect 1", "select 1"),
        ("WITH a AS (SELECT 1) SELECT * FROM a", "WITH a AS (SELECT 1) SELECT * FROM a"),
        ("Update: SELECT 1", "SELECT 1"),
    ],
)
def test_the_query_is_found_in_what_a_model_says(answer: str, query: str) -> None:
    assert extract_sql(answer) == query


@pytest.mark.parametrize("answer", ["", "I do not know.", "```\n```", "Selected: 5", "With pleasure!"])
def test_an_answer_without_a_query_is_no_sql(task: SqlTask, answer: str) -> None:
    with pytest.raises(QueryFailed, match="no SQL"):
        extract_sql(answer)
    assert reason(task, answer) == "no SQL"


@pytest.mark.parametrize(
    "answer",
    [
        "INSERT INTO p SELECT * FROM p",
        "UPDATE p SET n = 1 WHERE n IN (SELECT 1)",
        "DELETE FROM p",
        "REPLACE INTO p SELECT * FROM p",
        "WITH x AS (SELECT 1) DELETE FROM p",
        "WITH x AS (SELECT 1) INSERT INTO p SELECT 1, 2, 3",
        "CREATE TABLE q AS SELECT 1",
        "CREATE TEMP TABLE q AS SELECT 1",
        "DROP TABLE p",
        "ATTACH 'other.db' AS other",
        "VACUUM INTO 'other.db'",
        "PRAGMA query_only = OFF",
        "EXPLAIN SELECT 1",
        "SELECT * FROM pragma_table_info('p')",
        "```sql\nDELETE FROM p\n```",
    ],
)
def test_whatever_is_not_a_select_is_refused(task: SqlTask, answer: str) -> None:
    assert reason(task, answer) == "not a SELECT"
    assert reason(task, "SELECT 4", "SELECT count(*) FROM p") == "same rows"


@pytest.mark.parametrize("suffix", [".db", ".sqlite"])
def test_a_database_file_is_never_changed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"with space%20 and ?{suffix}"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SCRIPT)
    before = path.read_bytes()
    task = SqlTask(database=path)
    assert reason(task, "SELECT name FROM p WHERE n = 3") == "same rows"
    assert reason(task, "WITH x AS (SELECT 1) DELETE FROM p") == "not a SELECT"
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_file_cannot_be_attached_even_when_sql_is_run_directly(database: Path, tmp_path: Path) -> None:
    runner = module.Runner(sqlite3.connect(":memory:"))
    for query in (
        f"ATTACH '{tmp_path / 'other.db'}' AS other",
        "PRAGMA query_only = OFF",
        "DELETE FROM sqlite_master",
    ):
        with pytest.raises(QueryFailed):
            runner.rows(query)
    with pytest.raises(QueryFailed, match="does not run"):
        runner.rows("SELECT 1; SELECT 2")
    assert not (tmp_path / "other.db").exists()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("SELECT nobody FROM p", "no such column: nobody"),
        ("SELECT FROM WHERE", "syntax error"),
        ("SELECT load_extension('x')", "not authorized"),
        ("SELECT writefile('x', 'y')", "no such function"),
        ("SELECT zeroblob(900000000)", "too big"),
        ("SELECT " + "(" * 3000 + "1" + ")" * 3000, "overflow"),
        ("SELECT 1" + " + 1" * 9000, "too "),
        ("SELECT '\ud800'", "surrogates"),
        ("SELECT '\0'", ""),
    ],
)
def test_a_query_that_fails_says_why_and_the_next_one_runs(task: SqlTask, answer: str, why: str) -> None:
    said = reason(task, answer)
    assert said.startswith("does not run: ")
    assert why in said
    assert reason(task, "SELECT 'b'") == "same rows"


@pytest.mark.parametrize(
    "answer",
    [
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c",
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c ORDER BY x DESC",
        f"SELECT count(*) FROM {', '.join(f'p p{i}' for i in range(30))}",
    ],
)
def test_a_query_that_does_not_end_is_stopped(task: SqlTask, answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.2)
    assert reason(task, answer) == "took longer than 0.2 s"
    assert reason(task, "SELECT 'b'") == "same rows"


def test_a_query_that_doubles_at_every_step_is_stopped_before_it_fills_the_memory(task: SqlTask) -> None:
    doubling = "".join(f", a{i} AS (SELECT 1 FROM a{i - 1} x, a{i - 1} y)" for i in range(1, 40))
    # Whichever comes first: SQLite does this while preparing, where only its own heap limit holds.
    assert reason(task, f"WITH a0 AS (SELECT 1){doubling} SELECT count(*) FROM a39") in {
        "does not run: too little memory",
        "took longer than 2 s",
    }
    assert reason(task, "SELECT 'b'") == "same rows"


def test_the_time_limit_is_two_seconds() -> None:
    assert module.SECONDS == 2


@pytest.mark.parametrize("cell", ["x", "zeroblob(200000)"])
def test_endless_rows_are_not_collected(task: SqlTask, cell: str) -> None:
    endless = f"WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT {cell} FROM c"
    assert reason(task, endless) == "different rows"


def test_a_gold_query_that_fails_names_its_line(task: SqlTask) -> None:
    for gold in ("SELECT nobody FROM p", "", "DELETE FROM p"):
        with pytest.raises(SourceError, match=r"rows\.jsonl:7"):
            task.grade(asked(gold), "SELECT 1")
    with pytest.raises(SourceError, match=r"rows\.jsonl:7: the gold SQL fails \(does not run: no such column"):
        task.questions([row("SELECT 1"), row("SELECT nobody FROM p")])
    with pytest.raises(SourceError, match="no test row has an answer"):
        task.questions([row(" ")])


def test_a_gold_query_with_too_many_rows_names_its_line(task: SqlTask) -> None:
    counting = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT {}) SELECT x FROM c"
    assert reason(task, counting.format(10_000), counting.format(10_000)) == "same rows"
    with pytest.raises(SourceError, match=r"rows\.jsonl:7.*10000 rows"):
        task.grade(asked(counting.format(10_001)), "SELECT 1")


def test_exactly_one_of_database_and_tables_is_needed(database: Path) -> None:
    with pytest.raises(SourceError, match="one of them"):
        SqlTask()
    with pytest.raises(SourceError, match="one of them"):
        SqlTask(database=database, tables=database)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("missing.sql", None),
        ("broken.sql", b"CREATE TABLE"),
        ("latin1.sql", b"SELECT '\xe9'"),
        ("not-a.db", b"plain text, and long enough for a header" * 9),
        ("attaches.sql", b"ATTACH 'elsewhere.db' AS e; CREATE TABLE e.t (x);"),
    ],
)
def test_a_database_that_cannot_be_opened_is_named(
    tmp_path: Path, name: str, content: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=name):
        SqlTask(database=tmp_path / name)
    gc.collect()
    assert not (tmp_path / "elsewhere.db").exists()


def test_each_wikisql_question_is_asked_of_its_own_table(tmp_path: Path) -> None:
    tables = tmp_path / "tables.jsonl"
    rows = [
        {
            "id": f"t-{i}",
            "header": ["Name", "Pts"],
            "types": ["text", "real"],
            "rows": [["Zoë", i], ["Al", 5]],
        }
        for i in range(80)
    ]
    tables.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = SqlTask(tables=tables)
    for i in (0, 79, 1, 0):
        example = asked('SELECT "Pts" FROM t WHERE "Name" = \'ZOË\'', table_id=f"t-{i}")
        assert task.grade(example, f"SELECT {i}").right
        assert not task.grade(example, "SELECT 5").right
    with pytest.raises(SourceError, match=r"rows\.jsonl:7.*t-80"):
        task.grade(asked("SELECT 1", table_id="t-80"), "SELECT 1")
    with pytest.raises(SourceError, match=r"rows\.jsonl:7.*None"):
        task.grade(asked("SELECT 1"), "SELECT 1")


def plain(connection: sqlite3.Connection, query: str) -> list[str] | None:
    """The rows of a query, sorted, an integer the same as a float; None when it does not run."""
    try:
        rows = connection.execute(query).fetchall()
    except sqlite3.Error:
        return None
    return sorted(repr([float(cell) if isinstance(cell, int) else cell for cell in row]) for row in rows)


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data/wikisql")
def test_the_grader_agrees_with_plain_sqlite_on_every_wikisql_dev_query() -> None:
    """Asked about are the gold query, the one of the next question (most often about the same table), and the gold
    without its conditions."""
    from tunesmith.sources.wikisql import Tables, open_table, read_wikisql

    tables = DATA / "dev.tables.jsonl"
    examples = [e for e in read_wikisql(DATA / "dev.jsonl", tables) if isinstance(e, Example)]
    known, task = Tables(tables), SqlTask(tables=tables)
    questions = task.questions(examples)
    assert len(questions) == 1500
    right = 0
    for question, following in zip(questions, [*questions[1:], questions[0]], strict=True):
        assert question.example is not None
        with closing(open_table(known[question.example.extra["table_id"]])) as connection:
            gold = plain(connection, question.reference)
            for query in (question.reference, following.reference, question.reference.partition(" WHERE ")[0]):
                verdict = task.grade(question, f"Here it is:\n```sql\n{query};\n```")
                assert verdict.right == (plain(connection, query) == gold), (question.origin, query, verdict)
                right += verdict.right
    assert 1500 < right < 4500  # both verdicts were asked for


NASTY = """
import resource, sys
from pathlib import Path
from tunesmith.evaluation.question import Question
from tunesmith.evaluation.tasks import sql

task = sql.SqlTask(database=Path(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
verdict = task.grade(Question("1", ({"role": "user", "content": "?"},), "SELECT 1", ""), sys.argv[2])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
unit = 1 if sys.platform == "darwin" else 1024
print(verdict.score, (after - before) * unit, verdict.reason)
"""
ENDLESS = "WITH RECURSIVE c(x) AS (SELECT {0} UNION{1} SELECT {0} FROM c) SELECT {2} FROM c"


@pytest.mark.parametrize(
    "answer",
    [
        ENDLESS.format("randomblob(200000)", "", "count(*)"),
        ENDLESS.format("hex(randomblob(100000))", " ALL", "json_group_array(x)"),
    ],
)
def test_a_query_that_would_use_all_memory_is_wrong_before_it_has_600_mb(database: Path, answer: str) -> None:
    """In a process of its own, so that what it takes at most can be seen."""
    done = subprocess.run(
        [sys.executable, "-c", NASTY, str(database), answer], capture_output=True, text=True, timeout=60, check=True
    )
    score, grown, _ = done.stdout.split(" ", 2)
    assert float(score) == 0.0
    assert int(grown) < 600_000_000, done.stdout
