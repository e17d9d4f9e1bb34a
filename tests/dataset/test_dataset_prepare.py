from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_chat import write_chat

from tunesmith.dataset import prepare
from tunesmith.errors import SourceError
from tunesmith.models.chat import ChatFormat
from tunesmith.settings import DataSettings, make_recipe


def settings(tmp_path: Path, rows: list[object], **data: object) -> DataSettings:
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    return make_recipe({"data": {"sources": ["rows.jsonl"], **data}}, folder=tmp_path).data


def pairs(count: int) -> list[object]:
    return [{"prompt": f"question {i}", "completion": "an answer"} for i in range(count)]


@pytest.fixture
def chat(tmp_path: Path) -> ChatFormat:
    return ChatFormat(write_chat(tmp_path / "chat"))


def test_every_input_is_a_row_or_in_quarantine(tmp_path, chat):
    data = settings(tmp_path, [*pairs(40), {"prompt": "no answer"}, 7])
    report = prepare.write(prepare.build(data, chat), tmp_path / "dataset", data)
    assert report["inputs"] == 42 == sum(report["rows"].values()) + report["quarantined"]
    quarantine = list(prepare.files.read_jsonl(tmp_path / "dataset" / "quarantine.jsonl"))
    assert [(q["line"], q["text"]) for q in quarantine] == [(41, '{"prompt": "no answer"}'), (42, "7")]


def test_rows_come_back_as_they_were_written(tmp_path, chat):
    data = settings(tmp_path, pairs(30))
    dataset = prepare.build(data, chat)
    prepare.write(dataset, tmp_path / "dataset", data)
    assert prepare.read(tmp_path / "dataset", "train") == dataset.rows["train"]


def test_adding_rows_moves_none(tmp_path, chat):
    before = prepare.build(settings(tmp_path, pairs(60)), chat).rows
    after = prepare.build(settings(tmp_path, pairs(90)), chat).rows
    for part in prepare.PARTS:
        assert {r.id for r in before[part]} <= {r.id for r in after[part]}


def test_long_rows_are_listed_with_what_they_lose(tmp_path, chat):
    data = settings(
        tmp_path, [*pairs(20), {"prompt": "q", "completion": "x" * 200}], max_tokens=100, split={"valid": 0, "test": 0}
    )
    (cut,) = prepare.report(prepare.build(data, chat), data)["cut"]
    assert cut["origin"] == "rows.jsonl:21"
    assert cut["tokens"] - cut["lost"] == 100


def test_a_row_whose_question_alone_fills_the_limit_is_put_aside(tmp_path, chat):
    data = settings(
        tmp_path, [*pairs(20), {"prompt": "x" * 200, "completion": "a"}], max_tokens=100, split={"valid": 0, "test": 0}
    )
    dataset = prepare.build(data, chat)
    assert "no room for the answer" in dataset.quarantine[0].reason
    assert dataset.inputs == len(dataset.quarantine) + sum(len(r) for r in dataset.rows.values())


def test_files_of_their_own_for_test_are_used_as_they_are(tmp_path, chat):
    (tmp_path / "own.jsonl").write_text(json.dumps({"prompt": "kept out", "completion": "yes"}))
    dataset = prepare.build(settings(tmp_path, pairs(10), split={"valid": 0, "test": ["own.jsonl"]}), chat)
    assert [r.answer for r in dataset.rows["test"]] == ["yes"]
    assert len(dataset.rows["train"]) == 10


def test_nothing_to_train_on_is_an_error_with_the_first_reason(tmp_path, chat):
    with pytest.raises(SourceError, match=r"none of the 2 rows.*rows.jsonl:1: no known form"):
        prepare.build(settings(tmp_path, [{"a": 1}, {"b": 2}]), chat)


def test_a_dataset_that_cannot_be_written_leaves_the_old_one(tmp_path, chat, monkeypatch):
    data = settings(tmp_path, pairs(10))
    prepare.write(prepare.build(data, chat), tmp_path / "dataset", data)
    before = (tmp_path / "dataset/train.jsonl").read_bytes()
    monkeypatch.setattr(
        prepare.files, "write_json", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(prepare.files.StorageError, match="the disk is full"):
        prepare.write(prepare.build(settings(tmp_path, pairs(5)), chat), tmp_path / "dataset", data)
    assert (tmp_path / "dataset/train.jsonl").read_bytes() == before
    assert not list(tmp_path.glob(".dataset*"))
