"""Whether a text is what its encoding would make it: old encodings of East Asia decode each other's bytes without
an error, into rubbish, which only the characters that come out can tell."""

from __future__ import annotations

import re


def looks_chinese(text: str, usual: float = 0.9, frequent: float = 0.08) -> bool:
    """Whether what was decoded as GB 18030 is simplified Chinese. Japanese, Korean and Latin texts decode too,
    but into rare characters, or without the frequent ones.

    usual, frequent: how large a share of the characters must be in GB 2312, and among the most frequent.
    """
    far = _far(text)
    kana = sum(map(_is_kana, far))  # EUC-JP has them where GBK does
    in_gb2312 = len("".join(far).encode("gb2312", "ignore")) // 2 - kana
    return kana <= 0.05 * len(far) and in_gb2312 >= usual * len(far) and _are_frequent(far, _SIMPLIFIED, frequent)


def may_be_chinese(text: str) -> bool:
    """With more rare characters, and more of the most frequent: names, say."""
    return looks_chinese(text, usual=0.75, frequent=0.2)


def looks_traditional(text: str) -> bool:
    """Whether what was decoded as Big5 is Chinese: nearly all of it in the first of its two planes,
    and a part with a second byte in ASCII, which EUC-JP and EUC-KR never have."""
    far = _far(text)
    data = [c.encode("big5hkscs", "replace") for c in far]
    rare = sum(not b"\xa1" <= c[:1] < b"\xc9" for c in data)
    low = sum(c[1:] < b"\x80" for c in data)
    return len(far) >= _LEAST and rare <= 0.1 * len(far) and low >= 0.1 * len(far) and _are_frequent(far, _TRADITIONAL)


def looks_japanese(text: str) -> bool:
    """Nobody writes Japanese without kana; half-width ones are what other encodings' bytes become."""
    far = _far(text)
    narrow = sum("\uff66" <= c <= "\uff9f" for c in far)
    return len(far) >= _LEAST and sum(map(_is_kana, far)) >= 0.3 * len(far) and narrow <= 0.05 * len(far)


def looks_korean(text: str) -> bool:
    """In Korean most syllables are among a few hundred, of eleven thousand."""
    far = _far(text)
    hangul = [c for c in far if "\uac00" <= c <= "\ud7a3"]
    frequent = sum(c in _HANGUL for c in hangul)
    return len(hangul) >= max(_LEAST, 0.7 * len(far)) and frequent >= 0.6 * len(hangul)


def looks_western(text: str) -> bool:
    """Latin letters with marks stand among plain ones; other scripts' bytes make whole words of them."""
    return looks_latin(text) and not set("ÐÝÞðýþ") & set(text)  # which are Turkish in Windows-1254


def looks_latin(text: str) -> bool:
    return not re.search(r"(?<!\w)[^\W\d_a-zA-Z]{2,}(?!\w)", text)


def looks_cyrillic(text: str) -> bool:
    """Hebrew becomes Cyrillic without the last letters of the alphabet, and all of it large or all of it small."""
    return (
        _is_mostly(text, "\u0400", "\u04ff") and any(map(str.isupper, _far(text))) and bool(re.search("[ыьэюя]", text))
    )


def looks_greek(text: str) -> bool:
    return _is_mostly(text, "\u0370", "\u03ff")


def looks_hebrew(text: str) -> bool:
    """The letters, not the points, which are rarely written."""
    return _is_mostly(text, "\u05d0", "\u05ea")


def looks_arabic(text: str) -> bool:
    return _is_mostly(text, "\u0600", "\u06ff")


def _is_mostly(text: str, first: str, last: str) -> bool:
    far = _far(text)
    return sum(first <= c <= last for c in far) >= 0.8 * len(far)


_LEAST = 8
"""Characters beyond ASCII that are too few to tell a language by."""
_SHORT = 50
"""Fewer of them may be told wrongly."""


def _far(text: str) -> list[str]:
    return [c for c in text if c > "\x7f"]


def _is_kana(c: str) -> bool:
    return "\u3040" <= c <= "\u30ff"


def _are_frequent(far: list[str], frequent: frozenset[str], share: float = 0.08) -> bool:
    """Of a short text several: one or two are frequent by accident."""
    found = [c for c in far if c in frequent]
    enough = len(found) >= max(2, share * len(far))
    return enough and (len(far) >= _SHORT or len(set(found)) >= min(4, 0.2 * len(far)))


_SIMPLIFIED = frozenset(
    "的一是不了在人有我他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后小么心多天而能"
    "好都然没日于起还发成事只作当想看文无开手十用主行方又如前所本见经头面公同三已老从动两长知民样现分将外但身些与高意进把"
    "法此实回二理美点月明其种声全工己话儿者向情部正名定女问力机给等几很业最间新什打便位因重被走电四第门相次东政海口使教西"
)
"""A third and more of Chinese prose."""
_TRADITIONAL = frozenset(
    "的一是不了在人有我他這中大來上國個到說們為子和你地出道也時年得就那要下以生會自著去之過家學對可她裡後小麼心多天而能"
    "好都然沒日於起還發成事只作當想看文無開手十用主行方又如前所本見經頭面公同三已老從動兩長知民樣現分將外但身些與高意進把"
    "法此實回二理美點月明其種聲全工己話兒者向情部正名定女問力機給等幾很業最間新什打便位因重被走電四第門相次東政海口使教西"
)
_HANGUL = frozenset(
    "이다는을의에가고하은지를한도로기사나어서리인시대자아해스들일그라만여수게있정전주보제상과원장성부것안니면생우구으드오요"
    "신조공비내관소당방동유경중국선모문진마세무실연치거미개회물용식야적트계습바말했되저었할교영위분단크심명간재산양물통발각"
    "화행프터호민와건데때입음합결현강력체파피행추청태운금없않같또든난려러르레루노누너네두더며반본변복불미배백법별살새색설석"
    "술승십싶약언업역예외왔용울월육응의임잘잡저적절점접족종좋준증직질집차찾책처천초최출충친타토투특편평포표품필학항향허험형"
    "혼확황효후희히람랑량런류률른를름림립먹멀명몇못몸밖받밤번벌봐속손송순쉬습싸씨앞애양얼엄엇열온올완왜욕움원읽잠존죽줄즉"
    "짜쪽참창카코키택톡판펴풀하함께까끼꼭끝난날남낮내년념녀능님다닌달답덕던돌돈둘득들듯등따딸떠떤떨뜻려답많맞매맛머먼메및"
)
"""Frequent syllables of Korean prose, from memory."""
