from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.errors import SourceError
from tunesmith.sources.blog_index import Link, links_of, read_blog_index
from tunesmith.sources.document import Document, Unread
from tunesmith.sources.documents import read_later
from tunesmith.sources.example import Origin
from tunesmith.sources.quarantine import Quarantined

BLOG = Path(__file__).parents[2].parent / "shared" / "data" / "blog"
needs_blog = pytest.mark.skipif(not BLOG.exists(), reason="needs /work/shared/data/blog")


def articles(index: Path, name: str, marker: str | None = None, filter: str | None = None):
    found = read_blog_index(index, name, marker, filter)
    return [read_later(item) if isinstance(item, Unread) else item for item in found]


def read(folder: Path, index: str, marker: str | None = None, filter: str | None = None, name: str = "b/README.md"):
    (folder / "README.md").write_text(index, "utf-8")
    return articles(folder / "README.md", name, marker, filter)


@needs_blog
def test_every_line_of_2018_about_greenplum_has_its_article():
    index = BLOG / "digoal-blog-2018" / "blog" / "README.md"
    found = articles(index, "blog/README.md", "### 所有文档如下", "GREENPLUM")
    assert [type(article) for article in found] == [Document] * 106
    lines = [line for line in index.read_text("utf-8").split("\n")[41:] if "greenplum" in line.lower()]
    titles = [" ".join(line.partition("[")[2].rpartition("](")[0].split()) for line in lines]
    assert [article.title for article in found] == titles
    assert sum("[" in article.title for article in found) == 5  # which the story's regex drops
    assert [article.origin.file for article in found] == ["blog/" + line.split()[1] for line in lines]


@needs_blog
def test_2025_about_polardb_has_7_articles_and_32_are_missing():
    index = BLOG / "digoal-blog-2025" / "blog" / "README.md"
    found = articles(index, "README.md", "### 六、所有文档如下", "polardb")
    missing = [article for article in found if isinstance(article, Quarantined)]
    assert (len(found), len(missing)) == (39, 32)
    assert missing[0].reason == "the article is missing; get it, or take out its line"
    assert missing[0].text.startswith("##### 202501/20250102_01.md   [《穷鬼玩PolarDB RAC")
    assert missing[0].text == index.read_text("utf-8").split("\n")[missing[0].origin.line - 1].strip()
    article = found[0]
    assert article.title == "《大模型微调(fine-tuning)实践 - 让它学完所有PolarDB文章》"
    assert article.origin == Origin("202501/20250108_01.md")
    assert len(article.text) > 5000


@needs_blog
def test_without_a_filter_every_line_of_2018_is_an_entry():
    index = BLOG / "digoal-blog-2018" / "blog" / "README.md"
    found = articles(index, "README.md", "### 所有文档如下")
    assert len(found) == 1894 + 1  # and the link to an older blog
    assert sum(isinstance(article, Document) for article in found) == 192


@pytest.mark.parametrize(
    ("line", "links"),
    [
        ("##### 201801/20180101_01.md   [《A》](201801/20180101_01.md)  ", [("《A》", "201801/20180101_01.md")]),
        ("- [a [b] c](x.md)", [("a [b] c", "x.md")]),
        ("[《a [b》](x.md)", [("《a [b》", "x.md")]),
        ("[《a] b》](x.md)", [("《a] b》", "x.md")]),
        (r"* [a \[b c\] \* \d](x.md)", [(r"a [b c] * \d", "x.md")]),
        ("1. [new] [T](x.md)", [("T", "x.md")]),
        ("- [ ] [T](x.md)", [("T", "x.md")]),
        ("[T](<a b.md> 'caption')", [("T", "a b.md")]),
        ('[T](a b.md "a (caption)")', [("T", "a b.md")]),
        ("[T](a%20b(1).md#part)", [("T", "a%20b(1).md#part")]),
        ("[T](a(b.md)", [("T", "a(b.md")]),
        ("| [T](a.md) | **[《U [1]》](b.md)** |", [("T", "a.md"), ("《U [1]》", "b.md")]),
        ("![T](a.png) [T](a.md)", [("T", "a.md")]),
        ("[T] (a.md), [T][1], [T](", []),
    ],
)  # fmt: skip
def test_links_are_found_as_people_write_them(line, links):
    assert list(links_of(line)) == [Link(*link) for link in links]


@given(st.text(alphabet="[](){}<>!\\ab \"'#|x.md", max_size=60))
def test_no_line_breaks_the_search_for_links(line):
    for link in links_of(line):
        assert link.title in line or "\\" in line or "  " in line or "!" in line


@given(st.lists(st.sampled_from(["[", "]", "a", "《", " x", "文"]), max_size=8).map("".join))
def test_a_title_in_pairs_of_brackets_is_kept_whole(title):
    balanced, depth = True, 0
    for c in title:
        depth += (c == "[") - (c == "]")
        balanced &= depth >= 0
    if balanced and depth == 0:
        assert list(links_of(f"##### p.md [{title}](p.md)")) == [Link(" ".join(title.split()), "p.md")]


def test_targets_may_be_encoded_and_carry_an_anchor(tmp_path):
    for name in ("a b.md", "文章.md", "C#.md", "50%.md", "q.md"):
        (tmp_path / name).write_text(f"# {name}", "utf-8")
    index = "[1](a%20b.md)\n[2](%E6%96%87%E7%AB%A0.md#part)\n[3](C#.md)\n[](50%.md)\n[5](./q.md?x=1)\n"
    found = read(tmp_path, index)
    assert [(d.title, d.origin.file) for d in found] == [
        ("1", "b/a b.md"), ("2", "b/文章.md"), ("3", "b/C#.md"), ("50%.md", "b/50%.md"), ("5", "b/q.md"),
    ]  # fmt: skip


def test_the_web_and_the_index_itself_are_no_entries(tmp_path):
    (tmp_path / "a.md").write_text("text", "utf-8")
    index = "[w](https://x.org/a.md)\n[m](mailto:a@b.c)\n[p](//x.org/a.md)\n[t](#part)\n[e]()\n[a](a.md)\n"
    assert [d.title for d in read(tmp_path, index)] == ["a"]


def test_what_leaves_the_folder_is_quarantined(tmp_path):
    (tmp_path / "secret.md").write_text("secret", "utf-8")
    blog = tmp_path / "blog"
    blog.mkdir()
    (blog / "link.md").symlink_to(tmp_path / "secret.md")
    index = f"[a](../secret.md)\n[b]({tmp_path}/secret.md)\n[c](%2e%2e/secret.md)\n[d](link.md)\n"
    found = read(blog, index)
    assert found[0].reason == "../secret.md lies outside the index's folder; move the article into it"
    assert ["outside the index's folder" in each.reason for each in found] == [True] * 4
    assert [each.origin.line for each in found] == [1, 2, 3, 4]


def test_an_article_listed_again_is_quarantined(tmp_path):
    (tmp_path / "a.md").write_text("text", "utf-8")
    first, second = read(tmp_path, "[x](a.md)\n\n- [y](./a.md#z)\n")
    assert first == Document("text", "x", Origin("b/a.md"))
    assert second == Quarantined(
        Origin("b/README.md", 3), "listed again; it is already there from line 1", "- [y](./a.md#z)"
    )


def test_folders_and_files_that_cannot_be_read_are_quarantined(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "empty.md").write_text("", "utf-8")
    (tmp_path / "round.md").symlink_to(tmp_path / "round.md")
    found = read(tmp_path, f"[f](sub)\n[e](empty.md)\n[r](round.md)\n[n](a%00b.md)\n[l]({'x' * 3000}.md)\n")
    assert [type(each) for each in found] == [Quarantined] * 5
    assert found[0].reason == "the article is a folder; link the article in it"
    assert found[1].reason == "the file is empty; fill it or leave it out"


def test_only_lines_behind_the_marker_count_and_the_filter_ignores_case(tmp_path):
    (tmp_path / "a.md").write_text("text", "utf-8")
    (tmp_path / "b.md").write_text("text", "utf-8")
    index = "[no](a.md)\n## The LIST below\n[STRASSE](a.md)\n[other](b.md)\n"
    assert [d.title for d in read(tmp_path, index, "LIST", "straße")] == ["STRASSE"]


def test_a_marker_that_is_not_there_names_the_nearest_heading(tmp_path):
    with pytest.raises(SourceError, match="the nearest heading is '### 六、所有文档如下'"):
        read(tmp_path, "# 开始\n### 六、所有文档如下  \n", "### 所有文档如下：")
    with pytest.raises(SourceError, match=r"no line with the marker 'x'$"):
        read(tmp_path, "no heading", "x")


def test_an_index_that_lists_nothing_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="lists no article whose line holds 'polar'"):
        read(tmp_path, "[a](a.md)", filter="polar")


def test_an_index_that_is_missing_or_no_text_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="there is no file"):
        list(read_blog_index(tmp_path / "README.md", "README.md", None, None))
    (tmp_path / "README.md").write_bytes(b"\0" * 100)
    with pytest.raises(SourceError, match="is no index"):
        list(read_blog_index(tmp_path / "README.md", "README.md", None, None))
