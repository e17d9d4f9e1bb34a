from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.dataset.blocks import parse


def blocks(text: str) -> list[tuple[str, int]]:
    return [(text[b.start : b.end].strip("\n"), b.level) for b in parse(text)]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("## Title ##", "Title"),
        ("# `#x` and **bold**", "#x and bold"),
        ("## [text](http://x) c", "text c"),
        ("# [![image](a)](b) z", "image z"),
        ("# pg_stat_statements 与 _强调_ x", "pg_stat_statements 与 强调 x"),
        ("# 2 * 3 * 4", "2 * 3 * 4"),
        ("# SELECT *", "SELECT *"),
        ("# C#", "C#"),
        ("# 1\\. <b>x</b> a < b", "1. x a < b"),
        ("Underlined *title*\n===", "Underlined title"),
        ("#", ""),
    ],
)
def test_a_heading_says_what_it_says_without_marks(written, said):
    (block,) = parse(written)
    assert block.level
    assert block.name == said


def test_headings_are_atx_and_setext_and_not_those_in_fences_or_front_matter():
    text = "---\ntitle: x\n---\n# A\ntext\n\nB\n---\n```\n# no\n```\n~~~ sh\n# no\n```\n~~~\n    # no\n#no\n"
    assert [(b.name, b.level) for b in parse(text) if b.level] == [("A", 1), ("B", 2)]


def test_paragraphs_items_fences_tables_quotes_and_html_are_blocks():
    text = "one\ntwo\n- a\n- b\n  more\n1. c\n\n|a|b|\n|-|-|\n|1|2|\n\n> q\nlazy\n\n"
    text += "<div>\n# x\n</div>\n\n```\n\nx\n```\nend\n***\n"
    assert blocks(text) == [
        ("one\ntwo", 0), ("- a", 0), ("- b\n  more", 0), ("1. c", 0), ("|a|b|\n|-|-|\n|1|2|", 0), ("> q\nlazy", 0),
        ("<div>\n# x\n</div>", 0), ("```\n\nx\n```", 0), ("end", 0), ("***", 0),
    ]  # fmt: skip


def test_a_fence_that_is_never_closed_goes_to_the_end_but_not_one_that_indented_code_shows():
    assert len(parse("```\n# a\n\n# b\n")) == 1
    assert [b.name for b in parse("    ```\n\n# a\n") if b.level] == ["a"]


@given(st.text(alphabet="#-=>|`~* \n<a1.字", max_size=60))
def test_blocks_follow_each_other_without_a_gap(text):
    found = parse(text)
    assert [b.start for b in found] == [0, *(b.end for b in found[:-1])][: len(found)]
    assert (found[-1].end if found else 0) == len(text)
