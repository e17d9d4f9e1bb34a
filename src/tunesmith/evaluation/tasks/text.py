"""Answers as text: the reference itself, the same but for case and marks, somewhere in the answer, or in part.

Texts are compared piece by piece. A piece is a word, a number ("3.5", "10:30", "-5"), a sign that means something ("%",
"+"), or one character of Chinese, Japanese, Korean or another script whose words no spaces divide.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from tunesmith.evaluation.question import Question, Verdict
from tunesmith.evaluation.tasks.given import ask_answered
from tunesmith.settings.evaluate import TextTaskSettings
from tunesmith.sources.example import Example


class TextTask:
    """The kinds "exact", "normalised", "contains" and "overlap"."""

    def __init__(self, settings: TextTaskSettings) -> None:
        self.name: str = settings.kind
        self._compare = {"exact": exact, "normalised": normalised, "contains": contains, "overlap": overlap}[
            settings.kind
        ]

    def questions(self, rows: Sequence[Example]) -> list[Question]:
        return ask_answered(rows, self.name)

    def grade(self, question: Question, answer: str) -> Verdict:
        return self._compare(question.reference, answer)


def exact(reference: str, answer: str) -> Verdict:
    """Character by character. Space around them is not compared: what a model says comes without any."""
    return _same(reference.strip() == answer.strip())


def normalised(reference: str, answer: str) -> Verdict:
    return _same(pieces(reference) == pieces(answer))


def _same(same: bool) -> Verdict:
    return Verdict(1.0, "the same") if same else Verdict(0.0, "not the same")


def contains(reference: str, answer: str) -> Verdict:
    """The reference's pieces stand together in the answer: "art" is not in "part", "5" not in "15" or "5.5"."""
    wanted, said = pieces(reference), pieces(answer)
    places = range(len(said) - len(wanted) + 1)
    found = any(said[place : place + len(wanted)] == wanted for place in places)
    return Verdict(1.0, "found in the answer") if found else Verdict(0.0, "not found in the answer")


def overlap(reference: str, answer: str) -> Verdict:
    """F1 of the pieces, without English articles (Rajpurkar et al. 2016, "SQuAD", section 6.1)."""
    wanted, said = Counter(_without_articles(reference)), Counter(_without_articles(answer))
    f1 = 2 * (wanted & said).total() / (wanted.total() + said.total())
    return Verdict(f1, f"F1 {f1:.2f}")


def _without_articles(text: str) -> list[str]:
    """But for a text of nothing else: "A" may be an answer."""
    found = pieces(text)
    return [piece for piece in found if piece not in ("a", "an", "the")] or found


def pieces(text: str) -> list[str]:
    """NFKC, without case and marks of punctuation, and without the label of an answer before it. A text of nothing but
    marks is what it is.

    >>> pieces("Answer: it is the **2nd** one, C#: 3.5 km!")
    ['it', 'is', 'the', '2nd', 'one', 'c', '#', '3.5', 'km']
    >>> pieces("答案：北京，Beijing。")
    ['北', '京', 'beijing']
    """
    plain = unicodedata.normalize("NFKC", text).casefold().replace("\N{MINUS SIGN}", "-")
    plain = _LABEL.sub("", unicodedata.normalize("NFKC", plain))
    return [piece for piece in _PIECE.findall(plain) if not _is_mark(piece)] or text.split()


# Thai to Lao, Burmese, Khmer, then everything from the Chinese radicals on but for its punctuation.
_UNDIVIDED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3041-\u30fa\u30fc-\u30ff\u3100-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
_PIECE = re.compile(
    rf"(?:(?<![^\W{_UNDIVIDED}])-(?=\d))?(?:[^\W_{_UNDIVIDED}]|(?<=\d)[.,:](?=\d))+|[{_UNDIVIDED}]|[^\w\s]"
)
_LABEL = re.compile(r"^[\s*_#]*(?:(?:final )?answer|答案|回答|答)[\s*_]*:")
_MEANT = frozenset("#%&@/\\")
"""Punctuation to Unicode, but not to people: C# is not C, 5 % not 5."""


def _is_mark(piece: str) -> bool:
    """Punctuation, what is not seen, and the backquote of Markdown; other signs ("+", "€") say something."""
    return len(piece) == 1 and piece not in _MEANT and (unicodedata.category(piece)[0] in "PC" or piece == "`")
