"""Numbers: the last one of an answer against the last one of the reference, exactly, however they are written.

    1,234.5   1 234,5   1.234,5   12 %   3/4   2½   -5   1e-3   2 × 10^6   １２３   1.5 million
    三百二十   二〇二四   负五   三点一四   三分之二   百分之五   3.5万   1亿2000万

A percent sign may be left out or worked out: 12 %, 12 and 0.12 are one number where either of two has the sign.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from tunesmith.errors import SourceError
from tunesmith.evaluation.question import Question, Verdict
from tunesmith.evaluation.tasks.given import ask_answered
from tunesmith.settings.evaluate import NumberTaskSettings
from tunesmith.sources.example import Example


class Number(NamedTuple):
    """value: of a percentage what stands before its sign."""

    value: Fraction
    percent: bool
    text: str


class NumberTask:
    name = "number"

    def __init__(self, settings: NumberTaskSettings) -> None:
        self._tolerance = Fraction(settings.tolerance)

    def questions(self, rows: Sequence[Example]) -> list[Question]:
        """Raises `SourceError` for a reference without a number."""
        asked = ask_answered(rows, self.name)
        for question in asked:
            if last_number(question.reference) is None:
                shown = " ".join(question.reference.split())[:60]
                raise SourceError(
                    f'{question.origin}: the answer {shown!r} holds no number, by which the task "number" grades; '
                    "mend or remove the row, or take another task"
                )
        return asked

    def grade(self, question: Question, answer: str) -> Verdict:
        meant, said = last_number(question.reference), last_number(answer)
        if said is None or meant is None:
            return Verdict(0.0, "no number")
        right = self._equal(said, meant)
        return Verdict(float(right), f"{said.text} is{'' if right else ' not'} {meant.text}")

    def _equal(self, said: Number, meant: Number) -> bool:
        pairs = [(said.value / (100 if said.percent else 1), meant.value / (100 if meant.percent else 1))]
        if said.percent != meant.percent:
            pairs.append((said.value, meant.value))
        return any(abs(a - b) <= self._tolerance * abs(b) for a, b in pairs)


def last_number(text: str) -> Number | None:
    """None where there is none. One Chinese character (the 一 of 一个) counts only where no other number stands."""
    last = alone = None
    end = -1
    for match in _NUMBER.finditer(_plain(text)):
        number = _read(match)
        if number is None:
            continue
        if last is not None and match["unit"] and match.start() == end:  # 1亿2000万
            more = number.value if last.value > 0 else -number.value
            last = Number(last.value + more, number.percent, last.text + number.text)
        elif match[0] in _DIGITS or match[0] == "十":
            alone = number
            continue
        else:
            last = number
        end = match.end() if match["unit"] else -1
    return last or alone


# -- finding -----------------------------------------------------------------------------------------

_DIGITS = {c: i for i, c in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_UNITS = {"十": 10, "百": 100, "千": 1000, "万": 10**4, "亿": 10**8}
_WORDS = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}

_SPACED = r"[^\W\u2e80-\U0010ffff]"  # a letter or digit of a script that puts spaces between words
_HUNDRED = "百(?!分)"  # 百分之五, 百分点
_KILO = "千(?![克米瓦卡伏帕赫])"  # 五千克 are five kilograms
_DIGIT, _WORD = "".join(_DIGITS), "|".join(_WORDS)
_HAN = f"[{_DIGIT}十](?:[{_DIGIT}十万亿]|{_HUNDRED}|{_KILO})*"
_PLAIN = r"""(?:
    [1-9]\d{0,2}(?:,\d{3})+(?!\d)(?:\.\d+)?                  # 1,234.5
  | (?<!\d[ ])[1-9]\d{0,2}(?:[ ]\d{3})+(?!\d)(?:[.,]\d+)?    # 1 234,5, but not the last two of 10 20 300
  | [1-9]\d{0,2}(?:\.\d{3})+,\d+                             # 1.234,5
  | (?<!\d,)\d+,\d+(?![\d,])                                 # 3,5, but not of 1,2,3
  | \d+(?:\.\d+)?
  | (?<!\.)\.\d+
)"""
_START = rf"(?<!{_SPACED})(?<!\^)(?<!\d\.)"  # not the 2 of CO2, nor the 3 of 1.2.3
_END = r"(?![\d^]|\.\d)"  # nor the 2 of 2^10
_NUMBER = re.compile(
    rf"""
    (?P<parts>{_HAN})分之(?P<share>{_HAN})
  | (?P<minus>(?<!{_SPACED})-|负|\bminus\s)?[$€£¥]?(?P<per>百分之)?(?:
        {_START}(?:(?P<whole>\d{{1,3}})[ ])?(?<!/)(?P<top>\d+)\s?/\s?(?P<under>0*[1-9]\d*)(?![\d/])
      | {_START}(?:(?P<factor>{_PLAIN})\s?(?:[x×*·]|\\times|\\cdot)\s?)?10\^[({{]?(?P<power>[+-]?\d{{1,3}})(?!\d)
      | {_START}(?P<plain>{_PLAIN}){_END}(?:e(?P<exponent>[+-]?\d{{1,3}})(?!{_SPACED}))?
        (?:\s?(?P<unit>(?:[十万亿]|{_HUNDRED}|{_KILO})+|(?:{_WORD})\b))?
      | (?P<han>{_HAN})(?:点(?P<decimals>[{_DIGIT}]+))?
    )(?P<percent>\s?(?:%|percent\b|per\scent\b))?
    """,
    re.VERBOSE | re.IGNORECASE,
)
_VULGAR = re.compile("[¼-¾⅐-⅞]")
_RAISED = re.compile("(?<=\\d)[⁺⁻]?[⁰¹²³⁴-⁹]+")


def _plain(text: str) -> str:
    """NFKC, which would make 21/2 of 2½ and 103 of 10³."""
    text = _VULGAR.sub(lambda found: f" {found[0]}", text)
    text = _RAISED.sub(lambda found: f"^{found[0]}", text)
    text = unicodedata.normalize("NFKC", text)
    return text.replace("\N{FRACTION SLASH}", "/").replace("\N{MINUS SIGN}", "-")


# -- reading -----------------------------------------------------------------------------------------


def _read(match: re.Match[str]) -> Number | None:
    value = _value(match)
    if value is None:
        return None
    percent = bool(match["percent"] or match["per"])
    return Number(-value if match["minus"] else value, percent, match[0].strip()[:60])


def _value(match: re.Match[str]) -> Fraction | None:
    if match["parts"]:
        parts, share = _chinese(match["parts"]), _chinese(match["share"])
        return Fraction(share, parts) if parts and share is not None else None
    if match["top"]:
        return _decimal(match["whole"] or "0") + _decimal(match["top"]) / _decimal(match["under"])
    if match["power"]:
        return _decimal(match["factor"] or "1") * Fraction(10) ** int(match["power"])
    if match["plain"]:
        return _decimal(match["plain"]) * Fraction(10) ** int(match["exponent"] or 0) * _factor(match["unit"] or "")
    whole = _chinese(match["han"])
    if whole is None:
        return None
    return whole + _decimal("0." + "".join(str(_DIGITS[c]) for c in match["decimals"] or "零"))


def _decimal(text: str) -> Fraction:
    """By `Decimal`, which reads any number of digits; `int` refuses thousands."""
    text = text.replace(" ", "")
    if re.fullmatch(r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?", text):
        text = text.replace(",", "")
    elif "," in text:
        text = text.replace(".", "").replace(",", ".")
    return Fraction(Decimal(text))


def _factor(unit: str) -> int:
    """million -> 1000000, 千万 -> 10000000"""
    factor = _WORDS.get(unit.lower(), 1)
    for c in unit:
        factor *= _UNITS.get(c, 1)
    return factor


def _chinese(run: str) -> int | None:
    """三百二十 -> 320, 一万五 -> 15000, 二〇二四 -> 2024; None for what is no number (三四: three or four)."""
    if not set(run) & set(_UNITS):
        counted = len(run) != 2 or "零" in run or "〇" in run
        return int(_decimal("".join(str(_DIGITS[c]) for c in run))) if counted else None
    done = myriads = section = digit = 0
    above, tail = 10**4, 1  # the unit that the next one must be below; what a last digit without a unit counts
    for c in run:
        if c in _DIGITS:
            if digit:
                return None
            digit = _DIGITS[c]
            tail = tail if digit else 1
            continue
        unit = _UNITS[c]
        if unit < 10**4:
            if unit >= above or (not digit and (unit > 10 or section)):
                return None
            section += (digit or 1) * unit
            above = unit
        else:
            section += digit
            if not (section or myriads) or (c == "万" and myriads):
                return None
            done, myriads = (done, section * unit) if c == "万" else ((done + myriads + section) * unit, 0)
            section, above = 0, 10**4
        digit, tail = 0, unit // 10
    return done + myriads + section + digit * tail
