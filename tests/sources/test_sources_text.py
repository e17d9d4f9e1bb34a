"""Which encoding a file is in is found from its bytes."""

from __future__ import annotations

import codecs

import pytest

from tunesmith.sources import text as text_module
from tunesmith.sources.text import SAMPLE, Unreadable, decode, encoding_of

TEXT = "数据库的索引，查询和复制。一种存储引擎：第一章。\nThe index of a database, and more of it."


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "gbk", "gb18030"]
)
def test_chinese_and_english_come_back_from_every_usual_encoding(encoding):
    assert decode(TEXT.encode(encoding)) == TEXT


GUESSED = [
    ("Le café était fermé, naïf garçon; déjà vu à la forêt.", "cp1252", "Western"),
    ("Die Größe der Häuser ist für Mädchen schön.", "latin-1", "Western"),
    ("Zażółć gęślą jaźń, a potem śpij spokojnie przez całą noc", "cp1250", "Central Europe"),
    ("База данных и индексы: это русский текст о запросах.", "koi8_r", "KOI8-R"),
    ("データベースの索引とクエリについて説明します。これは日本語の文章です。", "cp932", "Shift-JIS"),
    ("데이터베이스의 색인과 질의에 대해 설명합니다. 이것은 한국어 문장입니다.", "cp949", "EUC-KR"),
    ("資料庫的索引和查詢，都在這裡。這是一篇文章。", "big5", "Big5"),
]


@pytest.mark.parametrize(("text", "encoding", "name"), GUESSED)
def test_what_is_neither_unicode_nor_simplified_chinese_is_a_guess_that_says_so(text, encoding, name):
    data = text.encode(encoding)
    found, guess = encoding_of(data)
    assert data.decode(found) == text
    assert name in guess
    with pytest.raises(Unreadable, match=r"not UTF-8; it looks like .*, but that is a guess; save it as UTF-8"):
        decode(data)


@pytest.mark.parametrize(
    ("data", "says"),
    [(b"\xe9\xff", "too short"), (b"\xff", "too short"), ("资料库".encode("gbk"), "too short"),
     ('{"q":"こんにちは","a":"はい"}'.encode("cp932"), "too little to tell Shift-JIS .* from EUC-KR"),
     ("東京都千代田区永田町一丁目七番一号".encode("cp932"), "too little to tell"),
     ("Şifremi unuttum, ne yapmalıyım?".encode("cp1254"), "at best Windows-1252"),
     ("מהו מסד נתונים? תודה רבה".encode("cp1255"), "too little to tell"),
     ("東京の天気はどうですか？".encode("cp932") + "오늘 서울은 맑고 기온은 이십오".encode("cp949"), "not UTF-8; "),
     (bytes(range(1, 256)), "not text in any encoding that is known")],
)  # fmt: skip
def test_bytes_that_could_be_anything_are_refused(data, says):
    with pytest.raises(Unreadable, match=says):
        encoding_of(data)


JAPANESE = "1番目の質問は何ですか？ これは1番目の答えです。とても詳しく書いてあります。"
KOREAN = "데이터베이스의 색인과 질의에 대해 설명합니다, 세종대왕은 1443년에 훈민정음을 창제하였다"
TRADITIONAL = "今天臺北晴朗，氣溫二十五度，下午雲量增加。請問退貨要怎麼辦理？"


@pytest.mark.parametrize("times", [1, 50])
@pytest.mark.parametrize(
    ("text", "encoding"),
    [(JAPANESE, "cp932"), (JAPANESE, "euc_jp"), (KOREAN, "cp949"), (TRADITIONAL, "big5"), (TEXT, "gbk")],
)
def test_no_language_of_east_asia_is_read_as_another(text, encoding, times):
    data = text.encode(encoding) * times
    assert data.decode(encoding_of(data)[0]) == text * times


@pytest.mark.parametrize("encoding", ["cp932", "euc_jp"])
@pytest.mark.parametrize("text", ["配送料金一覧表株式会社日本経済新聞社", "契約解除通知書はい平成二十三年度予算案"])
def test_japanese_with_hardly_any_kana_is_refused_rather_than_read_as_chinese(text, encoding):
    with pytest.raises(Unreadable, match="save it as UTF-8"):
        encoding_of(text.encode(encoding))


def test_where_two_languages_are_plausible_both_are_named(monkeypatch):
    monkeypatch.setitem(text_module._LANGUAGES, "cp949", lambda text: True)
    with pytest.raises(Unreadable, match=r"too little to tell Shift-JIS \(Japanese\) from EUC-KR \(Korean\)"):
        encoding_of(JAPANESE.encode("cp932"))


def test_a_sample_of_a_long_file_may_end_in_the_middle_of_a_guessed_character():
    data = ("x" + GUESSED[4][0] + "\n").encode("cp932") * 2000
    assert "Shift-JIS" in encoding_of(data[:SAMPLE])[1]


def test_a_text_that_is_partly_utf8_is_never_another_encoding():
    half = TEXT.encode("gbk") * 9 + b"\n" + TEXT.encode()
    with pytest.raises(Unreadable, match="line 11 is in UTF-8, which is not GB18030 as the rest"):
        decode(half)


def test_one_broken_byte_does_not_make_another_encoding_of_a_file():
    assert encoding_of("数据库的索引和查询，都在这里。".encode() + b"\xff" + "更多".encode()) == ("utf-8", "")


def test_a_sample_may_end_in_the_middle_of_a_character():
    assert encoding_of("一".encode() * 10 + b"\xe4\xb8") == ("utf-8", "")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n", "git lfs pull"),
        (bytes(2000), "zero bytes"),
        (codecs.BOM_UTF16_LE + b"\x00\xd8a", "which is not UTF-16"),
        (b"ok\n" * 30_000 + b"\xff", "line 30001 has the byte 0xff"),
    ],
)
def test_what_is_no_text_says_why(data, says):
    with pytest.raises(Unreadable, match=says):
        decode(data)
