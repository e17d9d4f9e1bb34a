"""Files of prose, whatever their format, each read into a `Document` in Markdown or put into quarantine."""

from __future__ import annotations

import io
import logging
import re
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

from tunesmith.errors import SourceError
from tunesmith.sources.document import Document, Unread
from tunesmith.sources.example import Origin
from tunesmith.sources.markdown import first_heading, front_matter, one_line, tidy
from tunesmith.sources.quarantine import SHOWN, Quarantined
from tunesmith.sources.text import SAMPLE, Unreadable, decode, encoding_of, source_errors, without_path

PLAIN = frozenset({".md", ".markdown", ".txt", ".text", ".rst", ".adoc", ".org", ".tex"})
CONVERTED = frozenset({".pdf", ".docx", ".pptx", ".html", ".htm", ".epub"})
DOCUMENTS = PLAIN | CONVERTED
"""The suffixes that are read when a folder is; a file named by itself may have any other, and is plain text then."""

EMPTY = "the file is empty; fill it or leave it out"
MB = 1 << 20
LARGEST = 256 * MB
LARGEST_HTML = 32 * MB
"""Its tree takes some fifty times as much memory."""
UNPACKED = 512 * MB
RATIO, RATIO_FROM = 200, 10 * MB
ENTRIES, DIRECTORY = 10_000, 4 * MB

_OFFICE = {".docx": "word/", ".pptx": "ppt/", ".xlsx": "xl/", ".epub": "META-INF/container.xml"}
_BINARY = (
    (b"%PDF-", "a PDF"), (b"PK\x03\x04", "a zip archive, as .docx and .xlsx are"), (b"\x1f\x8b", "packed with gzip"),
    (b"\xd0\xcf\x11\xe0", "a file of an old Office"), (b"SQLite format 3\0", "an SQLite database"),
    (b"PAR1", "a Parquet file"), (b"\x89PNG", "an image"), (b"\xff\xd8\xff", "an image"), (b"GIF8", "an image"),
)  # fmt: skip


LONGEST = 4_000_000
"""Characters of one document: a thousand pages and more."""


def read_document(path: Path, name: str, title: str | None = None) -> Document | Quarantined:
    """The file as Markdown; its title is the one given, else the one it has, else the stem of its name.

    Nothing is fetched from the network. Raises `SourceError` when the file cannot be opened.
    """
    suffix = path.suffix.lower()
    try:
        data = read_bytes(path)
        if suffix in CONVERTED:
            text, own = _converted(path, data)
        else:
            refuse_binary(data, "plain text")
            text, own = _without_nuls(decode(data)), None
        matter, text = front_matter(tidy(text))
        if len(text) > LONGEST:
            raise Unreadable(
                f"{len(text):,} characters in one document; divide it into files of fewer than {LONGEST:,}"
            )
        if not text:
            raise Unreadable(
                "no text in it: either a scan, which needs OCR first, or damaged; look at it, and copy it again"
                if suffix == ".pdf"
                else "no text in it; fill it or leave it out"
            )
    except Unreadable as reason:
        return Quarantined(Origin(name), str(reason), beginning(path))
    heading = None if suffix == ".pdf" else first_heading(text)
    return Document(text, title or matter or one_line(own) or heading or Path(name).stem, Origin(name))


def _without_nuls(text: str) -> str:
    """Padding at the end is dropped; in the middle something is lost, and a document has no notes to say so."""
    text = text.rstrip("\0")
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise Unreadable(f"line {line} holds a zero byte; take it out, or save the file again as plain text")
    return text


def read_later(file: Unread) -> Document | Quarantined:
    """The file as `read_document` gives it; one that cannot be opened is quarantined."""
    try:
        return read_document(file.path, file.name, file.title or None)
    except SourceError as error:
        if file.listed:  # the place is the index's line, which may hold several links
            return Quarantined(file.listed.origin, str(error), file.listed.text)
        return Quarantined(Origin(file.name), without_path(error, file.path))


def check_zip(path: Path, suffix: str) -> None:
    """Looks only at the directory of a zip. Raises `Unreadable` when it is none, would unpack into too
    much, or does not hold what its suffix says; `SourceError` when the file cannot be opened."""
    with source_errors(path), _Directory(path) as file:
        head, packed = file.read(64), path.stat().st_size
        if not packed:
            raise Unreadable(EMPTY)
        _refuse_other_than_zip(head, suffix)
        try:
            with zipfile.ZipFile(file) as archive:  # type: ignore[arg-type]
                entries = archive.infolist()
        except _TooLong:
            raise Unreadable(f"a zip of more than {ENTRIES:,} files; leave it out") from None
        except Exception:
            raise Unreadable(f"a broken {suffix} file; copy it again, or save it again") from None
    if len(entries) > ENTRIES:
        raise Unreadable(f"a zip of {len(entries):,} files, more than the {ENTRIES:,} that are read; leave it out")
    size = sum(entry.file_size for entry in entries)
    if size > UNPACKED or (size > RATIO_FROM and size > RATIO * packed):
        raise Unreadable(f"{packed:,} bytes that unpack into {size // MB:,} MB; leave it out, or save it again")
    if any(entry.flag_bits & 1 for entry in entries):
        raise Unreadable("protected by a password; save it without one")
    names = [entry.filename for entry in entries]
    if not any(name.startswith(_OFFICE[suffix]) for name in names):
        other = next((s for s, part in _OFFICE.items() if any(name.startswith(part) for name in names)), "another zip")
        raise Unreadable(f"not a {suffix} file but {other}; give it the right suffix or leave it out")


def refuse_pointer(head: bytes) -> None:
    """Raises `Unreadable` for a Git LFS pointer, whatever the file should hold."""
    if head.startswith(b"version https://git-lfs"):
        encoding_of(head)  # which knows what to say about it


def beginning(path: Path) -> str:
    """What quarantine keeps of a file that is not read: how its text begins; nothing of one that is none."""
    with source_errors(path), path.open("rb") as file:
        head = file.read(SAMPLE)
    if head.startswith(tuple(magic for magic, _ in _BINARY)):
        return ""
    try:
        encoding = encoding_of(head)[0]
    except Unreadable:  # a pointer, or what has no encoding that can be told
        encoding = "utf-8"
    return head.decode(encoding, "replace")[:SHOWN].strip("\0")


def refuse_binary(head: bytes, what: str) -> None:
    """Raises `Unreadable` for a file that begins as a well-known binary format does."""
    for magic, kind in _BINARY:
        if head.startswith(magic):
            raise Unreadable(f"not {what} but {kind}; give it the right suffix or leave it out")


def read_bytes(path: Path) -> bytes:
    """A whole file. Raises `Unreadable` when it is empty, too large or a pointer to what it should be;
    `SourceError` when it cannot be opened."""
    with source_errors(path), path.open("rb") as file:
        size = path.stat().st_size
        if size > LARGEST:
            raise Unreadable(f"{size // MB:,} MB, more than the {LARGEST // MB} that are read; divide the file")
        data = file.read(LARGEST)
    if not data.strip(b"\0 \t\r\n"):
        raise Unreadable(EMPTY)
    refuse_pointer(data[:64])
    return data


def _converted(path: Path, data: bytes) -> tuple[str, str | None]:
    """(Markdown, the file's own title), by markitdown's converter for that suffix and no other: it guesses
    nothing from the content, and loads neither plug-ins nor anything a document links to."""
    suffix = path.suffix.lower()
    if suffix in (".html", ".htm"):
        refuse_binary(data, "HTML")
        if len(data) > LARGEST_HTML:
            raise Unreadable(f"more than {LARGEST_HTML // MB} MB of HTML; divide the file")
        data = _html(data).replace("\0", "").encode("utf-8", "replace")
    elif suffix == ".pdf":
        _check_pdf(data)
    else:
        check_zip(path, suffix)
    try:
        text, title = _convert(data, suffix)
    except RecursionError:
        raise Unreadable(f"nested too deeply to be read; save it as {suffix} again in another program") from None
    except Exception as error:
        if "Password" in type(error).__name__ or "encrypt" in f"{type(error).__name__} {error}".lower():
            raise Unreadable("protected by a password; save it without one") from None
        raise Unreadable(f"a broken {suffix} file; copy it again, or save it again") from None
    text = re.sub(r"<!-- Slide number: \d+ -->|!\[[^\[\]]*\]\(data:[^()]*\)", "", text)
    return re.sub(r"\n{3,}", "\n\n", text), title


def _html(data: bytes) -> str:
    """A page may say itself which encoding it is in; where it is UTF-8 all the same, that is an old lie."""
    said = re.search(rb"<meta[^<>]*charset\s*=\s*[\"']?([\w-]+)", data[:2048], re.IGNORECASE)
    try:
        return decode(data)
    except Unreadable:
        if not said:
            raise
        try:
            return data.decode(said[1].decode())
        except (LookupError, UnicodeDecodeError):
            raise Unreadable(f"it says that it is {said[1].decode()}, and is not; save it as UTF-8") from None


def _convert(data: bytes, suffix: str) -> tuple[str, str | None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from markitdown import StreamInfo
        from markitdown.converters import DocxConverter, EpubConverter, HtmlConverter, PdfConverter, PptxConverter

        kinds: dict[str, Any] = {
            ".pdf": PdfConverter, ".docx": DocxConverter, ".pptx": PptxConverter, ".epub": EpubConverter,
        }  # fmt: skip
        for logger in ("pdfminer", "pdfplumber"):  # they tell of every oddity of a PDF
            logging.getLogger(logger).setLevel(logging.CRITICAL)
        converter = kinds.get(suffix, HtmlConverter)()
        title = {"style_map": "p[style-name='Title'] => h1:fresh"} if suffix == ".docx" else {}  # else a mere paragraph
        result = converter.convert(io.BytesIO(data), StreamInfo(extension=suffix, charset="utf-8"), **title)
    return result.markdown, result.title


def _check_pdf(data: bytes) -> None:
    """A PDF's streams are unpacked whole by what reads them, so none may be a bomb."""
    if b"%PDF-" not in data[:1024]:
        raise Unreadable("not a .pdf file, whatever its name says; give it the right suffix or leave it out")
    for begin in re.finditer(rb"stream\r?\n(?=[\x08-\x78])", data):
        unpacker, at, size = zlib.decompressobj(), begin.end(), 0
        try:
            while not unpacker.eof and at < len(data) and size <= UNPACKED:
                size += len(unpacker.decompress(unpacker.unconsumed_tail or data[at : at + MB], MB))
                at += 0 if unpacker.unconsumed_tail else MB
        except zlib.error:
            continue  # another filter, or encrypted
        if size > UNPACKED:
            raise Unreadable(f"a part of it unpacks into more than {UNPACKED // MB} MB; leave the file out")


def _refuse_other_than_zip(head: bytes, suffix: str) -> None:
    if head.startswith(b"\xd0\xcf\x11\xe0"):
        raise Unreadable(f"protected by a password, or of an old Office; save it as {suffix} without a password")
    if not head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        raise Unreadable(f"not a {suffix} file, whatever its name says; give it the right suffix or leave it out")


class _TooLong(Exception):
    """A zip's directory that is too long to be read."""


class _Directory(io.FileIO):
    """A zip file whose directory, which zipfile reads at once, cannot fill the memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > DIRECTORY:
            raise _TooLong
        return super().read(-1 if size is None else size)
