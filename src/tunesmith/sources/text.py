"""Bytes to text: which encoding a file is in, found without asking."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunesmith.errors import SourceError

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
SAMPLE = 1 << 16
"""Bytes that decide the encoding of a longer file."""


class Unreadable(Exception):
    """Why a file, or one row of it, cannot be read: the reason that quarantine shows."""


def encoding_of(sample: bytes) -> str:
    """The encoding of text that begins with ``sample`` (`SAMPLE` bytes are enough): by its mark, by the
    zeros that UTF-16 leaves, as UTF-8, as GB 18030 (which holds GBK), else as charset-normalizer guesses.

    Raises `Unreadable` when the bytes are a pointer to data kept elsewhere, or no text.
    """
    if sample.startswith(b"version https://git-lfs.github.com/spec"):
        raise Unreadable("a Git LFS pointer, not the data itself; fetch it with `git lfs pull`")
    for mark, encoding in MARKS:
        if sample.startswith(mark):
            return encoding
    even, odd, half = sample[0::2].count(0), sample[1::2].count(0), len(sample) // 2
    if half and max(even, odd) > half // 4:
        if odd > 4 * even:  # the other half holds zeros too: U+4E00, the Chinese one
            return "utf-16-le"
        if even > 4 * odd:
            return "utf-16-be"
        raise Unreadable("not text: it is full of zero bytes")
    if _decodes(sample, "utf-8") or _is_damaged_utf8(sample):
        return "utf-8"
    if _decodes(sample, "gb18030") and _looks_chinese(sample.decode("gb18030", "ignore")):
        return "gb18030"
    from charset_normalizer import from_bytes

    best = from_bytes(sample).best()
    if best is None:
        raise Unreadable("not text in any encoding that is known; save it as UTF-8")
    return best.encoding


def _decodes(sample: bytes, encoding: str) -> bool:
    try:
        # Not final: a sample may end in the middle of a character.
        codecs.getincrementaldecoder(encoding)().decode(sample, final=False)
    except UnicodeDecodeError:
        return False
    return True


def _is_damaged_utf8(sample: bytes) -> bool:
    """A few broken bytes among many whole characters: the place is told when it is decoded."""
    text = sample.decode("utf-8", "replace")
    broken, whole = text.count("\ufffd"), sum(c > "\x7f" for c in text if c != "\ufffd")
    return broken <= whole // 10


def _looks_chinese(text: str) -> bool:
    """Latin-1 also decodes as GB 18030, into rare characters; Chinese text is made of common ones."""
    far = [c for c in text if c > "\x7f"]
    common = sum("\u4e00" <= c <= "\u9fa5" or c in "，。、：；？！“”‘’（）《》—…·　" for c in far)
    return bool(far) and common >= 0.9 * len(far)


def decode(data: bytes) -> str:
    """A whole file's text. Raises `Unreadable` with the reason."""
    encoding = encoding_of(data[:SAMPLE])
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise Unreadable(
            f"line {line} has the byte 0x{data[error.start]:02x}, which is not {encoding.upper()}; save it as UTF-8"
        ) from None


@contextmanager
def source_errors(path: Path) -> Iterator[None]:
    """A file that is missing, a folder or not readable becomes a `SourceError` that names it."""
    try:
        yield
    except FileNotFoundError:
        raise SourceError(f"there is no file {path}; check the recipe's paths and data.folder") from None
    except IsADirectoryError:
        raise SourceError(f"{path} is a folder; name the file in it") from None
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from None
