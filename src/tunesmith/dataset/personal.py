"""E-mail addresses, telephone numbers and secrets in texts. Precision first: what is named here is hardly ever wrong.

Every pattern has bounded repeats, and a start that no other start lies within, so time grows with the text's length.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import AnyStr, Literal

import numpy as np

Kind = Literal["email", "phone", "secret"]
_MARGIN = b"\n" * 16
"""Stands behind texts that are searched, so that what is searched for always has its length."""
_SLICE = 1 << 17
"""Bytes that are searched at once: the processor keeps what is made of them at hand."""
_NO_DIGITS = bytes(set(range(256)) - set(b"0123456789"))


@dataclass(frozen=True)
class Found:
    """What stands at text[start:end]."""

    kind: Kind
    start: int
    end: int


def find(text: str) -> list[Found]:
    """Everything personal in the text, by place; nothing overlaps (a secret goes before an e-mail, that before a
    telephone number)."""
    taken: list[Found] = []
    # Deleting all else is the fastest way to count digits, and most texts have too few.
    digits = len(text.encode("utf-8", "surrogatepass").translate(None, _NO_DIGITS))
    kinds: tuple[tuple[Kind, Iterator[tuple[int, int]]], ...] = (
        ("secret", _secrets(text, digits)), ("email", _emails(text)), ("phone", _phones(text, digits)),
    )  # fmt: skip
    for kind, spans in kinds:
        taken = _with(taken, [Found(kind, start, end) for start, end in spans])
    return taken


def find_in(rows: Sequence[Sequence[str]], encoded: Sequence[bytes]) -> Iterator[tuple[int, list[Found]]]:
    """(index, what was found there) of each row that holds something personal; of its texts, with a line end between.

    encoded: all texts of all rows, in UTF-8 or in JSON. Most rows hold nothing. That is seen for all of them at once,
    by what every find must have: ten times as fast.
    """
    texts = list(chain.from_iterable(rows))
    data, whole = b"\n".join([*encoded, _MARGIN]), "\n".join(texts)
    places = [*_places(data, b"@")]
    for start in range(0, len(data) - len(_MARGIN) + 1, _SLICE):
        part = data[start : start + _SLICE + len(_MARGIN)]
        places += [start + place for place in (*_signed(part), *_numbered(part))]
    assigned = [match.start() for form in _ASSIGNED for match in form.finditer(whole) if _is_secret(match)]
    perhaps = np.concatenate([_holding(places, encoded), _holding(assigned, texts)])
    for i in np.unique(np.searchsorted(np.cumsum(list(map(len, rows))), perhaps, "right")).tolist():
        if found := find("\n".join(rows[int(i)])):
            yield i, found


def _holding(places: Sequence[int], texts: Sequence[str | bytes]) -> np.ndarray:
    """Which of the texts each place lies in, when they stand behind each other with one line end between."""
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + 1)
    return np.searchsorted(ends, places, "right")


def _signed(data: bytes) -> Iterator[int]:
    """Where a token or a private key may stand in UTF-8."""
    for shift in range(4):  # every four bytes, as one number: comparing those is faster than any search
        words = np.frombuffer(data, "<u4", (len(data) - shift) // 4, shift)
        three = words & 0xFFFFFF
        found = np.zeros(len(words), bool)
        for sign in _SIGNS.values():
            found |= (words if len(sign) == 4 else three) == int.from_bytes(sign, "little")
        yield from (4 * np.flatnonzero(found) + shift).tolist()


def _numbered(data: bytes) -> Iterator[int]:
    """Where a telephone number may stand: three digits, up to two of what may stand between, and three more; or a
    digit behind a plus."""
    codes = np.frombuffer(data, np.uint8)
    digit, between = codes - np.uint8(ord("0")) < 10, codes - np.uint8(ord(" ")) < 26
    three = digit[:-2] & digit[1:-1] & digit[2:]
    begins = len(three) - 5
    near = three[5:] & between[4 : 4 + begins]
    near |= three[4 : 4 + begins]
    near &= between[3 : 3 + begins]
    near |= three[3 : 3 + begins]
    near &= three[:begins]
    yield from np.flatnonzero(near).tolist()
    yield from np.flatnonzero((codes[:-1] == ord("+")) & digit[1:]).tolist()


def redact(text: str, kinds: Collection[Kind]) -> tuple[str, Counter[Kind]]:
    """The text with a placeholder such as "[email]" for each find of these kinds, and how many there were of each."""
    found = [f for f in find(text) if f.kind in kinds]
    parts, end = [], 0
    for f in found:
        parts += [text[end : f.start], f"[{f.kind}]"]
        end = f.end
    return "".join([*parts, text[end:]]), Counter(f.kind for f in found)


def _with(taken: list[Found], more: list[Found]) -> list[Found]:
    """Both, by place, without those of ``more`` (by place too) that overlap something before them."""
    starts, end = [f.start for f in taken], 0
    kept: list[Found] = []
    for f in more:
        after = bisect_left(starts, f.end)  # the one before this begins last among those that could overlap
        if f.start >= end and (after == 0 or taken[after - 1].end <= f.start):
            kept.append(f)
            end = f.end
    return sorted(taken + kept, key=lambda f: f.start) if kept else taken


def _in_lines(pattern: re.Pattern[str], text: str, places: Iterable[int]) -> Iterator[re.Match[str]]:
    """What matches in the lines of these places, which are in order: a pattern that begins with a look behind is
    tried at every character, 50 times slower than a search for what a match must hold."""
    end = -1
    for place in places:
        if place > end:
            start, end = text.rfind("\n", 0, place) + 1, text.find("\n", place)
            end = len(text) if end < 0 else end
            yield from pattern.finditer(text, start, end)


# --- e-mail

_DOMAIN = re.compile(r"@((?:[A-Za-z0-9-]{1,63}\.){1,8}([A-Za-z]{2,24}))(?![A-Za-z0-9_-]|\.[A-Za-z0-9]|:[A-Za-z0-9/~.])")
_LOCAL = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._%+-"
# Other endings are names of hosts, files and attributes far more often: db1.local, logo@2x.png, x@self.weight.
_ENDINGS = re.compile(
    r"[a-z]{2}|com|org|net|edu|gov|mil|int|info|biz|name|pro|mobi|asia|tel|xyz|top|site|online|shop|store|tech|cloud|app"
    r"|dev|page|blog|email|live|vip|club|wiki|work|team|ltd|group|software|systems|agency|company|design|digital|media"
    r"|news|academy|university|school|health|bank|finance|museum|travel|jobs|world|life",
    re.IGNORECASE,
)


def _emails(text: str) -> Iterator[tuple[int, int]]:
    if "@" not in text:
        return
    for match in _DOMAIN.finditer(text):
        before = text[max(0, match.start() - 64) : match.start()]
        local = before[len(before.rstrip(_LOCAL)) :].lstrip(".-%+")
        if not local or local.endswith(".") or not _ENDINGS.fullmatch(match[2]):
            continue
        start = match.start() - len(local)
        lead = re.split(r"\s", text[max(0, start - 256) : start])[-1]
        if "://" not in lead:  # the user of a URL, or a message's number in an archive
            yield start, match.end()


# --- telephone

_CHINA = r"(?:(?:\+|00)?86[ -]?|\(\+?86\)[ -]?)?1[3-9][0-9](?:[0-9]{8}|-[0-9]{4}-[0-9]{4}|[ ][0-9]{4}[ ][0-9]{4})"
_AMERICA = r"(?:1[-. ])?(?:\([1-9][0-9]{2}\) ?[0-9]{3}[-. ]|[1-9][0-9]{2}-[0-9]{3}-|[1-9][0-9]{2}\.[0-9]{3}\.)[0-9]{4}"
_ABROAD = r"\+[1-9](?:(?:[ .-]|[ .-]?\(|\)[ .-]?)?[0-9]){7,14}"
_PHONE = re.compile(
    r'(?<![0-9A-Za-z_.+/=&?%#@$*^~)(-])(?<![0-9][ :,])(?<!":)'
    rf"(?:{_CHINA}|{_AMERICA}|{_ABROAD})"
    r"(?![0-9A-Za-z_]|[-./:=%+*,][0-9]|[ ][0-9])"
)
_DIGITS = re.compile(r"[+0-9](?:(?<=\+)[1-9]|[0-9][0-9][ .)-]{0,2}[0-9]{3})")  # in every telephone number


def _phones(text: str, digits: int) -> Iterator[tuple[int, int]]:
    if digits < 8:
        return
    for match in _in_lines(_PHONE, text, (m.start() for m in _DIGITS.finditer(text))):
        if (match[0][0] != "+" or _is_abroad(match[0])) and not _in_psql(text, match.start()):
            yield match.span()


def _is_abroad(number: str) -> bool:
    """Whether the digits behind a plus are grouped as people do it; +960397912423686 is a term of a sum."""
    groups = re.findall("[0-9]+", number)
    if len(groups) == 1:
        return 10 <= len(groups[0]) <= 13
    return len(groups[0]) <= 3 and (len(groups) > 2 or (len(groups[1]) > 6 and "." not in number))


def _in_psql(text: str, place: int) -> bool:
    """Whether it stands in a row that psql printed: cells between bars, and no bar in front as in Markdown."""
    before = text[max(0, place - 200) : place].rpartition("\n")[2]
    line = before + text[place : place + 200].partition("\n")[0]
    return " | " in line and not line.lstrip().startswith("|")


# --- secrets

_TOKEN = re.compile(
    r"(?<![A-Za-z0-9_-])(?:"
    r"AKIA[0-9A-Z]{16}(?![0-9A-Za-z])"  # AWS
    r"|gh[ops]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255}"
    r"|sk-(?:ant|proj|svcacct|admin|or)-[A-Za-z0-9_-]{20,255}|sk-[A-Za-z0-9]{20,255}(?![A-Za-z0-9_-])"  # OpenAI, …
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,255}"  # Slack
    r"|AIza[0-9A-Za-z_-]{35}"  # Google
    r"|eyJ[A-Za-z0-9_-]{10,4096}\.eyJ[A-Za-z0-9_-]{10,4096}\.[A-Za-z0-9_-]{10,4096}"  # JSON web token
    r")"
)
_SIGNS = {
    "AKIA": b"AKIA", "ghp_": b"ghp_", "gho_": b"gho_", "ghs_": b"ghs_", "github_pat_": b"ub_p", "sk-": b"sk-",
    "xox": b"xox", "AIza": b"AIza", "eyJ": b"eyJ", "PRIVATE KEY": b"E KE",
}  # fmt: skip
"""Each token has one of these, and each private key the last; with the rarest three or four bytes of it."""
_VALUE = r"[!#-&(-\[\]-~]{8,256}+"
_BARE = r"(?:[A-Za-z0-9!@#$%^*_+/-]|&(?![A-Za-z_]{1,32}=)){8,256}+={0,2}"
_GIVEN = (
    rf"""[>=]?[ \t]{{0,3}}(?:"(?P<double>{_VALUE})"|'(?P<single>{_VALUE})'"""
    rf"""|(?P<bare>{_BARE})(?=[\s,;&，；。]|\.?(?:\s|$)))"""
)
# Each begins with one letter, the sign, which Python looks for fastest; the name before it is looked at afterwards.
_ASSIGNED = tuple(
    re.compile(p) for p in (f"={_GIVEN}", f":{_GIVEN}", f"：{_GIVEN}", rf"'(?<=[ \t]')(?P<sql>{_VALUE})'")
)
_NAME = re.compile(
    r"(?:(passw(?:or)?d|passphrase|pwd|密码|口令)|secret|token|(?:api|access|secret|auth|private)[_-]?key)"
    r"[\"']?[ \t]{0,3}$",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(
    r"[<\[({$%].*|.*(?:\$\{|\{\{|\.\.\.|\*\*\*|xxx|changeme|change_me|placeholder|example|redacted|your|todo).*"
    r"|(?:my|the|some|new|old|user|db|root|test|default|strong|secure)?[-_]?"
    r"(?:password|passwd|pwd|passphrase|secret|token|key|api[-_]?key|secret[-_]?key|access[-_]?key|access[-_]?token)"
    r"[-_]?(?:here|[0-9]{0,4})",
    re.IGNORECASE,
)
_KEY_BLOCK = re.compile(r"-----BEGIN (?:[A-Z0-9]{1,16} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_KEY_LENGTH = 16_384
"""Characters in which a private key has to end."""


def _secrets(text: str, digits: int) -> Iterator[tuple[int, int]]:
    """Keys and tokens that are known by their form, and the values that are assigned to a password and its like."""
    spans: list[tuple[int, int]] = []
    if "PRIVATE KEY" in text:
        spans += _key_blocks(text)
    if digits:
        spans += [m.span() for m in _in_lines(_TOKEN, text, _signs(text)) if _is_random(m[0])]
    spans += [m.span(m.lastgroup or 0) for form in _ASSIGNED for m in form.finditer(text) if _is_secret(m)]
    yield from sorted(spans, key=lambda span: (span[0], -span[1]))


def _signs(text: str) -> list[int]:
    """Where a token may stand."""
    return sorted(place for sign in _SIGNS if sign in text for place in _places(text, sign))


def _places(text: AnyStr, sign: AnyStr) -> Iterator[int]:
    place = text.find(sign)
    while place >= 0:
        yield place
        place = text.find(sign, place + 1)


def _key_blocks(text: str) -> Iterator[tuple[int, int]]:
    for match in _KEY_BLOCK.finditer(text):
        end = text.find("-----END", match.end(), match.end() + _KEY_LENGTH)
        close = text.find("-----", end + 8, end + 64) + 5 if end >= 0 else 0
        if close > 4 and end - match.end() > 40:  # less is "…" in an explanation
            yield match.start(), close


def _is_secret(match: re.Match[str]) -> bool:
    """A password may be any word in quotes; of a token, or without quotes, a name or an expression looks the same."""
    form = match.lastgroup or ""
    value = match[form]
    name = _NAME.search(match.string[max(0, match.start() - 24) : match.start()])
    if not name or _PLACEHOLDER.fullmatch(value) or (form == "sql" and not name[1]):
        return False
    return bool(name[1] and form != "bare") or _is_random(value)


def _is_random(value: str) -> bool:
    """Letters and digits, of six kinds at least: not xxxxxxxx, not a word."""
    return any(c.isdigit() for c in value) and any(c.isalpha() for c in value) and len(set(value)) >= 6
