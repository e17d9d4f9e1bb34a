"""What says nothing is not asked about: a teacher would invent what a table of contents only names."""

from __future__ import annotations

import pytest
from fake_teacher import document, serving
from taught import adds_up, lines, report, settings, teach

from tunesmith.errors import TeacherError
from tunesmith.teacher.passages import Passage, passages, says_something
from tunesmith.teacher.plan import estimate
from tunesmith.teacher.prompts import Prompts
from tunesmith.teacher.teaching import Teaching

CONTENTS = """# Contents

- [Installing PolarDB on three machines](install.md)
- [Backups, and how they are restored](backup.md#restore)
    - [Of single tables](tables.md)
"""
NOTHING = {
    "links": CONTENTS,
    "a printed table of contents": "1 Introduction ..... 5\n1.1 How to read it . . . . . 7\n第二章 存储 …… 12\n",
    "code": "## Example\n\nLike this:\n\n```sql\nSELECT name, height FROM towers ORDER BY 2, name, height;\n```\n",
    "headings": "# Storage\n\n## Where data is kept by the cluster\n\n### And how it is found again\n",
    "pictures": "![the tower as seen from the river at night](tower.png)\n[![build of the branch](a.svg)](https://x.y)",
    "addresses": "https://example.com/a/very/long/path\n<https://example.com/another>\n\n[1]: https://x.y Title of it",
    "标题和链接": "# 目录\n\n1. [如何安装数据库集群](a.md)\n2. [备份与恢复的原理](b.md)\n",
    "markup": '<a href="#top"></a>\n<img src="tower of the river.png"/>\n<!-- nothing for a reader to see -->',
}
SOMETHING = {
    "a sentence": "Backups are kept for 7 days.",
    "一句话": "备份默认保留 7 天。",
    "a list of facts": "- one primary node\n- up to 15 read-only nodes\n",
    "a table": "| node | tasks |\n|---|---|\n| primary | writes and reads |\n| replica | reads only |\n",
    "a list of links that says what each is": "- [PolarDB](p.md) keeps three copies of each block of data\n",
    "words around code": "Write this in front of the query, so that it waits for nobody:\n\n```sql\nSET x = 1;\n```\n",
    "a quotation": "> The storage is shared by all the nodes.",
}


@pytest.mark.parametrize("text", list(NOTHING.values()), ids=list(NOTHING))
def test_what_only_names_or_shows_says_nothing(text):
    assert not says_something(text)


@pytest.mark.parametrize("text", list(SOMETHING.values()), ids=list(SOMETHING))
def test_what_states_a_fact_says_something(text):
    assert says_something(text)


def test_such_passages_are_counted_and_not_asked_about(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "0.md").write_text(document(0))
    (tmp_path / "docs" / "1.md").write_text(CONTENTS)
    with serving() as fake:
        events = teach(tmp_path, fake.url, held_out=0.0)
        assert not any("Installing PolarDB" in body["messages"][0]["content"] for body in fake.seen)
    account = report(tmp_path)
    assert account["asked_about"]["passage"] == {"all": 2, "lost": {"almost no text": 1}, "not_asked": 0}
    assert (account["rows"], adds_up(account)) == (8, True)
    assert [(row["file"], row["reason"]) for row in lines(tmp_path, "quarantine")] == [("docs/1.md", "almost no text")]
    assert [e.total for e in events if e.event == "asked"][-1] == 5, "it is not waited for either"


def test_documents_in_which_nothing_is_said_are_an_error_before_anything_is_asked(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "1.md").write_text(CONTENTS)
    said = "nothing to ask about in docs: no passage has more than headings, links and code"
    with pytest.raises(TeacherError, match=said):
        teach(tmp_path, "http://127.0.0.1:9/v1")


def test_they_cost_nothing_in_the_estimate(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "0.md").write_text(document(0))
    alone = estimate(Teaching(settings("http://x"), Prompts(), "m"), tmp_path)
    (tmp_path / "docs" / "1.md").write_text(CONTENTS)
    assert estimate(Teaching(settings("http://x"), Prompts(), "m"), tmp_path) == alone


def test_a_part_of_a_long_listing_is_code_without_the_fence_that_opened_it(tmp_path):
    (tmp_path / "docs").mkdir()
    listing = "\n".join(f"int add_to_counter_{i}(struct counter *it) {{ return it->value + step; }}" for i in range(60))
    text = f"{document(0)}\nLike this, as everybody knows who read it:\n\n```c\n{listing}\n```\n\n{document(100)}"
    (tmp_path / "docs" / "0.md").write_text(text)
    found = [item for item in passages(settings("http://x", passage=200), tmp_path) if isinstance(item, Passage)]
    assert any("counter_59" in item.text and "```c" not in item.text for item in found)
    for item in found:
        assert item.is_bare == ("tower" not in item.text and "everybody" not in item.text), item.text
