"""What is wrong with an answer, as far as it can be seen without knowing the truth: each fault has a fixed name."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache
from typing import Literal

from tunesmith.dataset.similar import normal
from tunesmith.teacher.prompts import Language

Fault = Literal[
    "not the JSON asked for", "empty", "cut off", "refused by the server",  # quarantined: nothing to be judged
    "refusal", "speaks as an AI", "mentions the text", "another language", "not in the passage", "judged wrong",
    "repeats a question", "nearly repeats a row", "repeats an answer", "the same question again", "repeats the prompt",
    "speaks of the request", "almost no text",
]  # fmt: skip
QUARANTINED: tuple[Fault, ...] = ("not the JSON asked for", "empty", "cut off", "refused by the server")
ASKED_AGAIN: tuple[Fault, ...] = (*QUARANTINED[:3], "speaks as an AI", "mentions the text", "another language",
                                 "repeats the prompt", "speaks of the request")  # fmt: skip
"""Faults of the wording, which asking again can mend. A teacher that says it does not know, or says what is not there,
is not pressed: it would invent."""

SUPPORT = 0.6
"""Least share of an answer's content that must stand in its passage; measured on the examples of
tests/teacher/test_teacher_quality.py, where the supported ones have 0.7 and more, the invented ones 0.45 and less."""

WHY: dict[Language, dict[Fault, str]] = {
    "en": {
        "not the JSON asked for": "it is not the JSON that was asked for",
        "empty": "it is empty",
        "cut off": "it was too long and was cut off; write much less",
        "speaks as an AI": "it speaks of you, the AI; write only the answer",
        "mentions the text": 'it mentions "the text" or "the passage", which the reader does not see',
        "another language": "it is in another language than the question",
        "repeats the prompt": "it repeats the words of the request; fill in your own",
        "speaks of the request": "it speaks of this conversation; write only the answer",
    },
    "zh": {
        "not the JSON asked for": "它不是所要求的 JSON",
        "empty": "它是空的",
        "cut off": "它太长，被截断了；请写得短得多",
        "speaks as an AI": "它提到了你这个 AI；只写回答",
        "mentions the text": "它提到了读者看不到的“文中”“本文”之类",
        "another language": "它用的语言和问题不同",
        "repeats the prompt": "它照抄了要求里的字句；请填写自己的内容",
        "speaks of the request": "它谈到了这次对话；只写回答",
    },
}

_REFUSAL = re.compile(
    r"NOT ANSWERED|没有回答\W*$|\bI(?:'m| am) (?:sorry|unable)|\bno information (?:is|was|about|on)|"
    r"\bI (?:can(?:no|')t|cannot|could not|couldn't|do not|don't) (?:answer|help|assist|provide|know|"
    r"have (?:any |enough |access|information)|fulfill|comply|find)|"
    r"\b(?:does|do|did)(?: not|n't) (?:mention|state|specify|provide|contain|say|give|include) |"
    r"\b(?:is|are) not (?:mentioned|stated|specified|provided)\b|"
    r"抱歉|对不起|很遗憾|无法(?:回答|提供|确定|得知|帮助)|不能回答|没有(?:提到|提及|说明|给出)|未(?:提及|提到|说明)|"
    r"我不(?:知道|清楚|了解)",
    re.IGNORECASE,
)
_AS_AI = re.compile(
    r"\bas an? (?:\w+ )?(?:AI|artificial intelligence|language model|virtual assistant|chat ?bot)\b|"
    r"\bI(?:'m| am) (?:just )?an? (?:\w+ )?(?:AI|language model|virtual assistant)\b|"
    r"\bmy (?:training data|knowledge cutoff)|"
    r"作为(?:一个|一名|一款)?(?:AI|人工智能|语言模型|大模型|智能助手)|我是(?:一个|一名|一款)?(?:AI|人工智能|语言模型)",
    re.IGNORECASE,
)
_OF_REQUEST = re.compile(
    r"\W*(?:You(?:['’]re| are) (?:absolutely )?(?:right|correct)\b|"
    r"(?:I apologi[sz]e|I(?:['’]m| am) (?:very |so )?sorry|Sorry|My apologies) (?:for|about)\b|"
    r"(?:(?:Sure|Certainly|Of course)\W+)?Here(?:['’]s| is) (?:a|an|the|my) (?:\w+ )?"
    r"(?:revised|rewritten|corrected|shorter|improved) |"
    r"(?:非常)?(?:抱歉|对不起)|(?:好的\W*)?(?:这是|以下是)(?:修改|重写|更正|简化)后)",
    re.IGNORECASE,
)
"""How an answer begins that was asked for again, and replies to that."""
_A_TEXT = r"(?:passage|text|excerpt|document|context|article)"
_SAYS = r"(?:above|below|provided|given|states?|says?|mentions?|explains?|describes?|does|is about)"
_THE_TEXT = re.compile(
    rf"\b(?:the|this|that|given|provided|above|following) {_A_TEXT}(?: {_SAYS}\b|'s author|[,.:;]| that)|"
    rf"\b(?:according to|based on|in|from|(?:stated|mentioned|described) in) (?:the|this) (?:\w+ )?{_A_TEXT}\b|"
    r"\b(?:mentioned|described|stated|shown|listed) (?:above|below)\b|"
    r"\bthe (?:text|passage|information|list|table|code|example) (?:above|below)\b|"
    r"上文|上述文字|上面的?文字|文中|本文|该文|这段文字|这篇文章|该段文字|以上(?:文字|内容|文章)|"
    r"(?:根据|依据|按照|基于)(?:上述|以上|这段|这篇|该|提供的|所给的?)?(?:文章|文本|原文|段落|材料|文字|内容|资料)|"
    r"文章(?:中|里|提到|指出|说)|作者(?:提到|认为|指出|说)",
    re.IGNORECASE,
)

_PASSAGE = "the passage"
"""What the prompts call it; people seldom ask for one."""


def fault_of(answer: str, question: str) -> Fault | None:
    """What is wrong with an answer by itself."""
    if not any(c.isalnum() for c in answer):
        return "empty"
    if _AS_AI.search(answer):
        return "speaks as an AI"
    head = answer[:300]
    if _REFUSAL.search(head) and len(answer) < 600:
        return "refusal"
    if _OF_REQUEST.match(answer):
        return "speaks of the request"
    if _mentions_text(answer, question):
        return "mentions the text"
    return None if same_language(answer, question) else "another language"


def question_fault(question: str, language_as: str, prompt: str = "") -> Fault | None:
    """What is wrong with a question that was made up; ``language_as``: what it was made from. A small model gives the
    words of its ``prompt`` back, the example of the form above all."""
    if sum(c.isalnum() for c in question) < 4:
        return "empty"
    if normal(question) in normal(prompt.replace(language_as, "")):
        return "repeats the prompt"
    if _THE_TEXT.search(question) or (_PASSAGE in question.lower() and _PASSAGE not in language_as.lower()):
        return "mentions the text"
    return None if same_language(question, language_as) else "another language"


def _mentions_text(answer: str, question: str) -> bool:
    """Of a question about texts, an answer may speak of them."""
    return any(m[0].casefold() not in question.casefold() for m in _THE_TEXT.finditer(answer))


# -- language ----------------------------------------------------------------------------------------

_CODE = re.compile(r"(`{3,}|~{3,}).*?(?:\1|\Z)|`[^`\n]+`|https?://\S+", re.DOTALL)
_LETTER = re.compile("[A-Za-z]")
_SCRIPTS = {"CJK": "han", "HIRAGANA": "kana", "KATAKANA": "kana", "HANGUL": "hangul", "LATIN": "latin"}
_COMMON = {
    "en": "the of and to is that for with you are this can be on it",
    "de": "der die das und ist nicht mit den ein eine von zu für auf sie",
    "fr": "le la les des est et une dans pour que vous sur pas avec du",
    "es": "el los las una es que para con por del se en como más su",
    "it": "il di che è per una sono con non della le si nel più gli",
    "pt": "os as um uma para com não é que do da em por se mais",
    "nl": "het een van en is dat niet voor met op zijn de je te om",
}
_OF_WORD = {language: frozenset(words.split()) for language, words in _COMMON.items()}


def prompt_language(text: str) -> Language:
    """The language that prompts about a text are written in: Chinese for Chinese, else English."""
    return "zh" if _main_script(text) == "han" else "en"


def same_language(text: str, other: str) -> bool:
    """Whether two texts are in one language, as far as scripts and frequent words tell; of what is mere code, yes."""
    script, wanted = _main_script(text), _main_script(other)
    if not script or not wanted:
        return True
    if script != wanted:
        return False
    if script != "latin":
        return True
    first, second = _by_words(text), _by_words(other)
    return not first or not second or first == second


def _main_script(text: str) -> str:
    """The script that a text is written in. A Chinese character weighs as much as six letters."""
    # For Chinese is written with many Latin names in it, English with few Chinese ones.
    text = _CODE.sub(" ", text[:20_000])
    if text.isascii():
        return "latin" if _LETTER.search(text) else ""
    weights = Counter[str]()
    for c, n in Counter(text).items():
        if c.isalpha() and (script := _script(c)):
            weights[script] += 6 * n if script in ("han", "kana", "hangul") else n
    if (
        weights["kana"] > 0.2 * (weights["kana"] + weights["han"])
        and weights["kana"] + weights["han"] > weights["latin"]
    ):
        return "kana"
    return max(weights, key=lambda s: weights[s]) if weights else ""


@lru_cache(1 << 14)
def _script(c: str) -> str:
    first = unicodedata.name(c, "").partition(" ")[0]
    return _SCRIPTS.get(first, first.lower())


def _by_words(text: str) -> str:
    """Which Latin language, when one has clearly more of its frequent words than any other."""
    words = Counter(re.findall(r"[^\W\d_]+", _CODE.sub(" ", text[:20_000]).lower()))
    counts = ((sum(words[w] for w in common & words.keys()), name) for name, common in _OF_WORD.items())
    found = sorted(counts, reverse=True)
    (most, language), (second, _) = found[0], found[1]
    return language if most >= 3 and most >= 1.5 * second else ""


# -- support -----------------------------------------------------------------------------------------

_STOP = """
the a an and or but of to in on at by for with from as is are was were be been being it its this that these
those you your they their them he she his her we our i my can could will would should may might must do does
did has have had not no yes so if then than there here when where which who whom what how why also such more
most other into out over up down about after before between each any all both only own same very just because
while during through use used using make made one two first second
"""
_STOPPED = frozenset(_STOP.split())
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]+")
_WORD = re.compile(r"[^\W\d_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3][^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]*")
_LITTLE = frozenset("的是了在和与及或也就都而着过等中为由从对被把将可以能会要这那其它他她我你您们个一不有上下")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_MARKER = re.compile(r"^[ \t]*(?:\(?\d{1,2}[.)、]|[-*•])[ \t]*", re.MULTILINE)
_WORDS_FOR = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "twenty": 20, "thirty": 30, "hundred": 100, "once": 1, "twice": 2,
    "零": 0, "一": 1, "二": 2, "两": 2, "三": 3, "四": 4, "五": 5, "六": 6, "七": 7, "八": 8, "九": 9, "十": 10,
}  # fmt: skip


def support(answer: str, passage: str, question: str = "") -> float:
    """Share of an answer's content that stands in the passage: words by their first letters, Chinese by pairs of
    characters. What the question says already counts for nothing, either way. 0.0 when a number stands in neither."""
    answer, passage, question = (unicodedata.normalize("NFKC", t) for t in (answer, passage, question))
    if not numbers_of(answer) <= numbers_of(passage, spelled=True) | numbers_of(question, spelled=True):
        return 0.0
    given = content_of(question)
    said = content_of(answer)
    told = [piece for piece in said if piece not in given] or said
    if not told:
        return 1.0
    there = set(content_of(passage))
    return sum(piece in there for piece in told) / len(told)


def content_of(text: str) -> list[str]:
    """The pieces of a text that carry its meaning, each once."""
    words = [_stem(w) for w in _WORD.findall(text.lower()) if len(w) > 1 and w not in _STOPPED]
    pairs = [run[i : i + 2] for run in _HAN.findall(text) for i in range(len(run) - 1)]
    pairs = [pair for pair in pairs if not _LITTLE.intersection(pair)]
    return list(dict.fromkeys(words + pairs))


def _stem(word: str) -> str:
    """So that "connections" is found in "connection", "stored" in "storing"."""
    return word if len(word) <= 4 else word[: max(4, len(word) - 3)]


def numbers_of(text: str, *, spelled: bool = False) -> set[str]:
    """The numbers in a text, however they are written; not those that count the items of a list."""
    found = {_plain_number(n) for n in _NUMBER.findall(_MARKER.sub("", text))}
    if spelled:
        words = re.findall(r"[a-z]+|[零一二两三四五六七八九十]", text.lower())
        found |= {str(_WORDS_FOR[word]) for word in words if word in _WORDS_FOR}
        found |= {_plain_number(n) for n in re.findall(r"\d+", text)}  # 10 of "v10.2", 2024 of "2024.05.01"
    return found


def _plain_number(number: str) -> str:
    """1,200 and 1200.0 as 1200."""
    number = re.sub(r",(?=\d{3}\b)", "", number)
    return re.sub(r"\.0+$", "", number).lstrip("0") or "0"
