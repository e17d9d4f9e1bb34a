"""Bytes to text: which encoding a file is in, found without asking."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunesmith import files
from tunesmith.errors import SourceError
from tunesmith.sources import language

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
SAMPLE = 1 << 16
"""Bytes that decide the encoding of a longer file."""


DAMAGED = "tunesmith-damaged"
"""Decoding with these errors makes half a character of bytes that are none, which encoding turns into 0xff: so that
only their row is lost. (surrogateescape cannot do UTF-16.)"""


def _damaged(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeDecodeError):
        return "\udcff", error.end
    if isinstance(error, UnicodeEncodeError):
        return b"\xff", error.end
    raise error


codecs.register_error(DAMAGED, _damaged)


NOT_ITS_ENCODING = "damaged: it holds bytes that are no text in the file's encoding; save all of it as UTF-8"
HALF = "damaged: a text holds half a character (such as \\ud83d without its second half); take it out"


class Unreadable(Exception):
    """Why a file, or one row of it, cannot be read: the reason that quarantine shows."""


def encoding_of(sample: bytes) -> tuple[str, str]:
    """The encoding of text that begins with ``sample`` (`SAMPLE` bytes are enough): by its mark, by the zeros
    that UTF-16 leaves, as UTF-8, as GB 18030 (which holds GBK) when that makes Chinese of it, else a guess;
    and the guess's name for people, empty when there is no doubt.

    Raises `Unreadable` when the bytes are a pointer to data kept elsewhere, no text, or nothing to guess from.
    """
    if sample.startswith(b"version https://git-lfs.github.com/spec"):
        raise Unreadable("a Git LFS pointer, not the data itself; fetch it with `git lfs pull`")
    for mark, encoding in MARKS:
        if sample.startswith(mark):
            return encoding, ""
    even, odd, half = sample[0::2].count(0), sample[1::2].count(0), len(sample) // 2
    if half and max(even, odd) > half // 4:
        if odd > 4 * even:  # the other half holds zeros too: U+4E00, the Chinese one
            return "utf-16-le", ""
        if even > 4 * odd:
            return "utf-16-be", ""
        raise Unreadable("not text: it is full of zero bytes; leave it out")
    if _decodes(sample, "utf-8") or _is_damaged_utf8(sample):
        return "utf-8", ""
    sample = b"\n".join(line for line in sample.split(b"\n") if not UTF8_RUN.search(line)) or sample
    for encoding in ("utf-16-le", "utf-16-be"):  # Chinese with hardly a space
        if language.looks_chinese(sample.decode(encoding, "ignore")):
            return encoding, ""
    chinese = _decodes(sample, "gb18030") and language.looks_chinese(sample.decode("gb18030", "ignore"))
    if chinese and set(_plausible(sample)) <= {"gb18030"}:
        return "gb18030", ""
    encoding = _guessed(sample)
    return encoding, _GUESSES[encoding]


def guess_note(guess: str) -> str:
    """What every row of a file says whose encoding was only guessed."""
    return f"read as {guess}, which was guessed; save the file as UTF-8"


def _decodes(sample: bytes, encoding: str) -> bool:
    try:
        # Not final: a sample may end in the middle of a character.
        codecs.getincrementaldecoder(encoding)().decode(sample, final=False)
    except UnicodeDecodeError:
        return False
    return True


def _is_damaged_utf8(sample: bytes) -> bool:
    """More whole characters than broken places, or runs of whole ones in half of it: where it is broken is told
    when it is decoded. A line of UTF-8 in a file of another encoding does not make it one."""
    text = sample.decode("utf-8", "replace")
    broken, whole = text.count("\ufffd"), sum(c > "\x7f" for c in text if c != "\ufffd")
    high = len(sample) - len(sample.translate(None, _HIGH))
    return whole > broken or 2 * sum(map(len, _UTF8_RUNS.findall(sample))) > high


UTF8_RUN = re.compile(rb"(?:[\xe3-\xed][\x80-\xbf]{2}){4}")
"""Four Chinese, Japanese or Korean characters in UTF-8: in no other encoding do such bytes follow by accident."""
_UTF8_RUNS = re.compile(rb"(?:[\xe3-\xed][\x80-\xbf]{2}){4,}")
_HIGH = bytes(range(0x80, 0x100))


_GUESSES = {
    "cp1252": "Windows-1252 (Western Europe)", "cp1250": "Windows-1250 (Central Europe)",
    "cp1251": "Windows-1251 (Cyrillic)", "koi8_r": "KOI8-R (Cyrillic)", "cp1253": "Windows-1253 (Greek)",
    "cp1254": "Windows-1254 (Turkish)", "cp1255": "Windows-1255 (Hebrew)", "cp1256": "Windows-1256 (Arabic)",
    "cp932": "Shift-JIS (Japanese)", "euc_jp": "EUC-JP (Japanese)", "cp949": "EUC-KR (Korean)",
    "big5hkscs": "Big5 (Chinese)", "gb18030": "GBK (Chinese)",
}  # fmt: skip
"""The encodings that people's old files are in; among all that exist, a guess would be a lottery."""
_LEAST = 16
"""Bytes without which there is nothing to guess from."""


_LANGUAGES = {
    "cp932": language.looks_japanese, "euc_jp": language.looks_japanese, "cp949": language.looks_korean,
    "big5hkscs": language.looks_traditional, "gb18030": language.may_be_chinese,
}  # fmt: skip
"""What tells whether a text decoded so is any: nearly all bytes decode in each of them."""
_SCRIPTS = _LANGUAGES | {
    "cp1252": language.looks_western, "cp1250": language.looks_latin, "cp1254": language.looks_latin,
    "cp1251": language.looks_cyrillic, "koi8_r": language.looks_cyrillic, "cp1253": language.looks_greek,
    "cp1255": language.looks_hebrew, "cp1256": language.looks_arabic,
}  # fmt: skip
"""What a guess must look like."""


def _plausible(sample: bytes) -> list[str]:
    """Of `_LANGUAGES`, those in which the bytes are text of the language."""
    return [
        encoding
        for encoding, looks in _LANGUAGES.items()
        if _decodes(sample, encoding) and looks(sample.decode(encoding, "ignore"))
    ]


def _guessed(sample: bytes) -> str:
    """The likeliest encoding. Raises `Unreadable` where none is, or several are."""
    if len(sample) < _LEAST:
        raise Unreadable("not UTF-8, and too short to tell what else it is; save it as UTF-8")
    if len(sample) >= SAMPLE:
        sample = sample[: sample.rfind(b"\n") + 1] or sample  # not to end in the middle of a character
    names = _plausible(sample) or _by_chance(sample)
    if not names:
        raise Unreadable("not text in any encoding that is known; save it as UTF-8")
    if len(names) > 1:
        alike = " from ".join(_GUESSES[name] for name in names[:2])
        raise Unreadable(f"not UTF-8, and too little to tell {alike}; save it as UTF-8")
    return names[0]


def _by_chance(sample: bytes) -> list[str]:
    """The encodings that make the least chaos of the bytes. Raises `Unreadable` when what
    comes out does not look like it: rubbish would be taught."""
    from charset_normalizer import from_bytes

    found = [(match.chaos, -match.coherence, match) for match in from_bytes(sample, cp_isolation=list(_GUESSES))]
    best = min((one[:2] for one in found), default=None)
    names = [name for *rank, match in found if tuple(rank) == best for name in match.could_be_from_charset]
    if names and names[0] in ("cp1250", "cp1252") and "cp1252" in names:
        names = ["cp1252"]  # where these two are alike, most people's is Western
    if len(names) == 1 and not _SCRIPTS[names[0]](sample.decode(names[0], "ignore")):
        raise Unreadable(
            f"not UTF-8; at best {_GUESSES[names[0]]}, of which it makes no text to be trusted; save it as UTF-8"
        )
    return names


def decode(data: bytes) -> str:
    """A whole file's text, when there is no doubt about its encoding. Raises `Unreadable` with the reason."""
    encoding, guess = encoding_of(data[:SAMPLE])
    if guess:
        raise Unreadable(f"not UTF-8; it looks like {guess}, but that is a guess; save it as UTF-8")
    if encoding == "gb18030" and (run := UTF8_RUN.search(data)):  # which would often be other Chinese in it
        line = data[: run.start()].count(b"\n") + 1
        raise Unreadable(
            f"line {line} is in UTF-8, which is not {encoding.upper()} as the rest; save all of it as UTF-8"
        )
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise Unreadable(
            f"line {line} has the byte 0x{data[error.start]:02x}, which is not {encoding.upper()}; save it as UTF-8"
        ) from None


_JSON = {
    "Exceeds the limit": "a number has thousands of digits; write it as text, in quotation marks",
    "Expecting value": "a value is missing or not written as JSON has it", "Extra data": "more stands behind its end",
    "Expecting ',' delimiter": "a comma is missing, or a quotation mark in a text has no \\ before it",
    "Expecting ':' delimiter": "a colon is missing behind a key",
    "Expecting property name": "a key is missing, or stands not in double quotation marks",
    "Illegal trailing comma": "a comma stands before the end", "Unterminated string": "a text is not closed",
    "Invalid control character": "a text holds a bare line break or tab", "Invalid \\": "a \\ in a text is not doubled",
}  # fmt: skip
"""What Python says of broken JSON, in words for people."""


def json_problem(error: Exception) -> str:
    """Without the place, so that rows broken in one way are counted as one."""
    if isinstance(error, json.JSONDecodeError) and error.doc[error.pos : error.pos + 1] == "\0":
        return "it holds a zero byte; take it out"
    said = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).partition(": line ")[0]
    return next((words for begins, words in _JSON.items() if said.startswith(begins)), said)


@contextmanager
def source_errors(path: Path) -> Iterator[None]:
    """A file that is missing, a folder or not readable becomes a `SourceError` that names it."""
    try:
        yield
    except FileNotFoundError:
        raise SourceError(f"there is no file or folder {path}; check the recipe's paths and data.folder") from None
    except IsADirectoryError:
        raise SourceError(f"{path} is a folder; name the file in it") from None
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from None


def without_path(error: SourceError, path: Path) -> str:
    """What is wrong with a file, to be said behind its name."""
    said = str(error)
    return f"the file{said.removeprefix(str(path))}" if said.startswith(str(path)) else said


def hash_of(path: Path) -> str:
    """Hash of a file that a recipe names. Raises `SourceError` when it cannot be read."""
    with source_errors(path):
        return files.file_hash(path)
