from __future__ import annotations

import contextlib
import sqlite3
import zipfile
from contextlib import closing
from datetime import date, datetime
from pathlib import Path
from typing import Any

import openpyxl
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunesmith.errors import RecipeError, SourceError
from tunesmith.sources import csv_file, parquet
from tunesmith.sources.example import Example, Origin
from tunesmith.sources.quarantine import Quarantined
from tunesmith.sources.tables import TABLES, read_table

RENAME = "; give it the right suffix or leave it out"


def read(
    path: Path, columns: Any = None, table: str | None = None, query: str | None = None
) -> list[Example | Quarantined]:
    return list(read_table(path, f"t/{path.name}", columns or {}, table, query))


def csv_rows(folder: Path, data: str | bytes, name: str = "a.csv", **given: Any) -> list[Example | Quarantined]:
    (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return read(folder / name, **given)


def pairs(rows: list[Example | Quarantined]) -> list[tuple[str, str]]:
    assert all(isinstance(row, Example) for row in rows), rows
    return [(row.prompt[-1].content, row.answer) for row in rows if isinstance(row, Example)]


def reasons(rows: list[Example | Quarantined]) -> dict[str, str]:
    """line -> reason"""
    return {str(row.origin.line): row.reason for row in rows if isinstance(row, Quarantined)}


def workbook(path: Path, sheets: dict[str, list[list[Any]]], merged: str = "", hidden: str = "") -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
        if merged:
            sheet.merge_cells(merged)
        if title == hidden:
            sheet.sheet_state = "hidden"
    book.save(path)
    return path


def database(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_is_read_with_any_delimiter(tmp_path, delimiter):
    text = 'id;question;answer\n1;a, b | c;d\n2;e;"f\tg, h"\n'
    text = (
        text.replace(";", delimiter)
        if delimiter == ";"
        else "id;question;answer\n1;a;b\n2;c;d\n".replace(";", delimiter)
    )
    rows = csv_rows(tmp_path, text)
    assert [row.origin for row in rows] == [Origin("t/a.csv", 2), Origin("t/a.csv", 3)]
    assert pairs(rows) == ([("a, b | c", "d"), ("e", "f\tg, h")] if delimiter == ";" else [("a", "b"), ("c", "d")])
    assert rows[0].extra == {"id": "1"}


def test_tsv_is_divided_by_tabs_only(tmp_path):
    assert pairs(csv_rows(tmp_path, "question\tanswer\na,b,c\td;e;f\n", "a.tsv")) == [("a,b,c", "d;e;f")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "gb18030"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_csv_is_read_in_any_encoding_and_with_any_newline(tmp_path, encoding, newline):
    text = "问题,答案\n数据库是什么？,存储的方法。\n\n为什么？,因为如此。\n".replace("\n", newline)
    rows = csv_rows(tmp_path, text.encode(encoding))
    assert pairs(rows) == [("数据库是什么？", "存储的方法。"), ("为什么？", "因为如此。")]
    assert [row.origin.line for row in rows] == [2, 4]


def test_csv_in_a_guessed_encoding_says_so_in_every_row(tmp_path):
    (tmp_path / "a.csv").write_bytes("question;answer\nÇa va?;Très bien, merci à vous.\nDéjà?;Oui.\n".encode("cp1252"))
    rows = list(read_table(tmp_path / "a.csv", "a.csv", {}, None, None))
    assert [row.answer for row in rows] == ["Très bien, merci à vous.", "Oui."]
    note = "read as Windows-1252 (Western Europe), which was guessed; save the file as UTF-8"
    assert [row.notes for row in rows] == [(note,)] * 2


def test_a_row_may_span_lines_and_the_next_one_knows_its_line(tmp_path):
    rows = csv_rows(tmp_path, 'question,answer\n"a\nb","c ""d""\n\ne"\nf,g\n,\nh\n')
    assert pairs(rows[:2]) == [("a\nb", 'c "d"\n\ne'), ("f", "g")]
    assert [row.origin.line for row in rows] == [2, 6, 8]
    assert rows[2] == Quarantined(Origin("t/a.csv", 8), "1 cell where the header has 2; mend the row", "h")


def test_ragged_rows_are_quarantined_and_their_neighbours_read(tmp_path):
    rows = csv_rows(tmp_path, "question,answer\na,b\nc,d,e\nf\ng,h\n")
    assert reasons(rows) == {
        "3": "3 cells where the header has 2; mend the row", "4": "1 cell where the header has 2; mend the row",
    }  # fmt: skip
    assert [row.text for row in rows if isinstance(row, Quarantined)] == ["c,d,e", "f"]


def test_an_unclosed_quote_costs_one_row(tmp_path):
    rows = csv_rows(tmp_path, 'question,answer\na,b\n"c,d\ne,f\ng,h\n')
    assert pairs([row for row in rows if isinstance(row, Example)]) == [("a", "b"), ("e", "f"), ("g", "h")]
    assert rows[1] == Quarantined(Origin("t/a.csv", 3), "a quote is opened here and never closed; close it", '"c,d')


def test_an_unclosed_quote_in_a_single_column_names_the_lines_that_it_took(tmp_path):
    rows = csv_rows(tmp_path, 'text\na\n"b\nc\nd\n')
    assert reasons(rows) == {"3": "a quote is opened here and never closed; close it (lines 3 to 5)"}


def test_a_quote_inside_a_quoted_cell_is_quarantined(tmp_path):
    rows = csv_rows(tmp_path, 'question,answer\n"He said "hi" to me",b\nc,d "e"\n')
    assert reasons(rows) == {"2": 'a quote stands inside a quoted cell; write it twice ("")'}
    assert pairs(rows[1:]) == [("c", 'd "e"')]


def test_an_unclosed_quote_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_file, "LONGEST", 4096)
    rows = csv_rows(tmp_path, 'question,answer\n"a,b\n' + "c,d\n" * 3000 + "e," + "x" * 20_000 + "\nf,g\n")
    bad = reasons(rows)
    assert list(bad) == ["2", "3003"]
    assert all("a row of more than" in reason for reason in bad.values())
    assert len(rows) == 3003
    assert pairs(rows[-1:]) == [("f", "g")]


def test_zeros_and_wrong_bytes_quarantine_their_row_only(tmp_path):
    good = "问,答\n".encode() * 20_000
    rows = csv_rows(tmp_path, b"question,answer\na\0,b\n" + good + b"c\xff,d\ne,f\n")
    assert reasons(rows) == {
        "2": "'question' holds a zero byte; take it out",
        "20003": "'question' holds bytes that are not in the file's encoding; save it as UTF-8",
    }
    assert rows[-2].text == "c\ufffd,d"
    assert len(rows) == 20_003


@pytest.mark.parametrize(("encoding", "cut"), [("gb18030", 2), ("utf-16", 3), ("utf-8", 2)])
def test_a_file_cut_inside_a_character_loses_its_last_row_only(tmp_path, encoding, cut):
    rows = csv_rows(tmp_path, ("question,answer\n" + "数据库问题,数据库答案。\n" * 5000).encode(encoding)[:-cut])
    assert len(pairs(rows[:-1])) == 4999
    assert reasons(rows) == {"5001": "'answer' holds bytes that are not in the file's encoding; save it as UTF-8"}


def test_a_huge_row_is_quarantined_with_its_beginning_and_size(tmp_path):
    (row,) = csv_rows(tmp_path, f'question,answer\n"{"x" * 5000}"\n')
    assert row.reason == "1 cell where the header has 2; mend the row (the row has 5,002 characters)"
    assert row.text == '"' + "x" * 1999


def test_columns_with_one_name_or_none_are_kept_apart(tmp_path):
    (row,) = csv_rows(tmp_path, "question,answer,note,note,\na,b,c,d,e\n")
    assert row.extra == {"note": "c", "note_2": "d", "column_5": "e"}
    assert row.notes == ()


def test_of_columns_with_one_name_that_is_used_the_rows_say_which(tmp_path):
    says = 'of the columns "{}" and "{}" the first alone is used; take the others out, or name another in columns'
    sheet = [["question", "answer", "Answer"], ["a", "b", "c"]]
    path = workbook(tmp_path / "a.xlsx", {"s": sheet})
    for (row,) in (read(path), csv_rows(tmp_path, "\n".join(",".join(cells) for cells in sheet))):
        assert pairs([row]) == [("a", "b")]
        assert row.notes == (says.format("answer", "Answer_2"),)
        assert row.extra == {"Answer_2": "c"}
    (row,) = csv_rows(tmp_path, "question,answer,answer\na,b,c\n", columns={"answer": "answer_2"})
    assert pairs([row]) == [("a", "c")]
    assert row.notes == ()


def test_columns_that_are_not_known_can_be_named(tmp_path):
    text = "Frage,Antwort,Nr\na,b,1\n"
    with pytest.raises(
        SourceError, match=r"has no columns that are known; it has 'Frage', 'Antwort', 'Nr'; name them with columns"
    ):
        csv_rows(tmp_path, text)
    assert pairs(csv_rows(tmp_path, text, columns={"question": "Frage", "answer": "Antwort"})) == [("a", "b")]
    with pytest.raises(SourceError, match=r'columns = {question = "…", answer = "…"}'):
        csv_rows(tmp_path, text, columns={"question": "Frage", "answer": "Answer"})


def test_rows_without_an_answer_do_not_make_their_columns_unknown(tmp_path):
    rows = csv_rows(tmp_path, "question,answer\n" + "a,\n" * 30)
    assert len(rows) == 30
    assert set(reasons(rows).values()) == {"an answer is empty"}


@pytest.mark.parametrize("name", sorted(f"a{suffix}" for suffix in TABLES))
def test_a_file_that_is_missing_a_folder_or_a_pointer_is_told_apart(tmp_path, name):
    with pytest.raises(SourceError, match="there is no file"):
        read(tmp_path / name)
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / name).mkdir()
    with pytest.raises(SourceError, match="is a folder"):
        read(tmp_path / "f" / name)
    (row,) = csv_rows(tmp_path, "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", name)
    assert "git lfs pull" in row.reason
    assert row.text == "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(("name", "data", "reason"), [
    ("a.csv", b"", "the file is empty; fill it or leave it out"),
    ("a.csv", b"\n \n", "the file is empty; fill it or leave it out"),
    ("a.csv", b"question,answer\n", "the table has no rows; fill it or leave it out"),
    ("a.csv", b'"question,answer\na,b\n',
     "the header in line 1 cannot be read: a quote is opened here and never closed; close it"),
    ("a.csv", b"PK\x03\x04" + bytes(90),
     "not a table of text but a zip archive, as .docx and .xlsx are" + RENAME),
    ("a.xlsx", b"question,answer\n", "not a .xlsx file, whatever its name says" + RENAME),
    ("a.xlsx", b"\xd0\xcf\x11\xe0" + bytes(90),
     "protected by a password, or of an old Office; save it as .xlsx without a password"),
    ("a.parquet", b"question,answer\n", "not a Parquet file, whatever its name says" + RENAME),
    ("a.parquet", b"PAR1" + bytes(90), None),
])  # fmt: skip
def test_a_file_that_is_no_table_is_quarantined(tmp_path, name, data, reason):
    (row,) = csv_rows(tmp_path, data, name)
    assert row.origin.file == f"t/{name}"
    assert row.reason == reason or reason is None


def test_a_workbook_is_read_sheet_by_sheet_by_excels_row_numbers(tmp_path):
    path = workbook(tmp_path / "a.xlsx", {
        "Sales": [[], ["question", "answer", "when"], ["a", 5, date(2024, 5, 1)], [], ["b", 2.5, None, "stray"], ["c"]],
        "中文": [["问题", "答案"], ["问", "答"]],
    })  # fmt: skip
    rows = read(path)
    assert [str(row.origin) for row in rows] == [
        "t/a.xlsx [Sales]:3", "t/a.xlsx [Sales]:5", "t/a.xlsx [Sales]:6", "t/a.xlsx [中文]:2",
    ]  # fmt: skip
    assert pairs([rows[0], rows[3]]) == [("a", "5"), ("问", "答")]
    assert rows[0].extra["when"] == "2024-05-01"
    assert reasons(rows) == {"5": "4 cells where the header has 3; mend the row", "6": "an answer is empty"}
    assert rows[1].text == '["b", 2.5, "", "stray"]'


def test_a_merged_cell_holds_for_all_its_rows(tmp_path):
    sheet = [["question", "answer"], ["a", "1"], [None, "2"], [None, "3"], [None, None], ["b", "4"], [None, "5"]]
    rows = read(workbook(tmp_path / "a.xlsx", {"s": sheet}, merged="A2:A5"))
    assert pairs(rows[:4]) == [("a", "1"), ("a", "2"), ("a", "3"), ("b", "4")]
    assert reasons(rows) == {"7": "a question is empty"}


def test_an_answer_merged_over_several_questions_is_theirs(tmp_path):
    sheet = [["question", "answer"], ["a", "1"], ["b"], ["c"]]
    rows = read(workbook(tmp_path / "a.xlsx", {"s": sheet}, merged="B2:B4"))
    assert pairs(rows) == [("a", "1"), ("b", "1"), ("c", "1")]


def test_one_sheet_can_be_named(tmp_path):
    path = workbook(
        tmp_path / "a.xlsx", {"x": [["question", "answer"], ["a", "b"]], "y": [["question", "answer"], ["c", "d"]]}
    )
    assert pairs(read(path, table="y")) == [("c", "d")]
    with pytest.raises(SourceError, match="has no sheet 'z'; it has 'x', 'y'"):
        read(path, table="z")


def test_a_sheet_without_known_columns_is_one_row_of_quarantine_among_others(tmp_path):
    path = workbook(
        tmp_path / "a.xlsx", {"x": [["question", "answer"], ["a", "b"]], "notes": [["todo"], ["c"]], "z": []}
    )
    rows = read(path)
    assert pairs(rows[:1]) == [("a", "b")]
    assert [row.origin for row in rows[1:]] == [Origin("t/a.xlsx", part="notes"), Origin("t/a.xlsx", part="z")]
    assert "has no columns that are known; it has 'todo'" in rows[1].reason
    assert rows[2].reason == "the sheet is empty; fill it or leave it out"
    with pytest.raises(SourceError, match="no columns that are known"):
        read(path, table="notes")


def test_formulas_give_the_value_that_excel_left(tmp_path):
    path = workbook(tmp_path / "a.xlsx", {"s": [["question", "answer"], ["a", "=1+1"]]})
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files["xl/worksheets/sheet1.xml"] = (
        files["xl/worksheets/sheet1.xml"].replace(b"<v />", b"<v>2</v>").replace(b"<v></v>", b"<v>2</v>")
    )
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    assert pairs(read(path)) == [("a", "2")]


def test_a_formula_without_a_value_quarantines_its_row_and_says_what_to_do(tmp_path):
    sheet = [["question", "answer"], ["a", "=1+1"], ["b", "2"], ["c", '=IF(A2="a","long","short")']]
    rows = read(workbook(tmp_path / "a.xlsx", {"s": sheet}))
    says = "the cell {} holds a formula without its value; open the file in Excel and save it"
    assert reasons(rows) == {"2": says.format("B2"), "4": says.format("B4")}
    assert pairs(rows[1:2]) == [("b", "2")]


ERRORS = ["#N/A", "#REF!", "#DIV/0!", "#VALUE!", "#NAME?", "#NUM!", "#NULL!"]


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_of_excel_in_a_cell_that_is_used_quarantines_its_row_and_names_the_column(tmp_path, error):
    sheet = [["question", "answer", "by"], ["a", error, "x"], [error, "b", "x"], ["c", "d", error]]
    says = "{!r} holds the error {!r} of Excel; mend the formula or write the value"
    path = workbook(tmp_path / "a.xlsx", {"s": sheet})
    for rows in (read(path), csv_rows(tmp_path, "\n".join(",".join(row) for row in sheet))):
        assert reasons(rows) == {"2": says.format("answer", error), "3": says.format("question", error)}
        assert [error in row.text for row in rows if isinstance(row, Quarantined)] == [True, True]
        assert pairs(rows[2:]) == [("c", "d")]  # what is not learned from may be one
        assert rows[2].extra == {"by": error}


def test_an_error_of_excel_inside_other_text_is_text(tmp_path):
    assert pairs(csv_rows(tmp_path, "question,answer\nWhat is #N/A?,It says #N/A.\n")) == [
        ("What is #N/A?", "It says #N/A.")
    ]


def test_an_error_of_excel_in_a_named_column_quarantines_its_row(tmp_path):
    rows = csv_rows(tmp_path, "Frage,Antwort\na,#REF!\n", columns={"question": "Frage", "answer": "Antwort"})
    assert "'Antwort' holds the error '#REF!'" in reasons(rows)["2"]


def test_line_breaks_in_cells_are_of_one_kind(tmp_path):
    rows = csv_rows(tmp_path, 'question,answer\r\n"a\r\nb","c\rd\ne"\r\n')
    assert pairs(rows) == [("a\nb", "c\nd\ne")]
    sheet = [["question", "answer"], ["a_x000D_\nb", "c\r\nd_x000D_e"]]
    assert pairs(read(workbook(tmp_path / "a.xlsx", {"s": sheet}))) == [("a\nb", "c\nd\ne")]


def test_a_moment_keeps_its_time_and_a_date_has_none(tmp_path):
    moments = [date(2024, 5, 1), datetime(2024, 5, 1), datetime(2024, 5, 1, 10, 30)]
    sheet = [["question", "answer"], *(["a", moment] for moment in moments)]
    rows = read(workbook(tmp_path / "a.xlsx", {"s": sheet}))
    assert [answer for _, answer in pairs(rows)] == ["2024-05-01", "2024-05-01 00:00:00", "2024-05-01 10:30:00"]


def test_a_hidden_sheet_is_left_out_with_a_word_unless_it_is_named(tmp_path):
    rows = [["question", "answer"], ["a", "b"]]
    path = workbook(tmp_path / "a.xlsx", {"shown": rows, "old": rows}, hidden="old")
    shown, hidden = read(path)
    assert pairs([shown]) == [("a", "b")]
    assert hidden.origin == Origin("t/a.xlsx", part="old")
    assert hidden.reason == 'the sheet is hidden, and is not read; show it in Excel, or name it with table = "…"'
    assert pairs(read(path, table="old")) == [("a", "b")]


def test_a_workbook_that_is_a_zip_bomb_is_not_opened(tmp_path):
    path = workbook(tmp_path / "a.xlsx", {"s": [["question", "answer"], ["a", "b"]]})
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/media/a.bin", bytes(20 << 20))
    (row,) = read(path)
    assert "unpack into 20 MB" in row.reason


def test_parquet_is_read_in_slices_with_its_own_types(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "BATCH", 2)
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "答"}]
    frame = pl.DataFrame({"messages": [turns] * 4 + [None], "n": [1, 2, 3, None, 5], "day": [date(2024, 5, 1)] * 5})
    frame.write_parquet(tmp_path / "a.parquet")
    rows = read(tmp_path / "a.parquet")
    assert pairs(rows[:4]) == [("q", "答")] * 4
    assert [row.origin for row in rows] == [Origin("t/a.parquet", line) for line in range(1, 6)]
    assert rows[0].extra == {"n": "1", "day": "2024-05-01"}
    assert isinstance(rows[4], Quarantined)


def test_binary_cells_are_quarantined(tmp_path):
    pl.DataFrame({"question": ["a", "b"], "answer": ["c", "d"], "x": [b"\xff", None]}).write_parquet(
        tmp_path / "a.parquet"
    )
    rows = read(tmp_path / "a.parquet")
    assert reasons(rows) == {"1": "'x' holds binary data (a BLOB); leave that column out"}


SHOP = (
    "CREATE TABLE faq (question TEXT, answer, n INTEGER)",
    "INSERT INTO faq VALUES ('a', 'b', 1), ('c', 7, NULL), ('d', x'ff00', 3), (NULL, 'e', 4)",
)  # fmt: skip


@pytest.mark.parametrize("name", ["a.db", "a b%20#?.sqlite", "中.sqlite3"])
def test_the_only_table_of_a_database_is_read(tmp_path, name):
    path = database(tmp_path / name, *SHOP)
    rows = read(path)
    assert pairs(rows[:2]) == [("a", "b"), ("c", "7")]
    assert rows[0].origin == Origin(f"t/{name}", 1, "faq")
    assert reasons(rows)["3"] == "'answer' holds binary data (a BLOB); leave that column out"
    assert list(reasons(rows)) == ["3", "4"]


def test_several_tables_must_be_told_apart(tmp_path):
    path = database(tmp_path / "a.db", *SHOP, "CREATE TABLE users (id)", "CREATE VIEW v AS SELECT * FROM faq LIMIT 1")
    with pytest.raises(SourceError, match="has 2 tables; name one with table = \"…\", of 'faq', 'users', 'v'"):
        read(path)
    with pytest.raises(SourceError, match="no table 'faqs'"):
        read(path, table="faqs")
    assert pairs(read(path, table="v")) == [("a", "b")]
    with pytest.raises(SourceError, match=r"\[users\] has no columns that are known; it has 'id'"):
        read(path, table="users")


def test_a_query_gives_the_rows(tmp_path):
    path = database(tmp_path / "a.db", *SHOP)
    rows = read(
        path,
        query="WITH x AS (SELECT * FROM faq) SELECT upper(question) AS prompt, answer AS completion FROM x LIMIT 2",
    )
    assert pairs(rows) == [("A", "b"), ("C", "7")]
    assert rows[1].origin == Origin("t/a.db", 2, "query")


@pytest.mark.parametrize("query", [
    "DELETE FROM faq", "DROP TABLE faq", "CREATE TABLE x (a)", "ATTACH 'new.db' AS n", "PRAGMA user_version = 3",
    "SELECT 1; DELETE FROM faq", "INSERT INTO faq VALUES (1, 2, 3) RETURNING *", "VACUUM INTO 'new.db'", "",
    "SELECT nothing", "BEGIN EXCLUSIVE", "SELECT load_extension('x')",
])  # fmt: skip
def test_a_query_can_only_read(tmp_path, monkeypatch, query):
    path = database(tmp_path / "a.db", *SHOP)
    monkeypatch.chdir(tmp_path)
    before = path.read_bytes()
    with pytest.raises(SourceError, match="it must be one SELECT"):
        read(path, query=query)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.db"]


def test_a_database_that_is_locked_or_broken_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("tunesmith.sources.database.LOCKED_SECONDS", 0.05)
    path = database(tmp_path / "a.db", *SHOP)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(SourceError, match="is locked by another program"):
            read(path)
    (tmp_path / "b.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(SourceError, match=r"b\.db is no SQLite database that can be read"):
        read(tmp_path / "b.db")
    (tmp_path / "c.db").write_bytes(b"")
    with pytest.raises(SourceError, match="is a database without a table"):
        read(tmp_path / "c.db")


def test_text_that_is_not_utf8_in_a_database_is_quarantined(tmp_path):
    path = database(
        tmp_path / "a.db", "CREATE TABLE t (question, answer)", "INSERT INTO t VALUES (CAST(x'61ff' AS TEXT), 'b')"
    )
    assert "not in the file's encoding" in reasons(read(path))["1"]


@pytest.mark.parametrize(("name", "given"), [
    ("a.csv", {"table": "x"}), ("a.parquet", {"query": "SELECT 1"}), ("a.db", {"table": "x", "query": "SELECT 1"}),
])  # fmt: skip
def test_settings_that_do_not_go_with_the_file_are_an_error(tmp_path, name, given):
    (tmp_path / name).write_bytes(b"question,answer\na,b\n")
    with pytest.raises(RecipeError, match="goes with"):
        read(tmp_path / name, **given)


slow = settings(max_examples=30, deadline=None, derandomize=True,
                suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> dict[str, bytes]:
    """Suffix -> a small table of that kind."""
    folder = tmp_path_factory.mktemp("good")
    workbook(folder / "a.xlsx", {"s": [["question", "answer"], ["a", "b"], [None, "d"]]}, merged="A2:A3")
    pl.DataFrame({"question": ["a", "b"], "answer": ["c", "d"]}).write_parquet(folder / "a.parquet")
    database(folder / "a.db", *SHOP)
    (folder / "a.csv").write_bytes('question,answer\n"a\nb",c\n问,答\n'.encode("utf-16"))
    (folder / "a.tsv").write_bytes("问题\t答案\n问题是什么\t这是答案。\n".encode("gb18030"))
    return {path.suffix: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".xlsx", ".parquet", ".db"])
@slow
@given(data=st.data())
def test_damaged_tables_never_raise_anything_else(tmp_path, good, suffix, data):
    damaged = bytearray(good[suffix])
    for at in data.draw(st.lists(st.integers(0, len(damaged) - 1), max_size=8)):
        damaged[at] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(damaged)) | st.just(len(damaged)))
    (tmp_path / f"a{suffix}").write_bytes(damaged[:end])
    with contextlib.suppress(SourceError):
        assert all(isinstance(row, Example | Quarantined) for row in read(tmp_path / f"a{suffix}"))


@slow
@given(data=st.binary(max_size=200) | st.text(alphabet='a",;\n\r\0问', max_size=60).map(str.encode))
def test_no_line_of_csv_is_lost(tmp_path, data):
    rows = csv_rows(tmp_path, b"question,answer\n" + data + b"\nlast,row\n")
    assert rows
    if b'"' not in data and not any(byte > 127 for byte in data):
        assert isinstance(rows[-1], Example)


@pytest.mark.parametrize("name", ["a.xlsx", "a.parquet", "a.csv"])
def test_an_empty_file_of_any_kind_is_called_empty(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    (row,) = read_table(tmp_path / name, name, {}, None, None)
    assert isinstance(row, Quarantined)
    assert row.reason == "the file is empty; fill it or leave it out"


def test_a_database_without_a_table_says_so(tmp_path):
    (tmp_path / "a.db").write_bytes(b"")
    with pytest.raises(SourceError, match=r"a.db is a database without a table; fill it or leave it out"):
        list(read_table(tmp_path / "a.db", "a.db", {}, None, None))


TITLED = [["问答总表", None], ["as of 2024", None], [None, None], ["问题", "答案"], ["问", "答"], ["q", "a"]]


def test_titles_above_the_header_are_quarantined_and_not_taken_for_it(tmp_path):
    said = "a title above the header, which was found in row {}; it is not read"
    rows = read(workbook(tmp_path / "a.xlsx", {"Sales": TITLED}))
    assert reasons(rows) == {"1": said.format(4), "2": said.format(4)}
    assert [row.text for row in rows[:2]] == ["问答总表", "as of 2024"]
    assert pairs(rows[2:]) == [("问", "答"), ("q", "a")]
    for delimiter in ",;\t":
        lines = [delimiter.join(cell or "" for cell in row) for row in TITLED]
        lines[0] = "文本"  # alone, the name of a column
        rows = csv_rows(tmp_path, "\n".join(lines))
        assert reasons(rows) == {"1": said.format(4), "2": said.format(4)}
        assert [row.text.strip(delimiter) for row in rows[:2]] == ["文本", "as of 2024"]
        assert pairs(rows[2:]) == [("问", "答"), ("q", "a")]
    rows = csv_rows(tmp_path, "A title\n\nFrage,Antwort\nq,a", columns={"question": "Frage", "answer": "Antwort"})
    assert pairs(rows[1:]) == [("q", "a")]


def test_where_no_header_is_found_it_is_said_where_it_was_looked_for(tmp_path):
    with pytest.raises(SourceError, match=r"it has 'A title'.* the header is looked for in the first 10 rows"):
        csv_rows(tmp_path, "A title\nFrage,Antwort\neins,zwei")
