from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_chat import write_chat

from tunesmith.dataset import decide, pool, prepare
from tunesmith.dataset.report import Tally, build_report
from tunesmith.dataset.split import PARTS
from tunesmith.errors import StorageError
from tunesmith.models.chat import ChatFormat
from tunesmith.settings import DataSettings, make_recipe
from tunesmith.sources.example import Origin
from tunesmith.sources.quarantine import Quarantined


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_chat(tmp_path / "chat")


def settings(tmp_path: Path, rows: list[Any], **data: Any) -> DataSettings:
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    return make_recipe({"data": {"sources": ["rows.jsonl"], **data}}, folder=tmp_path).data


def pairs(count: int, start: int = 0) -> list[Any]:
    return [{"prompt": f"question {i}", "completion": f"the answer is {i * i}"} for i in range(start, start + count)]


def build(data: DataSettings, model: Path, workers: int | None = None) -> tuple[Path, dict[str, Any]]:
    folder = Path(data.folder) / "dataset"
    for _ in prepare.prepare(data, model, folder, workers=workers):
        pass
    report = prepare.files.read_json(folder / "report.json")
    for account in [*report["sources"], report | {"rows": sum(report["rows"].values())}]:
        fates = sum(account[fate] for fate in ("rows", "quarantined", "merged", "removed"))
        assert account["inputs"] + account["divided"] == fates
    return folder, report


def lines(path: Path) -> list[Any]:
    return list(prepare.files.read_jsonl(path))


def answers(folder: Path, part: Any) -> list[str]:
    return [row.answer for row in prepare.read(folder, part)]


ALL = {"valid": 0, "test": 0}


def test_every_input_is_a_row_or_in_quarantine_with_its_place_and_text(tmp_path, model):
    folder, report = build(settings(tmp_path, [*pairs(40), {"prompt": "no answer"}, 7]), model)
    assert (report["inputs"], report["quarantined"]) == (42, 2)
    assert [(q["line"], q["text"]) for q in lines(folder / "quarantine.jsonl")] == [
        (41, '{"prompt": "no answer"}'),
        (42, "7"),
    ]


def test_the_tokens_are_those_of_the_rows(tmp_path, model):
    folder, report = build(settings(tmp_path, pairs(30)), model)
    chat = ChatFormat(model)
    for part in PARTS:
        tokens = prepare.tokens(folder, part)
        rows = list(prepare.read(folder, part))
        assert tokens.rows.tolist() == list(range(len(rows)))
        for i, row in enumerate(rows):
            ids, learn = tokens[i]
            assert chat.decode(ids[learn].tolist()) == row.answer
            assert chat.decode(ids.tolist()).startswith("user\nquestion")
    assert report["tokens"]["train"] == prepare.tokens(folder, "train").lengths.sum()


def test_adding_rows_moves_none(tmp_path, model):
    before, _ = build(settings(tmp_path, pairs(60)), model)
    seen = {part: set(answers(before, part)) for part in PARTS}
    after, _ = build(settings(tmp_path, pairs(90)), model)
    for part in PARTS:
        assert seen[part] <= set(answers(after, part))


def test_one_question_stays_on_one_side_whatever_its_case_spaces_and_marks(tmp_path, model):
    rows = [{"prompt": p, "completion": f"{i}"} for i in range(40) for p in (f"你好 Nr {i}？", f"你好,  nr {i}")]
    folder, report = build(settings(tmp_path, rows, split={"valid": 0.3, "test": 0.3}), model)
    sides = [set(answers(folder, part)) for part in PARTS]
    assert all(sides)
    assert sum(map(len, sides)) == 40
    assert not [f for f in report["findings"] if f["severity"] == "error"]


def test_rows_that_repeat_another_are_merged_and_written_down(tmp_path, model):
    folder, report = build(settings(tmp_path, [*pairs(20), *pairs(5)], split=ALL), model)
    assert (report["merged"], sum(report["rows"].values())) == (5, 20)
    removed = lines(folder / "removed.jsonl")
    assert [(r["origin"]["line"], r["of"]["line"]) for r in removed] == [(21 + i, 1 + i) for i in range(5)]
    kept = build(settings(tmp_path, [*pairs(20), *pairs(5)], split=ALL, clean={"duplicates": "keep"}), model)[1]
    assert kept["rows"]["train"] == 25


def test_a_row_in_train_and_in_a_test_file_of_its_own_is_only_measured_on(tmp_path, model):
    (tmp_path / "own.jsonl").write_text(json.dumps(pairs(1)[0]))
    folder, report = build(settings(tmp_path, pairs(10), split={"valid": 0, "test": ["own.jsonl"]}), model)
    assert answers(folder, "test") == ["the answer is 0"]
    assert "the answer is 0" not in answers(folder, "train")
    assert [s["merged"] for s in report["sources"]] == [1, 0]


def test_a_question_that_is_trained_and_measured_on_is_a_leak(tmp_path, model):
    (tmp_path / "own.jsonl").write_text(json.dumps({"prompt": "Question 3", "completion": "something else"}))
    _, report = build(settings(tmp_path, pairs(10), split={"valid": 0, "test": ["own.jsonl"]}), model)
    [error] = [f["message"] for f in report["findings"] if f["severity"] == "error"]
    assert "own.jsonl:1" in error
    assert "rows.jsonl:4" in error
    assert report["leaks"][0]["second"]["answer"] == "the answer is 9"


def test_two_files_that_measure_the_same_are_a_leak_too(tmp_path, model):
    for part, answer in (("valid", "one"), ("test", "two")):
        (tmp_path / f"{part}.jsonl").write_text(json.dumps({"prompt": "kept out", "completion": answer}))
    data = settings(tmp_path, pairs(10), split={"valid": ["valid.jsonl"], "test": ["test.jsonl"]})
    assert len(build(data, model)[1]["leaks"]) == 1


def test_a_leak_that_is_dropped_as_a_near_duplicate_is_none(tmp_path, model):
    long = "The quick brown fox jumps over the lazy dog and then goes home to sleep for the rest of the day"
    (tmp_path / "own.jsonl").write_text(json.dumps({"prompt": "What does it do?", "completion": long}))
    rows = [*pairs(10), {"prompt": "What does it do?", "completion": long + "."}]
    data = settings(tmp_path, rows, split={"valid": 0, "test": ["own.jsonl"]}, clean={"near_duplicates": "drop"})
    folder, report = build(data, model)
    assert report["leaks"] == []
    assert len(answers(folder, "test")) == 1


def test_rows_with_other_tools_do_not_repeat_each_other(tmp_path, model):
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    rows = [{"messages": turns, "tools": [{"name": name}]} for name in ("add", "take")]
    assert build(settings(tmp_path, [*pairs(5), *rows], split=ALL), model)[1]["merged"] == 0


def test_a_long_system_message_makes_no_rows_alike(tmp_path, model):
    data = settings(
        tmp_path, pairs(30), split=ALL, system="You are a patient teacher of numbers. " * 20, max_tokens=2000
    )
    assert build(data, model)[1]["near_duplicates"] == []


@pytest.mark.parametrize(("choice", "left"), [("keep", 12), ("first", 10), ("drop", 9)])
def test_one_question_with_many_answers_is_listed_and_treated_as_chosen(tmp_path, model, choice, left):
    more = [{"prompt": "question 3", "completion": answer} for answer in ("nine", "9")]
    _, report = build(settings(tmp_path, [*pairs(10), *more], split=ALL, clean={"conflicts": choice}), model)
    assert report["rows"]["train"] == left
    [conflict] = report["conflicts"]
    assert conflict["answers"] == ["the answer is 9", "nine", "9"]
    assert any("1 question has different answers" in f["message"] for f in report["findings"])


def test_near_duplicates_are_listed_or_dropped_or_not_looked_for(tmp_path, model):
    long = "The moon turns around the earth in about twenty-seven days, and shows it always the same side"
    rows = [
        *pairs(5),
        *({"prompt": f"moon {i}?", "completion": f"{long}{end}"} for i, end in enumerate((".", "!", ""))),
    ]
    folder, report = build(settings(tmp_path, rows, split=ALL), model)
    assert len(report["near_duplicates"]) == 2
    assert len(answers(folder, "train")) == 8
    folder, report = build(settings(tmp_path, rows, split=ALL, clean={"near_duplicates": "drop"}), model)
    assert (len(answers(folder, "train")), report["removed"]) == (6, 2)
    _, report = build(settings(tmp_path, rows, split=ALL, clean={"near_duplicates": "ignore"}), model)
    assert report["near_duplicates"] == []


def test_documents_are_divided_to_fit_lose_their_footers_and_stay_on_one_side(tmp_path, model):
    for i in range(12):
        body = "\n\n".join(f"## Part {j}\n\nSentence {i} {j} says something. " * 3 for j in range(4))
        (tmp_path / f"{i}.md").write_text(f"# Title {i}\n\n{body}\n\n---\n\nRead more at the blog of the author\n")
    data = make_recipe({"data": {"sources": [{"path": ".", "kind": "documents"}], "max_tokens": 300}}, folder=tmp_path)
    (tmp_path / "chat").rename(model := tmp_path.parent / f"{tmp_path.name}-chat")
    folder, report = build(data.data, model)
    assert report["inputs"] == 12
    assert report["divided"] > 12
    assert report["boilerplate"][0] == {"line": "Read more at the blog of the author", "documents": 12}
    sides = [{row.group for row in prepare.read(folder, part)} for part in PARTS]
    assert sum(map(len, sides)) == 12
    assert prepare.tokens(folder, "train").lengths.max() <= 300
    assert not any("Read more" in answer for part in PARTS for answer in answers(folder, part))


def test_long_rows_are_listed_with_what_they_lose(tmp_path, model):
    data = settings(tmp_path, [*pairs(20), {"prompt": "q", "completion": "x" * 200}], max_tokens=100, split=ALL)
    (cut,) = build(data, model)[1]["cut"]["worst"]
    assert cut["origin"] == "rows.jsonl:21"
    assert cut["tokens"] - cut["lost"] == 100


def test_a_row_whose_question_alone_fills_the_limit_is_quarantined(tmp_path, model):
    data = settings(tmp_path, [*pairs(20), {"prompt": "x" * 200, "completion": "a"}], max_tokens=100, split=ALL)
    folder, report = build(data, model)
    assert "no room for the answer" in lines(folder / "quarantine.jsonl")[0]["reason"]
    assert report["quarantined"] == 1


def test_nothing_to_train_on_is_an_error_with_the_first_reason(tmp_path, model):
    folder, report = build(settings(tmp_path, [{"a": 1}, {"b": 2}]), model)
    first = report["findings"][0]
    assert first["severity"] == "error"
    assert first["message"].startswith(
        "none of the 2 rows and documents can be trained on; the first, rows.jsonl:1: no "
    )
    assert [row["line"] for row in lines(folder / "quarantine.jsonl")] == [1, 2]


def test_one_row_that_cannot_be_trained_on_is_not_one_of_many(tmp_path, model):
    _, report = build(settings(tmp_path, [{"a": "b"}], split=ALL), model)
    assert report["findings"][0]["message"].startswith("it cannot be trained on, rows.jsonl:1: no known form")
    assert len(report["findings"]) == 1


def test_a_dataset_that_cannot_be_written_leaves_the_old_one(tmp_path, model, monkeypatch):
    folder, _ = build(settings(tmp_path, pairs(10)), model)
    before = (folder / "train.jsonl").read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepare.files, "write_json", full)
    with pytest.raises(StorageError, match="the disk is full"):
        build(settings(tmp_path, pairs(5)), model)
    assert (folder / "train.jsonl").read_bytes() == before
    assert not list(tmp_path.glob(".dataset*"))


def test_personal_data_is_reported_and_redacted_when_asked(tmp_path, model):
    rows = [*pairs(5), {"prompt": "Who helps?", "completion": "Write to zhang.wei@example.com"}]
    folder, report = build(settings(tmp_path, rows, split=ALL), model)
    assert "Write to zhang.wei@example.com" in answers(folder, "train")
    assert any("1 e-mail address" in f["message"] and "rows.jsonl:6" in f["message"] for f in report["findings"])
    folder, _ = build(settings(tmp_path, rows, split=ALL, clean={"redact": ["email"]}), model)
    assert "Write to [email]" in answers(folder, "train")


def test_preferences_are_kept_and_the_better_answer_is_trained_on(tmp_path, model):
    rows = [
        *pairs(5),
        {"prompt": "a?", "chosen": "good", "rejected": "bad"},
        {"prompt": "b?", "completion": "wrong", "label": False},
    ]
    folder, report = build(settings(tmp_path, rows, split=ALL), model)
    assert answers(folder, "train")[5:] == ["good"]
    kept = lines(folder / "preferences.jsonl")
    assert [(k["answer"], k.get("rejected"), k.get("label")) for k in kept] == [
        ("good", "bad", None),
        ("wrong", None, False),
    ]
    assert report["preferences"] == 2


def test_processes_give_the_same_bytes_as_one(tmp_path, model, monkeypatch):
    monkeypatch.setattr(prepare, "PIECE", 2000)
    monkeypatch.setattr("tunesmith.sources.rows.CHUNK", 2000)
    data = settings(tmp_path, [*pairs(400), *pairs(30), 7])
    monkeypatch.setattr(pool, "WORTH", 10**9)
    alone, _ = build(data, model)
    expected = {p.name: p.read_bytes() for p in alone.rglob("*") if p.is_file()}
    monkeypatch.setattr(pool, "WORTH", 0)
    together, _ = build(data, model, workers=2)
    assert {p.name: p.read_bytes() for p in together.rglob("*") if p.is_file()} == expected


KILLED = """
import os, sys
from tunesmith.dataset import pool

if __name__ == "__main__":
    made = pool.Pool(1)
    made.begin()
    made._begun.result()
    print(*made._executor._processes, flush=True)
    os.kill(os.getpid(), 9)
"""


def test_processes_end_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "killed.py").write_text(KILLED)
    run = subprocess.run([sys.executable, tmp_path / "killed.py"], capture_output=True, text=True, timeout=60)
    worker = int(run.stdout)
    for _ in range(200):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError(f"process {worker} still runs")


def test_the_worse_answer_of_a_pair_is_searched_and_redacted_too(tmp_path, model):
    rows = [*pairs(5), {"prompt": "Who helps?", "chosen": "Nobody.", "rejected": "Ask zhang.wei@example.com"}]
    folder, report = build(settings(tmp_path, rows, split=ALL, clean={"redact": ["email"]}), model)
    assert any("1 e-mail address in the rows" in f["message"] for f in report["findings"])
    assert "zhang.wei" not in "".join(path.read_text() for path in folder.glob("*.jsonl"))
    assert lines(folder / "preferences.jsonl")[0]["rejected"] == "Ask [email]"
    assert lines(folder / "preferences.jsonl")[0]["part"] == "train"


@pytest.mark.parametrize("seed", range(12))
def test_one_document_alone_is_trained_on(tmp_path, model, seed):
    (tmp_path / "book.md").write_text("# A book\n\n" + "It has words. " * 30)
    (tmp_path / "chat").rename(model := tmp_path.parent / f"{tmp_path.name}-chat")
    data = make_recipe({"data": {"sources": ["book.md"], "seed": seed}}, folder=tmp_path)
    _, report = build(data.data, model)
    assert report["rows"] == {"train": 1, "valid": 0, "test": 0}


def test_reasons_that_differ_in_names_and_numbers_are_one_finding(tmp_path, model):
    rows = [*pairs(5), *({"prompt": "q", f"key{i}": "x"} for i in range(30))]
    _, report = build(settings(tmp_path, rows, split=ALL), model)
    told = [f["message"] for f in report["findings"] if "quarantined" in f["message"]]
    assert len(told) == 1
    assert told[0].startswith("30 quarantined, the first at rows.jsonl:6: ")


def test_of_what_is_quarantined_the_first_of_every_kind_of_reason_are_in_the_report(tmp_path, model):
    rows = [*pairs(5), *({"prompt": "q", f"key{i}": "x" * 400} for i in range(8)), 7]
    folder, report = build(settings(tmp_path, rows, split=ALL), model)
    assert [item["origin"] for item in report["quarantine"]] == [f"rows.jsonl:{i}" for i in (6, 7, 8, 9, 10, 14)]
    written = lines(folder / "quarantine.jsonl")
    assert len(written) == report["quarantined"] == 9
    assert report["quarantine"][0] == {
        "origin": "rows.jsonl:6", "reason": written[0]["reason"], "text": written[0]["text"][:300] + "…",
    }  # fmt: skip
    assert report["quarantine"][-1]["text"] == "7"


def test_every_kind_of_reason_is_shown_before_any_is_shown_twice_and_fifty_are_in_all():
    tally = Tally([])
    for i in range(60):
        for kind in range(20):
            tally.count_reason(Quarantined(Origin("a", i + 1), f"reason {chr(97 + kind)}"))
    made = decide.Decisions(np.empty(0, np.int8), np.empty(0, np.int8), np.empty(0, np.int64))
    shown = build_report(tally, made, lambda row: None, DataSettings())["quarantine"]  # pyright: ignore[reportArgumentType]
    assert len(shown) == decide.SHOWN
    counts = Counter(item["reason"] for item in shown)
    assert len(counts) == 20
    assert set(counts.values()) == {2, 3}


def test_half_a_character_in_quarantine_can_be_written_in_the_report():
    tally = Tally([])
    tally.count_reason(Quarantined(Origin("a", 1), "no known form", "half \ud83d"))
    assert tally.reasons["no known form"].first[0]["text"] == "half \\ud83d"


def test_of_many_cut_rows_the_worst_are_reported_and_all_are_listed(tmp_path, model):
    rows = [*pairs(5), *({"prompt": f"q{i}", "completion": "x" * (100 + i)} for i in range(80))]
    folder, report = build(settings(tmp_path, rows, max_tokens=60, split=ALL), model)
    assert report["cut"]["rows"] == len(lines(folder / "cut.jsonl")) == 80
    assert report["cut"]["lost"] == sum(line["lost"] for line in lines(folder / "cut.jsonl"))
    assert [row["origin"] for row in report["cut"]["worst"]] == [f"rows.jsonl:{i}" for i in range(85, 35, -1)]


@pytest.mark.parametrize(
    "names", [("train.jsonl", "dev.jsonl", "test.csv"), ("训练.jsonl", "验证集.jsonl", "测试.csv")]
)
def test_a_folder_that_is_divided_already_gets_the_lines_that_use_it_so(tmp_path, model, names):
    (tmp_path / "set").mkdir()
    for number, name in enumerate(names[:2]):
        (tmp_path / "set" / name).write_text("\n".join(map(json.dumps, pairs(20, 100 * number))))
    (tmp_path / "set" / names[2]).write_text("question,answer\nq,a\n")
    (tmp_path / "more.jsonl").write_text(json.dumps(pairs(1, 900)[0]))
    data = make_recipe({"data": {"sources": ["set", "more.jsonl"]}}, folder=tmp_path).data
    [hint] = [f["message"] for f in build(data, model)[1]["findings"] if "divided already" in f["message"]]
    lines = re.fullmatch(r".* write \[data\] (sources = .*) and \[data.split\] (valid = .*) and (test = .*)", hint)
    assert lines is not None
    recipe = tomllib.loads(f"[data]\n{lines[1]}\n[data.split]\n{lines[2]}\n{lines[3]}")
    assert recipe["data"] == {
        "sources": [f"set/{names[0]}", "more.jsonl"],
        "split": {"valid": [f"set/{names[1]}"], "test": [f"set/{names[2]}"]},
    }
    report = build(make_recipe(recipe, folder=tmp_path).data, model)[1]
    assert report["rows"] == {"train": 21, "valid": 20, "test": 1}
    assert not [f for f in report["findings"] if "divided already" in f["message"]]


def test_a_divided_folder_is_told_however_deep_it_lies(tmp_path, model):
    (tmp_path / "repo" / "data" / "v1").mkdir(parents=True)
    for number, name in enumerate(("train-00000.jsonl", "test-00000.jsonl")):
        (tmp_path / "repo" / "data" / "v1" / name).write_text("\n".join(map(json.dumps, pairs(20, 100 * number))))
    data = make_recipe({"data": {"sources": ["repo"]}}, folder=tmp_path).data
    [hint] = [f["message"] for f in build(data, model)[1]["findings"] if "divided already" in f["message"]]
    assert hint.startswith("the files of repo/data/v1 are named as divided already")
    assert 'test = ["repo/data/v1/test-00000.jsonl"]' in hint


def test_too_few_rows_to_measure_with_are_told(tmp_path, model):
    def told(rows, **split):
        report = build(settings(tmp_path, pairs(rows), split=split), model)[1]
        return [f["message"].partition(";")[0] for f in report["findings"]]

    (tmp_path / "own.jsonl").write_text(json.dumps({"prompt": "Who?", "completion": "Nobody"}))
    few = ["only 1 valid row: hardly enough to choose the best checkpoint with"]
    assert told(20, valid=["own.jsonl"], test=0) == [*few, "no test rows: nothing to measure the result with"]
    assert told(100, valid=0.1, test=0.3) == []


def test_a_note_on_rows_says_where_the_first_is(tmp_path, model):
    rows = [*pairs(20), {"prompt": "q", "completion": "Dear {{ name }}"}]
    found = [f["message"] for f in build(settings(tmp_path, rows, split=ALL), model)[1]["findings"]]
    assert any(message.startswith("1 row at rows.jsonl:21: an answer holds {{") for message in found)
