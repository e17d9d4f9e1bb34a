from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.dataset import boilerplate
from tunesmith.dataset.boilerplate import EDGE, Boilerplate, Edges

BLOGS = Path(__file__).parents[2].parent / "shared" / "data" / "blog"
FOOTER = "[About the author](me.md)\n\n---\n\n![badge](badge.png)\n"
LICENCE = "Copyright 2024 The Authors.\nLicensed under GPL-2.0.\n\n"


def learned(texts: list[str]) -> Boilerplate:
    edges = Edges()
    for text in texts:
        edges.count(text)
    return edges.frozen()


def articles(count: int, head: str = "", tail: str = "") -> list[str]:
    return [f"{head}Article {i}.\n\nIts body, number {i}.\n\n{tail}" for i in range(count)]


def test_a_footer_and_a_licence_note_are_taken_off():
    texts = articles(5, LICENCE, FOOTER)
    kept, removed = learned(texts).strip(texts[3])
    assert kept == "\nArticle 3.\n\nIts body, number 3.\n\n"
    assert "".join(removed) == LICENCE[:-1] + FOOTER


def test_what_is_kept_and_what_is_removed_is_the_text():
    texts = [text.replace("\n", "\r\n") + "  " for text in articles(5, LICENCE, FOOTER)]
    kept, removed = learned(texts).strip(texts[0])
    assert len(kept) + sum(map(len, removed)) == len(texts[0])
    assert removed


@pytest.mark.parametrize(
    ("with_footer", "others", "expected"), [(2, 0, False), (3, 0, True), (3, 13, False), (4, 16, True)]
)
def test_a_line_counts_from_three_documents_and_a_fifth_of_them_on(with_footer: int, others: int, expected: bool):
    texts = articles(with_footer, tail=FOOTER) + [f"Other text {i}\n" for i in range(others)]
    assert bool(learned(texts).strip(texts[0])[1]) is expected


def test_lines_that_are_common_inside_are_not_removed():
    texts = [f"Article {i}\n## Background\nbody {i}\n## Reference list\nlast {i}\n" for i in range(5)]
    assert learned(texts).strip(texts[0]) == (texts[0], [])


def test_a_short_line_such_as_a_brace_takes_nothing_away():
    texts = [f"text {i}\n}}\n---\n" for i in range(5)]
    assert learned(texts).strip(texts[0]) == (texts[0], [])


def test_a_short_line_before_a_footer_stays_with_the_content():
    texts = articles(5, tail="}\n" + FOOTER)
    assert learned(texts).strip(texts[0])[0].endswith("}\n")


def test_the_end_of_a_code_fence_stays_and_so_does_what_is_in_an_open_one():
    closed = [f"```sql\nselect {i};\n```\n{FOOTER}" for i in range(5)]
    assert learned(closed).strip(closed[0])[0] == "```sql\nselect 0;\n```\n"
    opened = [f"text\n```sql\nselect {i};\n{FOOTER}" for i in range(5)]
    assert learned(opened).strip(opened[0]) == (opened[0], [])


def test_a_rule_that_sets_the_footer_off_goes_with_it_but_not_one_that_underlines_a_heading():
    texts = articles(5, tail="-----\n\n" + FOOTER)
    assert learned(texts).strip(texts[0])[0].endswith("number 0.\n\n")
    texts = [f"text {i}\nHeading {i}\n-----\n\n{FOOTER}" for i in range(5)]
    assert learned(texts).strip(texts[0])[0].endswith("Heading 0\n-----\n\n")


def test_a_title_and_front_matter_stay():
    texts = [f"# The one title\n\n[![badge](b.svg)](x)\n\nbody {i}\n" for i in range(5)]
    assert learned(texts).strip(texts[0]) == (texts[0], [])
    texts = [f"---\nlayout: article\ntitle: {i}\n---\nbody {i}\n" for i in range(5)]
    assert learned(texts).strip(texts[0]) == (texts[0], [])


def test_a_document_of_boilerplate_alone_stays():
    texts = articles(5, LICENCE, FOOTER)
    assert learned(texts).strip(FOOTER) == (FOOTER, [])
    assert learned(texts).strip(LICENCE + FOOTER) == (LICENCE + FOOTER, [])


def test_copies_of_one_document_are_no_boilerplate():
    body = "".join(f"line {i} of the article\n" for i in range(EDGE))
    texts = [f"Version {i}\n{body}" for i in range(4)]
    assert learned(texts).strip(texts[0]) == (texts[0], [])


def test_chinese_footers_are_found():
    footer = "欢迎关注微信公众号\n\n点赞收藏\n"
    texts = [f"第{i}篇\n\n正文{i}，内容各不相同。\n\n{footer}" for i in range(5)]
    kept, removed = learned(texts).strip(texts[2])
    assert kept == "第2篇\n\n正文2，内容各不相同。\n\n"
    assert "".join(removed) == footer


def test_memory_is_bounded_and_what_is_common_is_still_known(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(boilerplate, "LIMIT", 500)
    edges = Edges()
    for i in range(300):
        edges.count("".join(f"line {i} {j}\n" for j in range(60)) + (FOOTER if i % 3 == 0 else ""))
        assert max(len(edges._starts), len(edges._ends)) <= 500
    assert edges.frozen().strip("text\n\n" + FOOTER) == ("text\n\n", FOOTER.splitlines(keepends=True))


LINES = st.lists(st.sampled_from(["", " ", "---", "```", "# Title", "a footer line", "another footer", "}", "text"]))


@given(st.lists(LINES, min_size=3, max_size=6), st.sampled_from(["\n", "\r\n", "\u2028", "\r"]))
def test_no_character_is_lost_and_no_document_emptied(documents: list[list[str]], end: str):
    texts = [end.join(lines) for lines in documents]
    known = learned(texts)
    for text in texts:
        kept, removed = known.strip(text)
        assert len(kept) + sum(map(len, removed)) == len(text)
        assert text.endswith(kept + "".join(removed)[len(text) - len(kept) :]) or kept in text
        assert kept.strip() or not removed


@pytest.mark.skipif(not BLOGS.exists(), reason="../shared/data/blog is not here")
def test_the_blogs_footer_goes_and_its_articles_stay_whole():
    texts = [p.read_text(encoding="utf-8") for p in sorted((BLOGS / "digoal-blog-2018").rglob("2*.md"))]
    known = learned(texts)
    for text in random.Random(0).sample(texts, 50):
        kept, removed = known.strip(text)
        lines = [line for line in removed if line.strip()]
        assert kept + "".join(removed) == text
        assert len(lines) == 2
        assert "flagcounter.com" in lines[0]
        assert "大量PostgreSQL文章入口" in lines[1]
