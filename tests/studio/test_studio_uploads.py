"""Files that are dropped: harmless names, inside the project, nothing overwritten."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from projects import client_of

from tunesmith.errors import SourceError
from tunesmith.studio.context import Missing
from tunesmith.studio.uploads import clean_name, keep, source_path, uploaded


async def _stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def kept(project: Path, name: str, *chunks: bytes, most: int = 1000) -> str:
    return asyncio.run(keep(_stream(*chunks), project, name, most)).relative_to(project).as_posix()


@pytest.mark.parametrize(("name", "cleaned"), [
    ("faq.csv", "faq.csv"),
    ("常见问题 2024.xlsx", "常见问题 2024.xlsx"),
    ("../../etc/passwd", "passwd"),
    ("C:\\Users\\me\\notes.md", "notes.md"),
    (".bashrc", "bashrc"),
    ("a\x00b\u202egpj.csv", "abgpj.csv"),
    ('what? "this"#1.json', "what_ _this__1.json"),
    ("x" * 300 + ".csv", "x" * 176 + ".csv"),
])  # fmt: skip
def test_a_name_is_made_harmless_and_keeps_its_letters(name, cleaned):
    assert clean_name(name) == cleaned


@pytest.mark.parametrize("name", ["", "..", "../", "...", "\u200b"])
def test_a_name_of_nothing_is_refused(name):
    with pytest.raises(SourceError, match="no name for a file"):
        clean_name(name)


def test_the_same_content_is_the_same_file_and_other_content_gets_a_number(tmp_path):
    assert kept(tmp_path, "faq.csv", b"a,", b"b") == "uploads/faq.csv"
    assert kept(tmp_path, "faq.csv", b"a,b") == "uploads/faq.csv"
    assert kept(tmp_path, "faq.csv", b"other") == "uploads/faq-2.csv"
    assert kept(tmp_path, "faq.csv", b"other") == "uploads/faq-2.csv"
    assert (tmp_path / "uploads" / "faq.csv").read_bytes() == b"a,b"
    assert [path.name for path in uploaded(tmp_path)] == ["faq-2.csv", "faq.csv"]


@pytest.mark.parametrize(("chunks", "sentence"), [((b"x" * 600, b"x" * 600), "larger than"), ((), "is empty")])
def test_what_is_too_large_or_empty_leaves_nothing_behind(tmp_path, chunks, sentence):
    with pytest.raises(SourceError, match=sentence):
        kept(tmp_path, "big.csv", *chunks)
    assert list((tmp_path / "uploads").iterdir()) == []


def test_a_file_is_never_written_through_a_link_that_leads_out(tmp_path):
    project, outside = tmp_path / "project", tmp_path / "outside"
    project.mkdir()
    outside.mkdir()
    (project / "uploads").symlink_to(outside)
    with pytest.raises(Missing, match="leads out"):
        kept(project, "faq.csv", b"x")
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../secret.txt", "/etc/passwd", "link.txt", "folder/../../secret.txt", "a\0b", "", "."]
)
def test_a_source_outside_the_project_cannot_be_named(tmp_path, name):
    project = tmp_path / "project"
    (project / "folder").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("secret")
    (project / "link.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(Missing, match="not inside"):
        source_path(project, name)


@pytest.mark.parametrize("path", ["..%2f..%2fevil.csv", "%2e%2e/%2e%2e/evil.csv", "..%5cevil.csv", "%2Ftmp%2Fevil.csv"])
def test_a_page_can_put_files_nowhere_but_into_uploads(tmp_path, path):
    project = tmp_path / "a" / "project"
    project.mkdir(parents=True)
    answer = client_of(project).put(f"/uploads/{path}", content="question,answer\n")
    assert (answer.status_code, answer.json()["path"]) == (201, "uploads/evil.csv")
    assert [p.relative_to(project).as_posix() for p in tmp_path.rglob("*") if p.is_file()] == ["uploads/evil.csv"]
    assert (project / "uploads" / "evil.csv").stat().st_mode & 0o777 == 0o644  # nothing that could be run
