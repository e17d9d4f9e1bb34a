"""The real files of the stories, from the recipe to the rows: every input accounted for, no text lost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tiny_chat import write_chat

from tunesmith.dataset import prepare
from tunesmith.dataset.split import PARTS
from tunesmith.settings import make_recipe
from tunesmith.sources.document import Document
from tunesmith.sources.documents import read_later
from tunesmith.sources.quarantine import Quarantined
from tunesmith.sources.read import read_source

DATA = Path(__file__).parents[2].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")


def build(tmp_path: Path, folder: str, **data: Any) -> tuple[Path, dict[str, Any], Any]:
    settings = make_recipe({"data": {"folder": str(DATA / folder), "max_tokens": 4096, **data}}).data
    model = write_chat(tmp_path / "chat")  # a token a byte
    for _ in prepare.prepare(settings, model, tmp_path / "dataset"):
        pass
    report = prepare.files.read_json(tmp_path / "dataset" / "report.json")
    for account in report["sources"]:
        fates = sum(account[fate] for fate in ("rows", "quarantined", "merged", "removed"))
        assert account["inputs"] + account["divided"] == fates
    return tmp_path / "dataset", report, settings


def characters(text: str) -> Counter[str]:
    return Counter("".join(text.split()))


def test_a_blog_loses_no_article_and_no_text(tmp_path):
    source = {"path": "README.md", "kind": "blog-index", "marker": "### 所有文档如下", "filter": "greenplum"}
    folder, report, settings = build(tmp_path, "blog/digoal-blog-2018/blog", sources=[source])
    read = map(read_later, read_source(settings.sources[0], Path(settings.folder)))
    articles = [i for i in read if isinstance(i, Document)]
    assert report["inputs"] == len(articles) == 106
    rows = [row for part in PARTS for row in prepare.read(folder, part)]
    rows += [prepare.Example.from_json(r) for r in prepare.files.read_jsonl(folder / "removed.jsonl")]
    kept = sum((characters(row.answer) for row in rows), Counter())
    removed = sum((characters(b["line"] * b["documents"]) for b in report["boilerplate"]), Counter())
    was = sum((characters(article.text) for article in articles), Counter())
    lost = {c: n for c, n in (was - kept - removed).items() if c not in "-#*_="}  # rules beside a removed footer
    assert not lost
    assert not kept - was
    sides = [{row.group for row in prepare.read(folder, part)} for part in PARTS]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 106


def test_an_index_of_mostly_missing_articles_lists_them(tmp_path):
    source = {"path": "README.md", "kind": "blog-index", "marker": "### 六、所有文档如下", "filter": "polardb"}
    folder, report, _ = build(tmp_path, "blog/digoal-blog-2025/blog", sources=[source])
    assert (report["inputs"], report["quarantined"]) == (39, 32)
    quarantine = list(prepare.files.read_jsonl(folder / "quarantine.jsonl"))
    assert all("missing" in q["reason"] and "polardb" in q["text"].lower() and q["line"] for q in quarantine)


def test_a_characters_rows_with_their_duplicates_and_conflicts(tmp_path):
    _, report, _ = build(tmp_path, "huanhuan", sources=["huanhuan.json"])
    assert (report["inputs"], report["merged"]) == (3729, 112)
    assert any(f["message"].startswith("50 questions have different answers") for f in report["findings"])


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("alpaca_en_demo", 999),
        ("alpaca_zh_demo", 1000),
        ("identity", 91),
        ("glaive_toolcall_en_demo", 300),
        ("dpo_en_demo", 300),
    ],
)
def test_alpaca_files_are_read_without_a_line_of_configuration(tmp_path, name, count):
    items = list(read_source(make_recipe({"data": {"sources": [f"{name}.json"]}}).data.sources[0], DATA / "alpaca"))
    assert len(items) == count
    assert not [i for i in items if isinstance(i, Quarantined)]
