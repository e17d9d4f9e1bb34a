from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_chat import CHATML, write_chat

from tunesmith.dataset.compose import compose
from tunesmith.dataset.tokens import encode
from tunesmith.errors import SourceError
from tunesmith.models.chat import ChatFormat
from tunesmith.sources.document import Document
from tunesmith.sources.example import Example, Origin

BLOG = Path(__file__).parents[2].parent / "shared" / "data" / "blog"


@pytest.fixture(scope="module")
def chat(tmp_path_factory) -> ChatFormat:
    """One token a byte."""
    return ChatFormat(write_chat(tmp_path_factory.mktemp("chat"), CHATML))


def document(text: str, title: str = "Title") -> Document:
    return Document(text, title, Origin("a.md"))


def rows(chat: ChatFormat, text: str, limit: int, title: str = "Title", ask: str = "{title}", system: str = ""):
    return list(compose(document(text, title), ask, system, limit, chat))


def questions(found: list[Example]) -> list[str]:
    return [row.messages[-2].content for row in found]


def answers(found: list[Example]) -> list[str]:
    return [row.messages[-1].content for row in found]


def size(chat: ChatFormat, row: Example) -> int:
    return sum(len(s.ids) for s in encode(row, chat, 10**9))


def solid(text: str) -> str:
    return "".join(text.split())


# -- one row and many ------------------------------------------------------------------------------


def test_a_document_that_fits_is_one_row_and_all_of_it_is_learned(chat):
    (row,) = rows(chat, "\n# Title\n\ntext\n\n## A\n\n    code\n", 200, ask="Write about: {title}")
    assert questions([row]) == ["Write about: Title"]
    assert answers([row]) == ["# Title\n\ntext\n\n## A\n\n    code"]
    assert [m.learn for m in row.messages] == [False, True]
    assert (row.origin, row.group) == (Origin("a.md", 2), "a.md")


def test_a_row_may_fill_the_limit_exactly(chat):
    text = "# Title\n\n" + "text " * 20
    (row,) = rows(chat, text, 1000)
    assert len(rows(chat, text, size(chat, row))) == 1
    assert len(rows(chat, text, size(chat, row) - 1)) == 2


def test_a_blank_document_gives_no_rows(chat):
    assert rows(chat, " \n\n", 100) == []


def test_the_system_message_is_in_the_row_and_counts(chat):
    text = "word " * 30
    (row,) = rows(chat, text, 1000, system="Be brief.")
    assert [m.role for m in row.messages] == ["system", "user", "assistant"]
    assert len(rows(chat, text, size(chat, row) - 1, system="Be brief.")) == 2


def test_a_document_is_divided_at_its_highest_headings_and_small_sections_stay_together(chat):
    text = f"# Title\n\nintro\n\n## A\n\n{'a ' * 55}\n\n## B\n\nb\n\n## C\n\nc\n\n## D\n\n{'d ' * 60}\n"
    found = rows(chat, text, 180)
    assert questions(found) == ["Title › A", "Title › B; C", "Title › D"]
    assert [row.origin for row in found] == [
        Origin("a.md", 1, "A"), Origin("a.md", 9, "B; C"), Origin("a.md", 17, "D")]  # fmt: skip


def test_a_heading_that_is_the_title_but_for_its_marks_is_not_said_twice(chat):
    text = f"# Title\n\nintro\n\n## A\n\n{'a ' * 55}\n\n## B\n\n{'b ' * 60}\n"
    assert questions(rows(chat, text, 180, title="《Title》")) == ["《Title》", "《Title》 › A", "《Title》 › B"]


def test_a_section_that_is_too_large_is_divided_at_its_own_headings(chat):
    text = f"# Title\n\n## A\n\n### A1 ##\n\n{'x ' * 60}\n\n### `A2` **b**\n\n{'y ' * 60}\n\n## B\n\n{'z ' * 60}\n"
    found = rows(chat, text, 230)
    assert questions(found) == ["Title › A › A1", "Title › A › A2 b", "Title › B"]
    assert answers(found)[0].startswith("# Title\n\n## A\n\n### A1 ##\n\nx")  # no row is only headings


def test_parts_that_headings_do_not_tell_apart_are_numbered(chat):
    found = rows(chat, "# Title\n\n## 例子\n\n" + "一段文字。\n\n" * 20, 200)
    assert questions(found) == [f"Title › 例子 ({k}/{len(found)})" for k in range(1, len(found) + 1)]
    sizes = [size(chat, row) for row in found]
    assert max(sizes) - min(sizes) < 40  # of like size, not one small rest


def test_two_sections_of_one_name_are_numbered(chat):
    found = rows(chat, f"## Same\n\n{'a ' * 60}\n\n## Other\n\n{'b ' * 60}\n\n## Same\n\n{'c ' * 60}\n", 200)
    assert questions(found) == ["Title › Same (1/2)", "Title › Other", "Title › Same (2/2)"]


def test_many_small_sections_are_named_in_a_bounded_way(chat):
    text = "".join(f"## Section number {k} with a long name\n\nt\n\n" for k in range(40))
    found = rows(chat, text, 600)
    assert 1 < len(found) < 8
    assert questions(found)[0].startswith("Title › Section number 0 with a long name … Section number ")
    assert all(len(q) < 130 for q in questions(found))


def test_fences_and_tables_that_fit_stay_whole(chat):
    fence = "```sql\n" + "select 1;\n\n" * 8 + "```"
    table = "| a | b |\n|---|---|\n" + "| 1 | 2 |\n" * 8
    found = rows(chat, f"# Title\n\n{'p ' * 40}\n\n{fence}\n\n{'q ' * 40}\n\n{table}\n\nend\n", 220)
    assert any(fence in answer for answer in answers(found))
    assert any(table.strip() in answer for answer in answers(found))


def test_a_fence_that_is_too_long_is_divided_at_lines_and_gets_no_marks(chat):
    found = rows(chat, "```\n" + "select 1;\n" * 60 + "```\n", 220)
    assert len(found) > 3
    assert "\n".join(answers(found)) == "```\n" + "select 1;\n" * 60 + "```"


def test_a_long_line_is_divided_at_the_ends_of_sentences(chat):
    found = rows(chat, "这是一句话。" * 30 + "Is this one? Yes, 3.5 of them. " * 10, 180)
    assert len(found) > 4
    assert all(answer[-1] in "。?." for answer in answers(found))


def test_a_long_heading_path_is_shortened(chat):
    text = f"# Alpha\n\n## {'Bravo ' * 8}\n\n### Charlie\n\n{'x ' * 200}"
    assert "Title › … › Charlie (1/" in questions(rows(chat, text, 180))[0]
    assert questions(rows(chat, "x " * 200, 150, title="A very long title " * 20))[0].startswith("A very")
    assert "…" in questions(rows(chat, "x " * 200, 150, title="A very long title " * 20))[0]


def test_a_limit_that_is_too_small_says_what_to_do(chat):
    with pytest.raises(SourceError, match=r"a\.md.*raise data\.max_tokens"):
        rows(chat, "text " * 50, 40)


def test_a_special_token_in_the_text_counts_as_the_text_it_is(chat):
    found = rows(chat, "a <|im_end|> b\n" * 100, 200)
    assert all(size(chat, row) <= 200 for row in found)
    assert solid("".join(answers(found))) == solid("a <|im_end|> b\n" * 100)


def test_a_row_that_is_longer_than_its_text_promised_is_divided_again(tmp_path):
    template = CHATML.replace("{{ m.content }}", "{{ m.content }}{% if m.role == 'user' %}{{ m.content }}{% endif %}")
    chat = ChatFormat(write_chat(tmp_path / "chat", template))
    text = f"# Title\n\n## {'Long heading ' * 3}\n\n" + "a line\n" * 60
    found = rows(chat, text, 230)
    assert solid("".join(answers(found))) == solid(text)
    assert all(size(chat, row) <= 230 for row in found)


# -- nothing is lost -------------------------------------------------------------------------------

words = st.text(alphabet="abc 数据库。！…;.,*_[]<>|#-\\`", max_size=40)
names = st.text(alphabet="AB 标题#*`_", min_size=1, max_size=12)
fences = st.lists(words.filter(lambda t: "```" not in t), max_size=8).map(
    lambda lines: "```\n" + "\n".join(lines) + "\n```"
)
pieces = st.one_of(
    words,
    st.builds(lambda n, name: "#" * n + " " + name, st.integers(1, 6), names),
    st.builds(lambda name, mark: name + "\n" + mark, names, st.sampled_from(["===", "---"])),
    fences,
    st.integers(1, 8).map(lambda n: "|a|b|\n|-|-|\n" + "|1|二|\n" * n),
    st.integers(1, 400).map(lambda n: "x" * n),
    st.integers(1, 150).map(lambda n: "字" * n),
    st.lists(words, min_size=1, max_size=5).map(lambda items: "\n".join("- " + i for i in items)),
    words.map(lambda t: "> " + t),
    words.map(lambda t: f"<div>\n{t}\n</div>"),
    st.just("😀" * 30),
    st.just("    indented\n\n    code"),
    st.just("<|im_end|>"),
)
texts = st.lists(st.tuples(pieces, st.sampled_from(["\n", "\n\n", "\n\n\n", "  \n"])), max_size=12).map(
    lambda parts: "".join(a + b for a, b in parts)
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(texts, st.sampled_from(["Title", "标题", "A", ""]), st.integers(130, 700))
def test_nothing_is_lost_and_every_row_fits(chat, text, title, limit):
    found = rows(chat, text, limit, title=title)
    assert solid("".join(answers(found))) == solid(text)
    assert all(size(chat, row) <= limit for row in found)
    assert all(answer.strip() for answer in answers(found))
    assert len(set(questions(found))) == len(found)
    lines = text.split("\n")
    for row in found:
        assert row.origin.line
        assert answers([row])[0].split("\n")[0].strip() in lines[row.origin.line - 1]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(fences, words.filter(lambda t: "`" not in t)), max_size=8), st.integers(300, 900))
def test_no_fence_that_fits_is_divided(chat, parts, limit):
    found = rows(chat, "\n\n".join(parts), limit)
    for part in parts:
        if part.startswith("```") and len(part.encode()) <= (limit - 100) // 4:
            assert any(part in answer for answer in answers(found))


# -- time and real articles ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "unit", ["x", "A sentence of words. ", "## heading\n\ntext and more\n\n", "字", "- item\n", "    ```\ncode\n\n"]
)
def test_the_cost_is_proportional_to_the_length(chat, unit):
    def seconds(length: int) -> float:
        start = time.process_time()
        assert rows(chat, unit * (length // len(unit.encode())), 2048)
        return time.process_time() - start

    seconds(10_000)
    assert seconds(200_000) < 12 * seconds(50_000) + 0.5  # four times the text


@pytest.mark.skipif(not BLOG.exists(), reason="../shared/data is not here")
@pytest.mark.parametrize("limit", [512, 2048])
def test_real_articles_lose_nothing(chat, limit):
    paths = [p for p in sorted(BLOG.glob("digoal-blog-20*/blog/20*/*.md")) if p.stat().st_size < 20_000][:15]
    assert paths
    for path in paths:
        text = path.read_text(encoding="utf-8").replace("\r\n", "\n")
        found = rows(chat, text, limit, title=path.stem)
        assert solid("".join(answers(found))) == solid(text)
        assert all(size(chat, row) <= limit for row in found)
        assert len(set(questions(found))) == len(found)
