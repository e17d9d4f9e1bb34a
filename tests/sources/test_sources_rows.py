"""Files of rows are read a piece at a time, and whatever cannot be read is said."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tunesmith.errors import SourceError
from tunesmith.sources import cursor as cursor_module
from tunesmith.sources import rows as rows_module
from tunesmith.sources.example import Example
from tunesmith.sources.quarantine import Quarantined
from tunesmith.sources.rows import MIXED, Block, blocks, is_lines, read_block, read_rows
from tunesmith.sources.text import NOT_ITS_ENCODING

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def rows_of(tmp_path: Path, text: str | bytes, name: str = "rows.jsonl") -> list[Example | Quarantined]:
    """Every row, checked to be the same through blocks where blocks can be had."""
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    read = list(read_rows(path, name, {}))
    if is_lines(path):
        assert [row for block in blocks(path, name, {}) for row in read_piece(block)] == read
    return read


def read_piece(piece: Block | Quarantined) -> list[Example | Quarantined]:
    return [piece] if isinstance(piece, Quarantined) else list(read_block(pickle.loads(pickle.dumps(piece))))


def texts(read: list[Example | Quarantined]) -> list[str]:
    return [row.messages[0].content if isinstance(row, Example) else row.reason for row in read]


def lines_of(*contents: str) -> str:
    return "".join(json.dumps({"text": content}, ensure_ascii=False) + "\n" for content in contents)


def test_broken_json_in_the_middle_costs_one_row(tmp_path):
    read = rows_of(tmp_path, '{"text": "a"}\n{"text": \n{"text": "b"}\n')
    assert [isinstance(r, Example) for r in read] == [True, False, True]
    assert "broken JSON" in read[1].reason


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ('{"text": }', "a value is missing"), ('{"text": "a" "b": 1}', "a comma is missing"),
        ('{"text": "a", }', "a comma stands before the end|a key is missing"), ('{text: 1}', "a key is missing"),
        ('{"text": "a\\x"}', "is not doubled"), ('{"text": "a\tb"}', "a bare line break or tab"),
        ('{"text": "a', "a text is not closed"), ('{"text": "a"}{}', "more stands behind its end"),
        ("[" * 100_000, "nested too deeply"), ('{"text": "a\0b"}', "it holds a zero byte; take it out$"),
        ('{"text": "a", "n": ' + "9" * 5000 + "}", "a number has thousands of digits; write it as text"),
    ],
)  # fmt: skip
def test_broken_json_is_said_in_words(tmp_path, row, says):
    _, broken = rows_of(tmp_path, '{"text": "a"}\n' + row)
    assert re.match(f"broken JSON: .*({says})", broken.reason)


def test_an_array_gives_the_line_of_each_row(tmp_path):
    read = rows_of(tmp_path, '[\n {"text": "a"},\n\n {"text":\n  "b"},\n {"text": 1}\n]', "rows.json")
    assert [r.origin.line for r in read] == [2, 4, 6]


def test_an_array_cut_short_keeps_the_rows_before_the_cut(tmp_path):
    read = rows_of(tmp_path, '[{"text": "a"}, {"text": "b', "rows.json")
    assert isinstance(read[0], Example)
    assert isinstance(read[1], Quarantined)


@pytest.mark.parametrize("broken", [
    '{"messages": [{"role": "user", "content": "问 "b" "}, {"role": "assistant", "content": "c"}]}',
    '{"messages": [{"role": "user", "content": "b"}, {"role": "assistant" "content": "c"}]}',
    '{"messages": [{"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}]',
    '{"messages": [{"role": "user", "content": "b"}, {"role": "assistant", "content": "c}]}',
    "{'messages': 3}",
])  # fmt: skip
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("listed", [False, True])
def test_a_broken_row_of_an_array_costs_itself_alone(tmp_path, broken, indent, before, listed):
    good = [
        json.dumps(
            {"messages": [{"role": "user", "content": f"{i}"}, {"role": "assistant", "content": "好"}]}, indent=indent
        )
        for i in range(4)
    ]
    array = "[\n" + ",\n".join([*good[:before], broken, *good[before:]]) + "\n]"
    rows = rows_of(tmp_path, f'{{"data": {array}\n}}\n' if listed else f"{array}\n")
    assert [row.messages[0].content for row in rows if isinstance(row, Example)] == ["0", "1", "2", "3"]
    bad = [row for row in rows if isinstance(row, Quarantined)]
    assert [(row.origin.line, row.text) for row in bad] == [(2 + before * (good[0].count("\n") + 1), broken)]
    assert bad[0].reason.startswith("broken JSON: ")


@pytest.mark.parametrize(
    "broken", ["oops", '["a" "b"]', '{{"text": "a"}', '{"text: "a"}', "{text: a}", '{“text”: "a"}']
)
def test_a_first_row_that_is_hardly_one_costs_itself_alone(tmp_path, broken):
    rows = rows_of(tmp_path, f'[{broken},\n{{"text": "b"}},\n{{"text": "c"}}]', "rows.json")
    assert [row.text if isinstance(row, Quarantined) else row.messages[0].content for row in rows] == [broken, "b", "c"]


def test_a_part_of_a_broken_first_row_is_not_taken_for_the_next(tmp_path):
    broken = '{"question": oops, "answer": "a", "seen": [{"text": "x"}, {"text": "y"}]}'
    rows = rows_of(tmp_path, f'[{broken}, {{"question": "q", "answer": "b"}}]', "rows.json")
    assert [row.text if isinstance(row, Quarantined) else row.answer for row in rows] == [broken, "b"]


def test_a_row_behind_a_broken_one_knows_its_line(tmp_path):
    rows = rows_of(tmp_path, '[\n{"text": "a"},\n{"text": b\n},\n\n{"text": "c"}]')
    assert [(type(row).__name__, row.origin.line) for row in rows] == [
        ("Example", 2),
        ("Quarantined", 3),
        ("Example", 6),
    ]


def test_marks_crlf_and_odd_line_ends_are_read_in_any_encoding(tmp_path):
    text = '{"text": "皇上好，你是谁？\u2028中文"}\r\n{"text": "我是甄嬛。"}\r\n'
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "gb18030"):
        read = texts(rows_of(tmp_path, text.encode(encoding)))
        assert read == ["皇上好，你是谁？\u2028中文", "我是甄嬛。"], encoding
        array = "[" + text.strip().replace("\n", ",") + "]"
        assert texts(rows_of(tmp_path, array.encode(encoding), "rows.json")) == read, encoding


def test_a_damaged_character_costs_one_row(tmp_path):
    text = lines_of("一", "二", "三").encode().replace("二".encode(), b"\xe4\xba")
    for data, name in ((text, "rows.jsonl"), (b"[" + text.replace(b"}\n", b"},\n") + b"]", "rows.json")):
        read = rows_of(tmp_path, data, name)
        assert [isinstance(row, Example) for row in read] == [True, False, True]
        assert texts(read)[1] == NOT_ITS_ENCODING
        assert read[1].origin.line == 2
    odd = (lines_of("一") + "x").encode("utf-16") + b"y"
    assert [type(row) for row in rows_of(tmp_path, odd)] == [Example, Quarantined]


CHINESE = ["他说的是什么意思？", "我不知道，你去问大家吧。"]


@pytest.mark.parametrize("first", ["utf-8", "gbk"])
def test_lines_of_gbk_and_of_utf8_in_one_file_are_both_read(tmp_path, first):
    second = {"utf-8": "gbk", "gbk": "utf-8"}[first]
    many = lines_of(*CHINESE * 2000).encode(first)  # more than what the encoding is judged by
    read = rows_of(tmp_path, many + lines_of(*CHINESE, "好").encode(second) + lines_of(*CHINESE).encode(first))
    wanted = [*CHINESE * 2000, *CHINESE, "好", *CHINESE]
    if second == "gbk":  # one character is too little to know Chinese by
        wanted[4002] = NOT_ITS_ENCODING
    assert texts(read) == wanted
    noted = [row.origin.line for row in read if isinstance(row, Example) and row.notes == (MIXED,)]
    assert noted == ([4001, 4002] if second == "gbk" else [])


def test_one_line_of_utf8_does_not_make_a_file_of_gbk_another(tmp_path):
    lines = [f'{{"prompt": "第{i}个问题是什么?请你详细回答一下", "completion": "这是第{i}个答案"}}' for i in range(60)]
    encoded = [line.encode("utf-8" if i == 20 else "gbk") for i, line in enumerate(lines)]
    read = rows_of(tmp_path, b"\n".join(encoded))
    assert [row.messages[1].content for row in read] == [f"这是第{i}个答案" for i in range(60)]


def test_a_line_that_is_neither_utf8_nor_chinese_is_quarantined(tmp_path):
    text = lines_of(*CHINESE).encode() + lines_of("데이터베이스의 색인과 질의").encode("euc_kr")
    assert texts(rows_of(tmp_path, text)) == [*CHINESE, NOT_ITS_ENCODING]


@pytest.mark.parametrize(("first", "second"), [("utf-8", "gbk"), ("gbk", "utf-8")])
def test_an_array_of_two_encodings_gives_no_wrong_text(tmp_path, first, second):
    head, tail = (json.dumps({"text": text}, ensure_ascii=False) for text in CHINESE)
    many = f"[{head},\n".encode(first) * 1 + f"{head},\n".encode(first) * 3000
    read = rows_of(tmp_path, many + f"{tail}]".encode(second), "rows.json")
    assert set(texts(read)) == {CHINESE[0], NOT_ITS_ENCODING}


def test_rows_in_a_guessed_encoding_say_so(tmp_path):
    text = "データベースの索引とクエリについて説明します。"
    for data, name in (
        (lines_of(text, text), "rows.jsonl"),
        (f'[{{"text": "{text}"}},\n{{"text": "{text}"}}]', "rows.json"),
    ):
        read = rows_of(tmp_path, data.encode("cp932"), name)
        assert texts(read) == [text, text]
        for row in read:
            assert isinstance(row, Example)
            assert row.notes == ("read as Shift-JIS (Japanese), which was guessed; save the file as UTF-8",)


@pytest.mark.parametrize("encoding", ["cp932", "euc_jp"])
def test_a_line_whose_bytes_could_begin_utf8_is_read_in_the_encoding_of_its_file(tmp_path, encoding):
    contents = ["午後から雲が増えるでしょう。", "コーヒーの淹れ方を教えてください。", "気温は二十五度です。"]
    read = rows_of(tmp_path, lines_of(*contents).encode(encoding))
    assert texts(read) == contents


def test_a_damaged_line_of_a_guessed_encoding_is_not_read_as_chinese(tmp_path):
    japanese = lines_of(*["午後から雲が増えるでしょう。"] * 2000).encode("cp932")
    read = rows_of(tmp_path, japanese + lines_of(CHINESE[1]).encode("gbk").replace(b'"}', b'\xff"}') + japanese)
    assert texts(read)[2000] == NOT_ITS_ENCODING
    assert sum(isinstance(row, Example) for row in read) == 4000


def test_half_a_character_costs_one_row_wherever_it_stands(tmp_path):
    text = '{"text": "a"}\n{"text": "b", "id": "\\ud83d"}\n{"text": "\\ud83d\\ude00"}\n'
    for data, name in ((text, "rows.jsonl"), ("[" + text.strip().replace("\n", ",") + "]", "rows.json")):
        read = rows_of(tmp_path, data, name)
        assert texts(read)[::2] == ["a", "😀"]
        assert "half a character" in texts(read)[1]


def test_numbers_that_orjson_refuses_are_read(tmp_path):
    nan, huge = rows_of(tmp_path, '{"text": "a", "k": NaN}\n{"text": "b", "k": 1e999}\n')
    assert isinstance(nan, Example)
    assert isinstance(huge, Example)
    assert nan.extra["k"] != nan.extra["k"]
    assert huge.extra["k"] == float("inf")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "the file is empty"),
        (b" \n", "the file is empty"),
        (b"\xef\xbb\xbf", "the file is empty"),
        (b"[]", "the file holds no rows"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a Git LFS pointer"),
        (bytes(range(256)) * 8 + b"\0\0" * 600, "not text"),
    ],
)
def test_a_file_without_rows_is_one_finding(tmp_path, data, says):
    (read,) = rows_of(tmp_path, data)
    assert isinstance(read, Quarantined)
    assert says in read.reason


def test_a_missing_file_and_a_folder_say_what_to_do(tmp_path):
    for read in (read_rows, blocks):
        with pytest.raises(SourceError, match="there is no file"):
            list(read(tmp_path / "none.jsonl", "none.jsonl", {}))
        with pytest.raises(SourceError, match="is a folder"):
            list(read(tmp_path, "folder", {}))


def test_an_object_that_holds_a_list_is_read_as_the_list(tmp_path):
    rows = [{"text": "a"}, {"text": "b"}]
    for whole in ({"data": rows}, {"version": "1", "train": rows, "by": {"x": [1]}}):
        for indent in (None, 1):
            assert texts(rows_of(tmp_path, json.dumps(whole, indent=indent), "rows.json")) == ["a", "b"]
    assert texts(rows_of(tmp_path, '{"data": [\n{"text": "a"},\n{"text": "b"}\n]}')) == ["a", "b"]


def test_any_other_object_is_one_row_however_it_is_set(tmp_path):
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    for indent in (None, 2):
        assert texts(rows_of(tmp_path, json.dumps(row, indent=indent), "rows.json")) == ["q"]
    two = json.dumps({"text": "a"}, indent=1) + "\n" + json.dumps({"text": "b"}, indent=1)
    assert texts(rows_of(tmp_path, two, "rows.json")) == ["a", "b"]


def test_what_stands_behind_an_array_is_not_passed_over(tmp_path):
    read = rows_of(tmp_path, '[{"text": "a"}]\nand more', "rows.json")
    assert isinstance(read[1], Quarantined)
    assert (read[1].text, read[1].origin.line) == ("and more", 2)


def test_a_line_that_is_too_long_is_left_out_with_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "CHUNK", 64)
    monkeypatch.setattr(rows_module, "LONGEST", 300)
    for ends in ("\n", ""):
        read = rows_of(tmp_path, lines_of("a", "b" * 1000, "c", "d" * 150, "e" * 500).removesuffix("\n") + ends)
        assert [len(text) for text in texts(read) if "bytes" not in text] == [1, 1, 150]
        assert [row.origin.line for row in read] == [1, 2, 3, 4, 5]
        assert "the line has 1,013 bytes, more than the 300" in texts(read)[1]
        assert isinstance(read[1], Quarantined)
        assert read[1].text.startswith('{"text": "bbb')
        assert isinstance(read[4], Quarantined)


def test_a_row_of_an_array_that_is_too_long_ends_the_reading(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "CHUNK", 64)
    monkeypatch.setattr(cursor_module, "CHUNK", 64)
    monkeypatch.setattr(cursor_module, "LONGEST", 300)
    read = rows_of(tmp_path, json.dumps([{"text": "a"}, {"text": "b" * 9000}, {"text": "c"}]), "rows.json")
    assert [type(row) for row in read] == [Example, Quarantined]
    assert "a row has more than 300 characters" in texts(read)[1]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 50])
def test_it_does_not_matter_where_the_pieces_are_cut(tmp_path, monkeypatch, chunk):
    contents = ["a", "二" * 9, "", '\\ " é', "{[1, 2]}", "c"]
    text = lines_of(*contents) + '{"text": "x", "n": [12345, 1.5e3, true, null]}\n'
    wanted = rows_of(tmp_path, text)
    monkeypatch.setattr(rows_module, "CHUNK", chunk)
    assert rows_of(tmp_path, text) == wanted
    array = rows_of(tmp_path, "[" + text.strip().replace("\n", ",\n") + "]", "rows.jsonl")
    assert array == wanted
    assert [row.origin.line for row in array] == [1, 2, 3, 4, 5, 6, 7]


def test_blocks_are_whole_lines_of_about_the_size_of_a_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "CHUNK", 1000)
    path = tmp_path / "rows.jsonl"
    path.write_text(lines_of(*(str(n) for n in range(1000))))
    pieces = [piece for piece in blocks(path, "rows.jsonl", {}) if isinstance(piece, Block)]
    assert 10 < len(pieces) < 30
    assert all(piece.data.endswith(b"\n") for piece in pieces)
    assert b"".join(piece.data for piece in pieces) == path.read_bytes()
    assert [str(row.origin) for piece in pieces for row in read_piece(piece)][-1] == "rows.jsonl:1000"


def test_columns_are_used_in_lines_and_in_arrays(tmp_path):
    row = {"Frage": "q", "Antwort": "a"}
    for name, text in (("rows.jsonl", json.dumps(row)), ("rows.json", json.dumps([row]))):
        path = tmp_path / name
        path.write_text(text)
        (read,) = read_rows(path, name, {"question": "Frage", "answer": "Antwort"})
        assert isinstance(read, Example)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('{"text": "a"}\n', True),
        ('\n\n{"text": "a"}', True),
        ('{"text": \n{"text": "b"}', True),
        ('{"text": "' + "a" * 100_000 + '"}\n', True),
        ("no JSON at all\n", True),
        ('[{"text": "a"}]', False),
        ('{\n  "text": "a"\n}', False),
        ('{"data": [{"text": "' + "a" * 100_000 + '"}]}', False),
        ("", False),
    ],
)
def test_lines_are_told_from_other_json_by_the_beginning(tmp_path, text, lines):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    assert is_lines(path) == lines


def test_a_huge_row_is_shown_in_part_with_its_size(tmp_path):
    (read,) = rows_of(tmp_path, json.dumps({"unknown": "x" * 100_000}))
    assert isinstance(read, Quarantined)
    assert len(read.text) == 2_000
    assert "(the row has 100,015 characters)" in read.reason


def test_deep_nesting_is_a_finding_not_a_crash(tmp_path):
    for text in ("[" * 5000, '{"text": "a", "k": ' + "[" * 900 + "]" * 900 + "}", '{"k":' * 5000, "9" * 5000):
        for name in ("rows.jsonl", "rows.json"):
            assert all(isinstance(row, Quarantined) for row in rows_of(tmp_path, text + "\n", name))


GOOD = [
    lines_of("a", "二" * 5, "c" * 30),
    json.dumps([{"text": "a"}, {"instruction": "问", "output": "答"}, {"text": "b"}], ensure_ascii=False, indent=1),
    json.dumps({"data": [{"prompt": "皇上好", "completion": "你好"}]}, ensure_ascii=False),
    '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\r\n{"text": "b"}\r\n',
]
MUTATIONS = {
    "flip": lambda data, at, byte: data[:at] + bytes([byte]) + data[at + 1 :],
    "cut": lambda data, at, byte: data[:at],
    "behead": lambda data, at, byte: data[at:],
    "nuls": lambda data, at, byte: data[:at] + b"\0" * (byte % 5) + data[at:],
    "mark": lambda data, at, byte: data[:at] + b"\xef\xbb\xbf" + data[at:],
    "newline": lambda data, at, byte: data[:at] + b"\r\n" + data[at:],
    "utf-16": lambda data, at, byte: data.decode("utf-8", "ignore").encode("utf-16"),
    "gbk": lambda data, at, byte: data.decode("utf-8", "ignore").encode("gbk", "ignore"),
    "twice": lambda data, at, byte: data + data,
}
steps = st.lists(st.tuples(st.sampled_from(sorted(MUTATIONS)), st.integers(0, 400), st.integers(0, 255)), max_size=5)


@settings(max_examples=300, deadline=None)
@given(good=st.sampled_from(GOOD), steps=steps, chunk=st.sampled_from([1 << 20, 5, 64]))
def test_no_mutation_of_a_good_file_makes_the_reader_fail(tmp_path_factory, good, steps, chunk):
    data = good.encode()
    for name, at, byte in steps:
        data = MUTATIONS[name](data, min(at, len(data)), byte)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "CHUNK", chunk)
        read = rows_of(tmp_path_factory.getbasetemp(), data)
    assert len(read) >= 1


@settings(deadline=None)
@given(data=st.binary(max_size=400))
@example(data=b'{"data": {"a": 1}, "data": [[[')
def test_no_bytes_make_the_reader_fail(tmp_path_factory, data):
    assert rows_of(tmp_path_factory.getbasetemp(), data, "fuzz.jsonl")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), min_size=1, max_size=5), st.data())
def test_every_line_is_accounted_for(tmp_path_factory, contents, data):
    broken = data.draw(st.integers(0, len(contents) - 1))
    lines = lines_of(*contents).split("\n")[:-1]
    lines[broken] = lines[broken][:-3]
    read = rows_of(tmp_path_factory.getbasetemp(), '{"text": "first"}\n' + "\n".join(lines))
    assert [row.origin.line for row in read] == list(range(1, len(contents) + 2))
    assert isinstance(read[broken + 1], Quarantined)


@pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is not here")
def test_every_row_of_huanhuan_is_read():
    for name in ("huanhuan.json", "huanhuan.jsonl"):
        rows = list(read_rows(SHARED / "huanhuan" / name, name, {}))
        assert len(rows) == 3729
        assert all(isinstance(row, Example) for row in rows)


@pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is not here")
@pytest.mark.parametrize(
    ("name", "count"),
    [("alpaca_en_demo", 999), ("alpaca_zh_demo", 1000), ("identity", 91), ("glaive_toolcall_en_demo", 300),
     ("dpo_en_demo", 300)],
)  # fmt: skip
def test_the_alpaca_files_are_read_without_being_described(name, count):
    rows = list(read_rows(SHARED / "alpaca" / f"{name}.json", name, {}))
    assert len(rows) == count
    assert all(isinstance(row, Example) for row in rows)


@pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is not here")
def test_the_guides_rows_are_taken_apart():
    path = SHARED / "wordpress" / "train-example.jsonl"
    rows = list(read_rows(path, path.name, {}))
    assert len(rows) == 10
    assert all([m.role for m in row.messages] == ["user", "assistant"] for row in rows if isinstance(row, Example))
    assert {row.notes for row in rows if isinstance(row, Example)} == {
        ("literal special tokens were taken apart into turns",)
    }
