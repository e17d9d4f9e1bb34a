"""LLaMA-Factory's registry is read as it stands, and says what to do where it does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.errors import SourceError
from tunesmith.settings import SourceTable
from tunesmith.sources.example import Example
from tunesmith.sources.quarantine import Quarantined
from tunesmith.sources.read import read_source
from tunesmith.sources.registry import FILE, read_registered, registered
from tunesmith.sources.rows import read_rows

ALPACA = Path(__file__).parents[2].parent / "shared" / "data" / "alpaca"
PAIR = [("user", "q"), ("assistant", "a")]


def read(folder: Path, entry: dict[str, Any], *rows: Any) -> list[Example | Quarantined]:
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / FILE).write_text(json.dumps({"mine": {"file_name": "rows.json", **entry}}))
    return list(read_registered(folder / FILE, "mine", f"{FILE}#mine"))


def turns(row: Example | Quarantined) -> list[tuple[str, str]]:
    assert isinstance(row, Example), row
    return [(message.role, message.content) for message in row.messages]


def test_columns_of_an_alpaca_entry_are_mapped(tmp_path):
    columns = {"prompt": "ask", "query": "with", "response": "say", "system": "sys", "history": "past"}
    row = {"ask": "q", "with": "w", "say": "a", "sys": "s", "past": [["x", "y"]], "messages": "kept", "id": 7}
    (example,) = read(tmp_path, {"columns": columns}, row)
    assert turns(example) == [("system", "s"), ("user", "x"), ("assistant", "y"), ("user", "q\nw"), ("assistant", "a")]
    assert isinstance(example, Example)
    assert example.extra == {"messages": "kept", "id": 7}
    assert str(example.origin) == "rows.json:1"


def test_tags_of_a_sharegpt_entry_are_mapped(tmp_path):
    entry = {"formatting": "sharegpt", "columns": {"messages": "talk", "system": "sys", "tools": "can"},
             "tags": {"role_tag": "who", "content_tag": "said", "user_tag": "me", "assistant_tag": "it",
                      "observation_tag": "seen", "function_tag": "do"}}  # fmt: skip
    talk = [("me", "q"), ("do", '{"name": "f", "arguments": {}}'), ("seen", "3"), ("it", "a")]
    row = {"talk": [{"who": who, "said": said} for who, said in talk], "sys": "s", "can": '[{"name": "f"}]'}
    (example,) = read(tmp_path, entry, row)
    assert [role for role, _ in turns(example)] == ["system", "user", "assistant", "tool", "assistant"]
    assert isinstance(example, Example)
    assert example.extra == {"tools": [{"type": "function", "function": {"name": "f"}}]}


def test_ranking_and_kto_entries_keep_what_they_say_of_answers(tmp_path):
    ranking = {"ranking": True, "columns": {"prompt": "ask", "chosen": "good", "rejected": "bad"}}
    (example,) = read(tmp_path, ranking, {"ask": "q", "good": "a", "bad": "b"})
    assert turns(example) == PAIR
    assert isinstance(example, Example)
    assert example.extra == {"rejected": "b"}
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    kto = {"formatting": "sharegpt", "columns": {"messages": "completion", "kto_tag": "is_good"}, "tags": tags}
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    (example,) = read(tmp_path, kto, {"completion": talk, "prompt": "q", "is_good": False})
    assert turns(example) == PAIR
    assert isinstance(example, Example)
    assert example.extra == {"prompt": "q", "label": False}


def test_an_entry_with_a_prompt_alone_is_raw_text(tmp_path):
    (example,) = read(tmp_path, {"columns": {"prompt": "raw"}}, {"raw": "all of it", "url": "u"})
    assert turns(example) == [("text", "all of it")]


def test_a_row_that_does_not_fit_its_entry_is_quarantined(tmp_path):
    rows = read(tmp_path, {"columns": {"prompt": "ask"}}, {"frage": "q"}, "no row", {"ask": "q", "output": ""})
    assert [row.reason for row in rows if isinstance(row, Quarantined)] == [
        'dataset_info.json names the column "ask", and the row has no such key; it has "frage"',
        'a row must be a JSON object, with "messages", "prompt"/"completion", "instruction"/"output" or "text"',
        "an answer is empty",
    ]


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"hf_hub_url": "a/b", "ms_hub_url": "c/d"}, "name it as hf:a/b"),
        ({"hf_hub_url": "a/b", "file_name": "none.json"}, "name it as hf:a/b"),
        ({"ms_hub_url": "c/d"}, "name it as modelscope:c/d"),
        ({"script_url": "x"}, "as hf:OWNER/NAME"),
        ({"file_name": "none.json"}, "there is no file"),
        ({"file_name": "wiki.txt"}, "which is not JSON; name .*wiki.txt itself"),
        ({"file_name": "a.json", "columns": [1]}, "\"columns\" of 'mine' must be an object"),
        ([], "is no registry"),
    ],
)
def test_an_entry_without_a_file_of_rows_says_what_to_name(tmp_path, entry, says):
    (tmp_path / FILE).write_text(json.dumps({"mine": entry}))
    with pytest.raises(SourceError, match=says):
        list(read_registered(tmp_path / FILE, "mine", "mine"))


def test_an_unknown_name_names_the_nearest(tmp_path):
    read(tmp_path, {})
    with pytest.raises(SourceError, match="no data set 'mime'; the nearest is 'mine'"):
        list(read_registered(tmp_path / FILE, "mime", "mime"))


@pytest.mark.parametrize("text", ["", "[]", "{", "3", '{"a": 3}'])
def test_a_broken_registry_is_an_error_when_named_and_nothing_when_it_only_lies_there(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(SourceError, match=FILE):
        list(read_registered(tmp_path / FILE, "mine", "mine"))
    assert registered(tmp_path, "rows.json") is None


def test_a_file_finds_its_entry_unless_two_differ(tmp_path):
    assert registered(tmp_path, "rows.json") is None
    entries = {
        "a": {"file_name": "x.json"},
        "b": {"file_name": "y.json"},
        "c": {"file_name": "y.json", "ranking": True},
    }
    (tmp_path / FILE).write_text(json.dumps(entries))
    assert [registered(tmp_path, name) for name in ("x.json", "y.json", "z.json")] == ["a", None, None]


@pytest.mark.skipif(not ALPACA.exists(), reason="../shared/data is not here")
@pytest.mark.parametrize(
    ("name", "count"),
    [("alpaca_en_demo", 999), ("alpaca_zh_demo", 1000), ("identity", 91), ("glaive_toolcall_en_demo", 300),
     ("dpo_en_demo", 300)],
)  # fmt: skip
def test_the_registry_and_recognition_read_the_same(name, count):
    assert registered(ALPACA, f"{name}.json") == name
    by_entry = list(read_registered(ALPACA / FILE, name, name))
    by_itself = list(read_rows(ALPACA / f"{name}.json", name, {}))
    assert len(by_entry) == count
    assert all(isinstance(row, Example) for row in by_entry)
    assert by_entry == by_itself
    assert [row.to_json() for row in by_entry if isinstance(row, Example)] == [
        row.to_json() for row in by_itself if isinstance(row, Example)
    ]


def test_a_name_like_no_other_is_answered_with_the_names_there_are(tmp_path):
    path = tmp_path / "dataset_info.json"
    path.write_text(json.dumps({f"set{n:02}": {"file_name": "a.json"} for n in range(12)}))
    with pytest.raises(SourceError, match=r"has no data set 'zzz'; it has 'set00', .*'set09' and 2 more"):
        list(read_registered(path, "zzz", "x"))


def test_a_registry_named_alone_asks_for_one_of_its_data_sets(tmp_path):
    (tmp_path / "dataset_info.json").write_text(json.dumps({"mine": {"file_name": "a.json"}}))
    with pytest.raises(SourceError, match=r"name one, .dataset_info.json#NAME.; it has .mine."):
        list(read_source(SourceTable(path="dataset_info.json"), tmp_path))
