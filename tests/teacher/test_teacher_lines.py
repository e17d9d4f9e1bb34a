"""Questions and topics are found in whatever file a person has them, with answers beside them or without."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_teacher import serving
from openpyxl import Workbook
from taught import adds_up, report, settings, teach
from taught import lines as rows

from tunesmith.errors import SourceError
from tunesmith.sources.quarantine import Quarantined
from tunesmith.teacher.lines import Line, lines

TWO = ["What is a block?", "Where is it, and why?"]
SHARED = Path(__file__).parents[3] / "shared" / "data" / "wordpress"

FILES = {
    "headed.csv": 'question\nWhat is a block?\n"Where is it, and why?"\n',
    "chinese.csv": '问题\nWhat is a block?\n"Where is it, and why?"\n',
    "plural.csv": 'Questions\nWhat is a block?\n"Where is it, and why?"\n',
    "answered.csv": 'question,answer\nWhat is a block?,no\n"Where is it, and why?",no\n',
    "beside.csv": 'id,question,source\n1,What is a block?,forum\n2,"Where is it, and why?",mail\n',
    "bare.csv": 'What is a block?\n"Where is it, and why?"\n',
    "unquoted.csv": "What is a block?\nWhere is it, and why?\n",
    "unquoted headed.csv": "question\nWhat is a block?\nWhere is it, and why?\n",
    "bare.tsv": "What is a block?\nWhere is it, and why?\n",
    "strings.json": json.dumps(TWO),
    "rows.json": json.dumps([{"question": text, "id": 1} for text in TWO]),
    "rows.jsonl": "\n".join(json.dumps({"instruction": text, "input": ""}) for text in TWO),
    "chinese.jsonl": "\n".join(json.dumps({"问题": text}) for text in TWO),
    "with text.jsonl": "\n".join(json.dumps({"question": text, "text": "a page"}) for text in TWO),
    "turns.jsonl": "\n".join(
        json.dumps({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": text}]})
        for text in TWO
    ),
    "pairs.jsonl": "\n".join(json.dumps({"prompt": text, "completion": "no"}) for text in TWO),
    "rendered.jsonl": "\n".join(json.dumps({"text": f"<s>[INST] {text}[/INST] no</s>"}) for text in TWO),
    "lines.txt": "What is a block?\n\nWhere is it, and why?\n",
    "list.md": "- What is a block?\n* Where is it, and why?\n",
    "numbered.txt": "1. What is a block?\n2. “Where is it, and why?”\n",
}


def found(folder: Path, *sources: object, **values: object) -> list[Line | Quarantined]:
    return list(lines(settings("http://x", way="questions", sources=list(sources), **values), folder))


def texts(items: list[Line | Quarantined]) -> list[str]:
    return [item.text if isinstance(item, Line) else f"not read: {item.reason}" for item in items]


@pytest.mark.parametrize("name", list(FILES))
def test_each_file_gives_its_questions_and_nothing_else(tmp_path, name):
    (tmp_path / name).write_text(FILES[name])
    items = found(tmp_path, name)
    assert texts(items) == TWO
    assert all(item.origin.file == name for item in items)
    if not name.endswith(".json"):
        text = FILES[name].splitlines()
        for item in items:
            assert item.text.split()[0] in text[(item.origin.line or 0) - 1], "the line that it stands on"


def test_a_workbook_of_one_column_needs_no_header(tmp_path):
    for name, head in (("bare", []), ("headed", ["question"])):
        book = Workbook()
        for text in head + TWO:
            book.active.append([text])  # type: ignore[union-attr]
        book.save(tmp_path / f"{name}.xlsx")
        assert texts(found(tmp_path, f"{name}.xlsx")) == TWO


def test_a_folder_of_them_is_read_without_what_is_about_them(tmp_path):
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "a.csv").write_text("question\nWhat is a block?\n")
    (tmp_path / "all" / "b.jsonl").write_text('{"question": "Where is it, and why?"}\n')
    (tmp_path / "all" / "README.md").write_text("# Questions\n\nThey are from the forum.\n")
    items = texts(found(tmp_path, "all"))
    assert [text for text in items if not text.startswith("not read")] == TWO
    assert [text for text in items if "describes the data beside it" in text]


def test_a_limit_is_kept(tmp_path):
    (tmp_path / "q.csv").write_text("question\n" + "".join(f"What is {i}?\n" for i in range(9)))
    assert texts(found(tmp_path, {"path": "q.csv", "limit": 2})) == ["What is 0?", "What is 1?"]


def test_a_table_whose_columns_say_nothing_is_refused_until_one_is_named(tmp_path):
    (tmp_path / "q.csv").write_text("Frage,Quelle\nWas ist das?,Forum\n")
    with pytest.raises(
        SourceError, match=r"no columns that are known; it has 'Frage', 'Quelle'; name them with columns"
    ):
        found(tmp_path, "q.csv")
    assert texts(found(tmp_path, {"path": "q.csv", "columns": {"question": "Frage"}})) == ["Was ist das?"]


def test_rows_without_a_question_are_put_aside_with_the_reason(tmp_path):
    bad = ['{"question": ""}', '{"question": null, "id": 1}', '{"other": "x"}', "7", '{"question": ["a"]}']
    (tmp_path / "q.jsonl").write_text("\n".join([*bad, '{"question": "What is a block?"}']))
    items = found(tmp_path, "q.jsonl")
    assert [isinstance(item, Line) for item in items] == [False] * len(bad) + [True]
    assert texts(items)[2].startswith("not read: no known form: a row needs a \"question\", and this one has 'other'")
    with serving() as fake:
        teach(tmp_path, fake.url, way="questions", sources=["q.jsonl"], held_out=0.0)
    account = report(tmp_path)
    assert sum(account["unread"].values()) == len(bad)
    assert adds_up(account)
    assert len(rows(tmp_path)) == 1


def test_topics_may_stand_in_a_table_too(tmp_path):
    (tmp_path / "topics.csv").write_text("topic,note\nWordPress,\nGardening,late\n")
    assert texts(found(tmp_path, "topics.csv")) == ["WordPress", "Gardening"]
    (tmp_path / "主题.csv").write_text("主题\n园艺\n")
    assert texts(found(tmp_path, "主题.csv")) == ["园艺"]


@pytest.mark.skipif(not SHARED.is_dir(), reason="shared/data/wordpress is not here")
def test_the_files_of_a_guide_that_people_follow_are_read_as_they_are():
    items = found(SHARED, "instructions-example.json")
    assert len(items) == 10
    assert all(text.endswith("?") for text in texts(items))
    answered = texts(found(SHARED, "train-example.jsonl"))
    assert len(answered) == 10
    assert not any("[INST]" in text or "not read" in text for text in answered)
