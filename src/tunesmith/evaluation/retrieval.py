"""Retrieval: what a model knows when it may read in the documents before it answers, without any training.

Where that does as well as the tuned model, nobody needed to fine-tune. Passages are found by their words, with BM25
(S. Robertson and H. Zaragoza, "The Probabilistic Relevance Framework", 2009) in Lucene's form, as the library bm25s
has it: no second model, no server, the same passages every time.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from tunesmith.dataset.compose import BETWEEN, divide
from tunesmith.errors import SourceError
from tunesmith.evaluation.question import Question
from tunesmith.sources.document import Document
from tunesmith.sources.example import Example
from tunesmith.teacher.passages import RoughMeasure
from tunesmith.teacher.quality import prompt_language
from tunesmith.teacher.request import tokens_of

PASSAGE = 256
"""Tokens of a passage at most, about: a few of them leave room for a question in any model."""
TITLE = PASSAGE // 4
"""Tokens that a question may have to stand above each passage of its answer."""

_ASK = {
    "en": ("Here are passages that may help to answer the question.", "Question: "),
    "zh": ("下面的资料可能有助于回答问题。", "问题："),
}


class Retrieval:
    """Finds passages by the words that they share with a question."""

    def __init__(self, passages: Iterable[str]) -> None:
        """Equal passages are kept once. Raises `SourceError` when there is none with a word in it."""
        import bm25s

        self._passages = list(dict.fromkeys(passages))
        self._vocabulary: dict[str, int] = {}
        number = self._vocabulary
        numbered = [[number.setdefault(t, len(number)) for t in terms(passage)] for passage in self._passages]
        if not number:
            raise SourceError("there is no text to find passages in; set evaluate.retrieval = 0")
        self._index = bm25s.BM25()
        self._index.index((numbered, number), show_progress=False)

    def find(self, question: str, count: int) -> list[str]:
        """At most ``count`` passages, the best first; of equally good ones the earlier. None that shares no word."""
        known = [term for term in terms(question) if term in self._vocabulary]
        if not known:
            return []
        scores = self._index.get_scores(known)
        best = np.argsort(-scores, kind="stable")[:count]
        return [self._passages[i] for i in best if scores[i] > 0]


_CJK = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_TERM = re.compile(rf"[{_CJK}]+|[^\W_{_CJK}]+")


def terms(text: str) -> list[str]:
    """What is compared: words without regard to case; Chinese and Japanese by characters and by pairs of them, for
    nothing says where a word ends."""
    found = list[str]()
    for run in _TERM.findall(unicodedata.normalize("NFKC", text).casefold()):
        if "\u3040" <= run[0] <= "\u9fff" or "\uf900" <= run[0] <= "\ufaff":
            found += [*run, *(run[i : i + 2] for i in range(len(run) - 1))]
        else:
            found.append(run)
    return found


def passages_of(documents: Iterable[Document]) -> Iterator[str]:
    """Stretches of the documents, at most `PASSAGE` long, divided at headings and paragraphs as training rows are;
    each under the title and the headings that it belongs to, which are half of what questions ask for."""
    for document in documents:
        for row in divide(document, "{title}", "", PASSAGE, RoughMeasure()):
            label = row.prompt[-1].content.strip(BETWEEN)
            yield f"{label}\n{row.answer}" if label else row.answer


def document_of(row: Example) -> Document:
    """A training row as a document: raw text as it is, the answer under its question, a longer conversation whole."""
    said = [message.content for message in row.messages if message.role != "system"]
    if len(said) == 2 and tokens_of(said[0]) <= TITLE:
        return Document(said[1], said[0], row.origin)
    return Document("\n\n".join(said), "", row.origin)


def with_passages(question: Question, passages: Sequence[str]) -> Question:
    """The same question with passages before its last turn of the user, in the language that it is asked in."""
    if not passages:
        return question
    messages = [dict(message) for message in question.messages]
    last = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=len(messages) - 1)
    asked = messages[last]["content"]
    before, name = _ASK[prompt_language(asked)]
    numbered = [f"[{number}] {passage.strip()}" for number, passage in enumerate(passages, 1)]
    messages[last]["content"] = "\n\n".join([before, *numbered, name + asked])
    return replace(question, messages=tuple(messages))
