from __future__ import annotations

import io
import logging
import socket
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunesmith.errors import SourceError
from tunesmith.sources import documents
from tunesmith.sources.document import Document
from tunesmith.sources.documents import DOCUMENTS, LARGEST, first_heading, read_document
from tunesmith.sources.example import Origin
from tunesmith.sources.quarantine import Quarantined

RENAME = "; give it the right suffix or leave it out"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def read(folder: Path, name: str, data: bytes | str, title: str | None = None) -> Document | Quarantined:
    (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return read_document(folder / name, f"docs/{name}", title)


def good(folder: Path, name: str, data: bytes | str, title: str | None = None) -> Document:
    document = read(folder, name, data, title)
    assert isinstance(document, Document), document
    assert document.origin == Origin(f"docs/{name}")
    return document


def reason(folder: Path, name: str, data: bytes | str) -> str:
    found = read(folder, name, data)
    assert isinstance(found, Quarantined), found
    assert found.origin == Origin(f"docs/{name}")
    return found.reason


def zipped(files: dict[str, bytes | str]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return packed.getvalue()


def docx(*paragraphs: str, extra: dict[str, bytes | str] | None = None) -> bytes:
    w = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    styles = {"#": ("Heading1", "heading 1"), "%": ("Titel", "Title")}  # an id in the language of one's Word
    style = "".join(
        f'<w:style w:type="paragraph" w:styleId="{called}"><w:name w:val="{name}"/></w:style>'
        for called, name in styles.values()
    )
    body = ""
    for paragraph in paragraphs:
        mark, _, text = paragraph.partition(" ") if paragraph[:2] in ("# ", "% ") else ("", "", paragraph)
        its = f'<w:pPr><w:pStyle w:val="{styles[mark][0]}"/></w:pPr>' if mark else ""
        body += f"<w:p>{its}<w:r><w:t>{text}</w:t></w:r></w:p>"
    return zipped({
        "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>',
        "_rels/.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"/>',
        "word/document.xml": f"<w:document {w}><w:body>{body}</w:body></w:document>",
        "word/styles.xml": f"<w:styles {w}>{style}</w:styles>",
        **(extra or {}),
    })  # fmt: skip


def pptx(*titles: str) -> bytes:
    from pptx import Presentation

    slides, packed = Presentation(), io.BytesIO()
    for title in titles:
        slide = slides.slides.add_slide(slides.slide_layouts[1])
        slide.shapes.title.text, slide.placeholders[1].text = title, f"{title} body"
    slides.save(packed)
    return packed.getvalue()


def pdf(text: str | None, trailer: str = "", content: bytes | None = None) -> bytes:
    page = f"BT /F1 18 Tf 72 700 Td ({text}) Tj ET".encode() if text else b""
    head = f"<< /Length {len(content or page)}{' /Filter /FlateDecode' if content else ''} >>"
    parts = [
        b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        head.encode() + b"\nstream\n" + (content or page) + b"\nendstream",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]  # fmt: skip
    data, places = b"%PDF-1.4\n", []
    for number, part in enumerate(parts, 1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, part)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    data += b"xref\n0 6\n0000000000 65535 f \n" + table
    end = f"trailer\n<< /Size 6 /Root 1 0 R {trailer} >>\nstartxref\n{data.index(b'xref')}\n%%EOF\n"
    return data + end.encode()


def epub(title: str, *chapters: str) -> bytes:
    items = "".join(f'<item id="c{i}" href="c{i}.xhtml"/>' for i in range(len(chapters)))
    spine = "".join(f'<itemref idref="c{i}"/>' for i in range(len(chapters)))
    return zipped({
        "META-INF/container.xml": '<container><rootfiles><rootfile full-path="book.opf"/></rootfiles></container>',
        "book.opf": f'<package xmlns:dc="d"><metadata><dc:title>{title}</dc:title></metadata>'
                    f"<manifest>{items}</manifest><spine>{spine}</spine></package>",
        **{f"c{i}.xhtml": f"<html><body>{chapter}</body></html>" for i, chapter in enumerate(chapters)},
    })  # fmt: skip


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("intro\n\n## 二 **Two** `x` ##\n# One", "二 Two x"),
        ("```\n# not this\n~~~\n```\n# this", "this"),
        ("````\n```\n# no\n````\n[A](b.md)\n---\n", "A"),
        ("Setext 标题\n=====\n# later", "Setext 标题"),
        ("====\nRst\n====\ntext", "Rst"),
        ("a paragraph\nof two lines\n---\n# after", "after"),
        ("- list\n---\n#tag\n#\n### [b](c.md) ###", "b"),
        ("~~~python\n# never closed", None),
        ("no heading\n\n    # code", None),
    ],
)
def test_the_first_heading_is_found(text, title):
    assert first_heading(text) == title


def test_the_title_is_given_or_in_the_front_matter_or_a_heading_or_the_stem(tmp_path):
    matter = "---\ntitle: \"Front: 'one'\"\ntags:\n  - a\n---\n\n# Heading\ntext\n"
    assert good(tmp_path, "a.md", matter, "Given").title == "Given"
    document = good(tmp_path, "a.md", matter)
    assert document == Document("# Heading\ntext", "Front: 'one'", Origin("docs/a.md"))
    assert good(tmp_path, "a.md", "---\nTitle: 前言\n...\nx").title == "前言"
    assert good(tmp_path, "a.md", "---\ntags: [a]\n---\n# Heading\n").title == "Heading"
    assert good(tmp_path, "用户 手册.md", "text only").title == "用户 手册"


def test_text_between_two_rules_is_no_front_matter(tmp_path):
    text = "---\nA line of prose that ends here.\n---\nmore"
    assert good(tmp_path, "a.md", text).text == text


def test_newlines_marks_and_last_zeros_are_put_right(tmp_path):
    assert good(tmp_path, "a.txt", "\ufeffone\r\ntwo\rthree\n\n\0").text == "one\ntwo\nthree"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "gb18030"])
def test_any_encoding_is_read(tmp_path, encoding):
    text = "# 数据库\n\n把数据存入数据库，然后查询。这是一种体验。" * 3
    assert good(tmp_path, "a.md", text.encode(encoding)).text == text


def test_an_unknown_suffix_is_plain_text(tmp_path):
    assert good(tmp_path, "LICENSE", "Do what you like").title == "LICENSE"


def test_html_is_read_without_scripts_and_with_its_title(tmp_path):
    page = (
        "<html><head><title>The\n title 题</title><script>no()</script></head><body><h2>H</h2><p>a <b>b</b></p></body>"
    )
    document = good(tmp_path, "a.HTML", page.encode("utf-16"))
    assert document.title == "The title 题"
    assert document.text == "## H\n\na **b**"
    assert good(tmp_path, "b.htm", "<h1>Heading 1</h1><p>x</p>").title == "Heading 1"


def test_word_is_read_with_headings_and_without_its_pictures(tmp_path):
    document = good(tmp_path, "a.docx", docx("before", "# 标题 One", "body &amp; more"))
    assert document == Document("before\n\n# 标题 One\n\nbody & more", "标题 One", Origin("docs/a.docx"))


def test_powerpoint_is_read_slide_by_slide(tmp_path):
    document = good(tmp_path, "a.pptx", pptx("First 一", "Second"))
    assert document.title == "First 一"
    assert "# Second\nSecond body" in document.text
    assert "Slide number" not in document.text


def test_epub_is_read_in_its_order(tmp_path):
    document = good(tmp_path, "a.epub", epub("书名", "<h1>One</h1>", "<p>two</p>"))
    assert document.title == "书名"
    assert document.text.endswith("# One\n\ntwo")


def test_a_pdf_is_read_and_named_by_its_file(tmp_path):
    document = good(tmp_path, "manual.pdf", pdf("# Hello PDF"))
    assert (document.text, document.title) == ("# Hello PDF", "manual")


def test_nothing_is_fetched_from_the_network(tmp_path, monkeypatch):
    def refused(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    address = "http://example.org/x"
    page = f'<link href="{address}.css"><img src="{address}.png"><iframe src="{address}"></iframe><p>text</p>'
    assert "text" in good(tmp_path, "a.html", page).text
    relations = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    picture = (
        f'<w:drawing><wp:inline xmlns:wp="http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing">'
        f'<a:graphic xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"><a:graphicData>'
        f'<pic:pic xmlns:pic="http://schemas.openxmlformats.org/drawingml/2006/picture"><pic:blipFill>'
        f'<a:blip xmlns:r="{relations}" r:link="rId1"/></pic:blipFill></pic:pic></a:graphicData></a:graphic>'
        f"</wp:inline></w:drawing>"
    )
    links = (
        '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
        f'<Relationship Id="rId1" Type="{relations}/image" Target="{address}.png" TargetMode="External"/>'
        "</Relationships>"
    )
    data = docx(f"text</w:t>{picture}<w:t>", extra={"word/_rels/document.xml.rels": links})
    assert "text" in good(tmp_path, "a.docx", data).text
    entity = f'<!DOCTYPE p [<!ENTITY x SYSTEM "{address}">]>'
    assert "text" not in reason(tmp_path, "b.docx", docx("x", extra={"word/document.xml": f"{entity}<p>&x;</p>"}))


def test_a_zip_bomb_is_not_opened(tmp_path):
    bomb = docx("x", extra={"word/media/a.bin": bytes(20 << 20)})
    assert "that unpack into 20 MB; leave it out" in reason(tmp_path, "ratio.docx", bomb)
    many = docx("x", extra={f"word/{i}": "" for i in range(10_000)})
    assert "a zip of 10,004 files, more than the 10,000" in reason(tmp_path, "many.docx", many)
    names = docx("x", extra={f"word/{'x' * 60_000}{i}": "" for i in range(80)})
    assert reason(tmp_path, "names.docx", names) == "a zip of more than 10,000 files; leave it out"


def test_a_zip_that_says_it_is_too_large_is_not_opened(tmp_path):
    data = docx("x", extra={"word/a.bin": b"x"})
    at = data.rindex(b"word/a.bin") - 46
    assert data[at : at + 4] == b"PK\x01\x02"
    large = data[: at + 24] + struct.pack("<I", 600 << 20) + data[at + 28 :]
    assert "unpack into 600 MB" in reason(tmp_path, "a.docx", large)


def test_a_bomb_in_a_pdf_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "UNPACKED", 8 << 20)
    packed = zlib.compress(bytes(9 << 20))
    assert reason(tmp_path, "a.pdf", pdf(None, content=packed)) == (
        "a part of it unpacks into more than 8 MB; leave the file out"
    )
    packed = zlib.compress(b"BT /F1 18 Tf 72 700 Td (Hi) Tj ET")
    assert good(tmp_path, "b.pdf", pdf(None, content=packed)).text == "Hi"


def test_entities_that_multiply_are_quarantined(tmp_path):
    levels = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10 if i else "x" * 1000}">' for i in range(10))
    xml = f"<!DOCTYPE d [{levels}]><d>&e9;</d>"
    broken = docx("x", extra={"word/document.xml": xml})
    assert reason(tmp_path, "a.docx", broken) == "a broken .docx file; copy it again, or save it again"


def test_the_title_of_a_word_document_is_its_first_heading(tmp_path):
    document = good(tmp_path, "a.docx", docx("% Our shop", "What it sells.", "# Opening hours", "All day."))
    assert document.title == "Our shop"
    assert document.text == "# Our shop\n\nWhat it sells.\n\n# Opening hours\n\nAll day."


def test_a_page_is_read_in_the_encoding_that_it_names(tmp_path):
    page = '<html><head><meta http-equiv="x" content="text/html; charset={}"></head><body><p>{}</p></body></html>'
    japanese = "データベースの索引とクエリについて説明します。"
    assert good(tmp_path, "a.html", page.format("Shift_JIS", japanese).encode("cp932")).text == japanese
    assert good(tmp_path, "b.html", page.format("Shift_JIS", japanese).encode()).text == japanese
    assert "says that it is utf-8, and is not" in reason(
        tmp_path, "c.html", page.format("utf-8", "né").encode("cp1252")
    )
    assert "it looks like Shift-JIS" in reason(tmp_path, "d.txt", japanese.encode("cp932"))


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.docx", b"plain text", "not a .docx file, whatever its name says"+RENAME),
        ("a.pptx", docx("x"), "not a .pptx file but .docx"+RENAME),
        ("a.epub", zipped({"a.txt": "x"}), "not a .epub file but another zip"+RENAME),
        ("a.pdf", b"<html></html>", "not a .pdf file, whatever its name says"+RENAME),
        ("a.md", pdf("x"), "not plain text but a PDF"+RENAME),
        ("a.html", docx("x"), "not HTML but a zip archive, as .docx and .xlsx are"+RENAME),
        ("a.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99),
         "protected by a password, or of an old Office; save it as .docx without a password"),
        ("a.docx", docx("x")[:-30], "a broken .docx file; copy it again, or save it again"),
        ("a.txt", b"\x89PNG\r\n\x1a\n" + bytes(99), "not plain text but an image"+RENAME),
        ("a.txt", b"\x01\0\0\x02\0\0" * 99, "not text: it is full of zero bytes; leave it out"),
    ],
)  # fmt: skip
def test_a_wrong_suffix_is_quarantined(tmp_path, name, data, expected):
    assert reason(tmp_path, name, data) == expected


def test_an_encrypted_pdf_is_quarantined(tmp_path):
    lock = f"/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <{'41' * 32}> /U <{'42' * 32}> >> /ID [<11><11>]"
    assert reason(tmp_path, "a.pdf", pdf("secret", lock)) == "protected by a password; save it without one"


def test_a_pdf_without_text_asks_for_ocr(tmp_path):
    assert reason(tmp_path, "a.pdf", pdf(None)) == (
        "no text in it: either a scan, which needs OCR first, or damaged; look at it, and copy it again"
    )


def test_zero_bytes_in_the_middle_of_a_text_are_refused_and_those_at_its_end_dropped(tmp_path):
    assert reason(tmp_path, "a.txt", b"one\ntwo\0\0three, and more text of it") == (
        "line 2 holds a zero byte; take it out, or save the file again as plain text"
    )
    assert good(tmp_path, "b.txt", b"one, and more text of it\0\0").text == "one, and more text of it"


def test_quarantine_keeps_the_beginning_of_a_text_and_nothing_of_what_is_none(tmp_path):
    def kept(name: str, data: bytes) -> str:
        found = read(tmp_path, name, data)
        assert isinstance(found, Quarantined)
        return found.text

    assert kept("a.txt", b"one\ntwo\0three, and more text of it") == "one\ntwo\0three, and more text of it"
    assert kept("b.md", "题\0目".encode("utf-16")) == "题\0目"
    assert kept("c.md", b"---\ntitle: x\n---\n") == "---\ntitle: x\n---\n"
    assert kept("d.md", b"a\0" + b"x" * 9000) == "a\0" + "x" * 1998
    assert [kept(f"e{suffix}", LFS) for suffix in sorted(DOCUMENTS)] == [LFS.decode()] * len(DOCUMENTS)
    assert [kept("f.docx", docx("x")[:-30]), kept("g.pdf", pdf(None)), kept("h.md", bytes(9))] == [""] * 3


@pytest.mark.parametrize("suffix", sorted(DOCUMENTS))
def test_empty_files_and_pointers_are_quarantined_whatever_their_kind(tmp_path, suffix):
    assert reason(tmp_path, f"a{suffix}", b"") == "the file is empty; fill it or leave it out"
    assert reason(tmp_path, f"b{suffix}", b" \r\n\0") == "the file is empty; fill it or leave it out"
    assert "fetch it with `git lfs pull`" in reason(tmp_path, f"c{suffix}", LFS)


@pytest.mark.parametrize(
    ("name", "data"), [("a.md", "---\ntitle: x\n---\n"), ("a.html", "<p> </p>"), ("a.docx", docx())]
)
def test_a_file_without_text_is_quarantined(tmp_path, name, data):
    assert reason(tmp_path, name, data) == "no text in it; fill it or leave it out"


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with (tmp_path / "a.md").open("wb") as file:
        file.truncate(LARGEST + 1)
    found = read_document(tmp_path / "a.md", "a.md")
    assert found == Quarantined(Origin("a.md"), "256 MB, more than the 256 that are read; divide the file")


def test_html_nested_too_deeply_is_still_read_or_quarantined(tmp_path):
    assert isinstance(read(tmp_path, "a.html", "<div>" * 5000 + "text"), Document | Quarantined)


def test_the_libraries_say_nothing(tmp_path, caplog, capfd):
    with caplog.at_level(logging.WARNING):
        read(tmp_path, "a.pdf", pdf("x").replace(b"xref", b"xxxx").replace(b"/Helvetica", b"/Nothing"))
        read(tmp_path, "b.pdf", pdf("x")[:300])
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="there is no file"):
        read_document(tmp_path / "a.md", "a.md")
    with pytest.raises(SourceError, match="is a folder"):
        read_document(tmp_path, "docs")


GOOD = {
    "a.md": b"---\ntitle: x\n---\n# A\n```\n# b\n```\n", "a.txt": "文本，数据。".encode("gb18030"),
    "a.html": b"<title>a</title><table><tr><td>b</table>", "a.pdf": pdf("Hello"),
    "a.docx": docx("# A", "b"), "a.epub": epub("T", "<p>a</p>"),
}  # fmt: skip
slow = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("name", GOOD)
@slow
@given(data=st.data())
def test_damaged_files_never_raise(tmp_path, name, data):
    damaged = bytearray(GOOD[name])
    for at in data.draw(st.lists(st.integers(0, len(damaged) - 1), max_size=8)):
        damaged[at] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(damaged)) | st.just(len(damaged)))
    assert isinstance(read(tmp_path, name, bytes(damaged[:end])), Document | Quarantined)


@slow
@given(data=st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_no_bytes_raise(tmp_path, data):
    found = read(tmp_path, "a.md", data)
    if isinstance(found, Document):
        assert found.text.strip()
        assert found.title.strip()
        assert "\r" not in found.text
        assert "\0" not in found.text
