"""Whatever the recipe names is read by the right reader, and settings that do not go together are refused."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from tunesmith.errors import RecipeError, SourceError
from tunesmith.settings import SourceTable
from tunesmith.sources.document import Document, Unread
from tunesmith.sources.documents import read_later
from tunesmith.sources.example import Example, Origin
from tunesmith.sources.quarantine import Quarantined
from tunesmith.sources.read import paths_of, read_source
from tunesmith.sources.rows import Block, read_block

ROW = {"question": "Wie viel?", "answer": "Zwei."}


def read(folder: Path, path: str, **settings: Any) -> list[Any]:
    found = []
    for item in read_source(SourceTable(path=path, **settings), folder):
        if isinstance(item, Unread):
            item = read_later(item)
        found += list(read_block(item)) if isinstance(item, Block) else [item]
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW) + "\n" + json.dumps(ROW | {"answer": "Drei."}))
    (tmp_path / "rows.json").write_text(json.dumps([ROW]))
    (tmp_path / "faq.csv").write_text("Frage,Antwort,question,answer\na,b,c,d\n")
    (tmp_path / "note.md").write_text("# 标题\n\n正文")
    with sqlite3.connect(tmp_path / "faq.sqlite") as db:
        db.execute("CREATE TABLE faq (question, answer)")
        db.execute("CREATE TABLE other (question, answer)")
        db.execute("INSERT INTO faq VALUES ('a', 'b'), ('c', 'd')")
    db.close()
    (tmp_path / "index.md").write_text("[no](note.md)\n## Articles\n- [One](note.md)\n- [Two](gone.md) x\n")
    return tmp_path


def test_each_kind_of_file_is_recognised(folder):
    assert [e.answer for e in read(folder, "rows.jsonl")] == ["Zwei.", "Drei."]
    assert [e.answer for e in read(folder, "rows.json")] == ["Zwei."]
    [document] = read(folder, "note.md")
    assert isinstance(document, Document)
    assert (document.title, str(document.origin)) == ("标题", "note.md")
    assert [e.answer for e in read(folder, "faq.csv")] == ["d"]


def test_a_folder_gives_everything_in_it_and_names_what_is_not_read(folder):
    (folder / "photo.png").write_bytes(b"\x89PNG")
    (folder / "faq.sqlite").unlink()
    found = read(folder, ".")
    assert {type(item) for item in found} == {Document, Example, Quarantined}
    assert [str(i.origin) for i in found if isinstance(i, Quarantined)] == ["./photo.png"]


def test_a_file_of_a_kind_that_is_not_read_says_what_to_do(folder):
    (folder / "photo.png").write_bytes(b"\x89PNG")
    [photo] = read(folder, "photo.png")
    assert photo.reason == (
        "a file of this kind is not read; save it as Markdown, PDF, CSV, JSON or the like, "
        'name it with kind = "documents" if it is plain text, or leave it out'
    )
    (folder / "notes.log").write_text("plain text")
    assert [type(item) for item in read(folder, "notes.log", kind="documents")] == [Document]


def test_no_reason_says_again_where_it_is(folder):
    (folder / "other.csv").write_text("Frage,Antwort\na,b\n")
    (folder / "empty.db").touch()
    book = openpyxl.Workbook()
    book.active.append(["question", "answer"])
    book.create_sheet("todo").append(["what"])
    book.save(folder / "book.xlsx")
    found = [item for item in read(folder, ".") if isinstance(item, Quarantined)]
    said = {str(item.origin): item.reason.split(";")[0] for item in found}
    assert said == {
        "./book.xlsx [Sheet]": "the table has no rows",
        "./book.xlsx [todo]": "the sheet has no columns that are known",
        "./empty.db": "the file is a database without a table",
        "./faq.sqlite": "the file has 2 tables",
        "./other.csv": "the file has no columns that are known",
    }
    assert not any(str(folder) in item.reason for item in found)
    assert read_later(Unread(folder, "a.md")) == Quarantined(
        Origin("a.md"), "the file is a folder; name the file in it"
    )


ABOUT = ["README.md", "readme.zh-CN.md", "LICENSE", "LICENSE-MIT.txt", "SOURCE.md", "NOTICE", "CHANGELOG.rst"]


def test_what_describes_rows_is_quarantined_beside_and_above_them(tmp_path):
    (tmp_path / "set" / "data").mkdir(parents=True)
    (tmp_path / "set" / "data" / "rows.jsonl").write_text(json.dumps(ROW))
    for name in ABOUT:
        (tmp_path / "set" / name).write_text(f"# {name}")
    (tmp_path / "set" / "data" / "README.md").write_text("# of the rows")
    (tmp_path / "set" / "sources-of-joy.md").write_text("# An article")
    found = read(tmp_path, "set")
    says = "describes the data beside it, and is not learned; name it as a source of its own to learn it"
    assert {item.origin.file: item.text for item in found if isinstance(item, Quarantined) and item.reason == says} == {
        "set/data/README.md": "# of the rows",
        **{f"set/{name}": f"# {name}" for name in ABOUT},
    }
    assert [str(item.origin) for item in found if not isinstance(item, Quarantined)] == [
        "set/data/rows.jsonl:1", "set/sources-of-joy.md",
    ]  # fmt: skip
    assert [item.title for item in read(tmp_path, "set/README.md")] == ["README.md"]


def test_a_readme_with_no_rows_below_is_a_document(tmp_path):
    for name in ("docs/README.md", "docs/a/README.md", "rows/source.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("question,answer\na,b\n")
    assert [(type(item), item.origin.file) for item in read(tmp_path, ".")] == [
        (Document, "./docs/README.md"),
        (Document, "./docs/a/README.md"),
        (Example, "./rows/source.csv"),
    ]
    assert [type(item) for item in read(tmp_path, "rows", kind="documents")] == [Document]


def test_columns_table_query_and_limit_are_obeyed(folder):
    [row] = read(folder, "faq.csv", columns={"question": "Frage", "answer": "Antwort"})
    assert (row.prompt[0].content, row.answer) == ("a", "b")
    assert len(read(folder, "faq.sqlite", table="faq")) == 2
    query = "SELECT question, 'x' AS answer FROM faq"
    assert [e.answer for e in read(folder, "faq.sqlite", query=query)] == ["x", "x"]
    assert len(read(folder, "rows.jsonl", limit=1)) == 1


def test_a_blog_index_is_read_behind_its_marker_and_filtered(folder):
    index = {"kind": "blog-index", "marker": "## Articles"}
    assert [type(i) for i in read(folder, "index.md", **index)] == [Document, Quarantined]
    assert [i.title for i in read(folder, "index.md", **index, filter="NOTE.md")] == ["One"]


def test_a_kind_that_is_named_wins_over_the_suffix(folder):
    (folder / "rows.txt").write_text(json.dumps(ROW))
    assert isinstance(read(folder, "rows.txt")[0], Document)
    assert isinstance(read(folder, "rows.txt", kind="rows")[0], Example)
    assert isinstance(read(folder, "rows.jsonl", kind="documents")[0], Document)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"tables": "t.jsonl"}, "tables goes with"),
        ({"kind": "wikisql"}, "needs tables"),
        ({"marker": "#"}, "marker goes with"),
        ({"filter": "x"}, "filter goes with"),
        ({"query": "SELECT 1"}, "query goes with"),
        ({"table": "x"}, "table goes with"),
        ({"kind": "documents", "columns": {"question": "q"}}, "columns goes with"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(folder, settings, says):
    with pytest.raises(RecipeError, match=says):
        read(folder, "rows.jsonl", **settings)


def test_columns_are_refused_where_there_are_only_documents(folder):
    (folder / "notes").mkdir()
    (folder / "notes" / "a.md").write_text("# A\n\ntext")
    with pytest.raises(RecipeError, match=r"note\.md: columns goes with rows"):
        read(folder, "note.md", columns={"question": "q"})
    with pytest.raises(RecipeError, match="notes: columns goes with rows, and the folder holds none"):
        read(folder, "notes", columns={"question": "q"})
    (folder / "notes" / "b.csv").write_text("q,a\nx,y\n")
    assert len(read(folder, "notes", columns={"question": "q", "answer": "a"})) == 2


def test_what_is_named_must_be_there(folder):
    with pytest.raises(SourceError, match=r"there is no file .*gone\.jsonl"):
        read(folder, "gone.jsonl")
    (folder / "empty").mkdir()
    with pytest.raises(SourceError, match="holds no files"):
        read(folder, "empty")


def test_every_file_that_is_read_is_watched_for_changes(folder):
    assert {p.name for p in paths_of(SourceTable(path="."), folder)} >= {"rows.jsonl", "note.md", "faq.csv"}
    assert [p.name for p in paths_of(SourceTable(path="rows.jsonl"), folder)] == ["rows.jsonl"]
    index = SourceTable(path="index.md", kind="blog-index", marker="## Articles")
    assert [p.name for p in paths_of(index, folder)] == ["index.md", "note.md"]
    (folder / "dataset_info.json").write_text(json.dumps({"mine": {"file_name": "rows.json"}}))
    for named in ("rows.json", "dataset_info.json#mine"):
        assert {p.name for p in paths_of(SourceTable(path=named), folder)} == {"rows.json", "dataset_info.json"}
    (folder / "faq.sqlite-wal").touch()
    assert {p.name for p in paths_of(SourceTable(path="faq.sqlite"), folder)} >= {"faq.sqlite", "faq.sqlite-wal"}


def test_a_sign_in_a_folders_name_is_no_registry(folder):
    (folder / "C#").mkdir()
    (folder / "rows.json").rename(folder / "C#" / "rows.json")
    assert len(read(folder, "C#/rows.json")) == 1
