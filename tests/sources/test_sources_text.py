"""Which encoding a file is in is found from its bytes."""

from __future__ import annotations

import codecs

import pytest

from tunesmith.sources.text import Unreadable, decode, encoding_of

TEXT = "数据库的索引，查询和复制。一种存储引擎：第一章。\nThe index of a database, and more of it."


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "gbk", "gb18030"]
)
def test_chinese_and_english_come_back_from_every_usual_encoding(encoding):
    assert decode(TEXT.encode(encoding)) == TEXT


def test_latin_text_is_not_taken_for_chinese():
    assert "café" in decode("Le café était fermé, naïf garçon; déjà vu à la forêt.".encode("latin-1"))


def test_one_broken_byte_does_not_make_another_encoding_of_a_file():
    assert encoding_of("数据库的索引和查询，都在这里。".encode() + b"\xff" + "更多".encode()) == "utf-8"


def test_a_sample_may_end_in_the_middle_of_a_character():
    assert encoding_of("一".encode() * 10 + b"\xe4\xb8") == "utf-8"


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
