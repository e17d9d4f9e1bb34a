from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.errors import SourceError
from tunesmith.sources.example import Example
from tunesmith.sources.quarantine import Quarantined
from tunesmith.sources.rows import read_rows

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def rows_of(tmp_path: Path, text: str | bytes, name: str = "rows.jsonl") -> list[Example | Quarantined]:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(read_rows(path))


def one(tmp_path: Path, row: object) -> Example | Quarantined:
    (read,) = rows_of(tmp_path, json.dumps(row, ensure_ascii=False))
    return read


def turns(example: Example | Quarantined) -> list[tuple[str, str, bool]]:
    assert isinstance(example, Example), example
    return [(m.role, m.content, m.learn) for m in example.messages]


def test_messages_learn_every_answer(tmp_path):
    row = {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"},
                        {"role": "assistant", "content": "a"}, {"role": "user", "content": "q2"},
                        {"role": "assistant", "content": "b", "weight": 0}, {"role": "user", "content": "q3"},
                        {"role": "assistant", "content": "c", "weight": 1}]}  # fmt: skip
    assert [learn for _, _, learn in turns(one(tmp_path, row))] == [False, False, True, False, False, False, True]


def test_prompt_and_completion_become_two_turns(tmp_path):
    assert turns(one(tmp_path, {"prompt": "q", "completion": "a"})) == [("user", "q", False), ("assistant", "a", True)]


def test_instruction_joins_its_input_and_keeps_system_and_history(tmp_path):
    row = {"instruction": "add", "input": "1 2", "output": "3", "system": "s", "history": [["hi", "hello"]]}
    assert turns(one(tmp_path, row)) == [
        ("system", "s", False), ("user", "hi", False), ("assistant", "hello", True),
        ("user", "add\n1 2", False), ("assistant", "3", True),
    ]  # fmt: skip


def test_text_is_learned_whole(tmp_path):
    assert turns(one(tmp_path, {"text": "all of it"})) == [("text", "all of it", True)]


def test_further_keys_are_kept_for_tasks(tmp_path):
    example = one(tmp_path, {"prompt": "q", "completion": "a", "table_id": "1-2"})
    assert isinstance(example, Example)
    assert example.extra == {"table_id": "1-2"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "q"}, "no known form"),
        ({"prompt": "q", "completion": ""}, "an answer is empty"),
        ({"prompt": " ", "completion": "a"}, "a question is empty"),
        ({"prompt": "q", "completion": 3}, '"completion" must be text'),
        ({"instruction": "q"}, '"output" is missing'),
        ({"messages": [{"role": "user", "content": "q"}]}, "no answer: the last turn is the user's"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "no question"),
        ({"messages": [{"role": "wizard", "content": "q"}]}, "'wizard' is not known"),
        ({"prompt": "q", "completion": "a\ud83d"}, "half a character"),
        ({"instruction": "q", "input": 5, "output": "a"}, '"input" must be text'),
        ({"instruction": "q", "output": "a", "history": 3}, '"history" must be a list'),
        ({"instruction": "q", "output": "a", "history": [["q", 1]]}, '"history" must be text'),
        ({"messages": [{"role": ["user"], "content": "q"}]}, "is not known"),
        ({"messages": []}, "must be a list"),
        ([1, 2], "a row must be a JSON object"),
        ("text", "a row must be a JSON object"),
    ],
)
def test_a_row_that_cannot_be_read_goes_to_quarantine_with_the_reason(tmp_path, row, reason):
    (read,) = rows_of(tmp_path, '{"text": "fine"}\n' + json.dumps(row))[1:]
    assert isinstance(read, Quarantined)
    assert reason in read.reason
    assert str(read.origin) == "rows.jsonl:2"


def test_broken_json_in_the_middle_costs_one_row(tmp_path):
    read = rows_of(tmp_path, '{"text": "a"}\n{"text": \n{"text": "b"}\n')
    assert [isinstance(r, Example) for r in read] == [True, False, True]
    assert "broken JSON" in read[1].reason


def test_an_array_gives_the_line_of_each_row(tmp_path):
    read = rows_of(tmp_path, '[\n {"text": "a"},\n\n {"text":\n  "b"},\n {"text": 1}\n]', "rows.json")
    assert [r.origin.line for r in read] == [2, 4, 6]


def test_an_array_cut_short_keeps_the_rows_before_the_cut(tmp_path):
    read = rows_of(tmp_path, '[{"text": "a"}, {"text": "b', "rows.json")
    assert isinstance(read[0], Example)
    assert isinstance(read[1], Quarantined)


def test_marks_crlf_utf16_and_odd_line_ends_are_read(tmp_path):
    text = '{"text": "é\u2028中"}\r\n{"text": "b"}\r\n'
    for data in (text.encode("utf-8-sig"), text.encode("utf-16")):
        assert [turns(r)[0][1] for r in rows_of(tmp_path, data)] == ["é\u2028中", "b"]


@pytest.mark.parametrize(
    ("data", "says"),
    [(b"", "is empty"), (b" \n", "is empty"), ('{"text": "a"}\n{"text": "数据"}'.encode("gbk"), "line 2 has the byte")],
)
def test_a_file_that_cannot_be_read_at_all_says_why(tmp_path, data, says):
    with pytest.raises(SourceError, match=says):
        rows_of(tmp_path, data)


def test_a_missing_file_and_a_folder_say_what_to_do(tmp_path):
    with pytest.raises(SourceError, match="there is no file"):
        list(read_rows(tmp_path / "none.jsonl"))
    with pytest.raises(SourceError, match="is a folder"):
        list(read_rows(tmp_path))


@given(st.binary(max_size=400))
def test_no_bytes_make_the_reader_fail_otherwise(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    path.write_bytes(data)
    with contextlib.suppress(SourceError):
        assert all(isinstance(row, Example | Quarantined) for row in read_rows(path))


def test_an_example_comes_back_from_its_file_as_it_was(tmp_path):
    example = one(tmp_path, {"instruction": "问", "output": "答", "k": [1]})
    assert isinstance(example, Example)
    again = Example.from_json(example.to_json())
    assert (again, again.extra, again.id) == (example, example.extra, example.id)


@pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is not here")
def test_every_row_of_huanhuan_is_read():
    rows = list(read_rows(SHARED / "huanhuan" / "huanhuan.json"))
    assert len(rows) == 3729
    assert all(isinstance(r, Example) for r in rows)
