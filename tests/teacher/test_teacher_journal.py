from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tunesmith.errors import StorageError
from tunesmith.teacher import journal as room
from tunesmith.teacher.journal import Journal
from tunesmith.teacher.request import Reply, Request


def request(text: str, **values) -> Request:
    return Request(**{"messages": (("user", text),), "model": "m", "temperature": 0.5, "max_tokens": 64, **values})


def test_what_was_answered_is_found_again_by_another_start(tmp_path: Path):
    journal = Journal(tmp_path / "journal.jsonl")
    for i in range(50):
        journal.add(request(f"q{i}" * 5000), Reply(f"答{i}" * 9000, False, 3, 4))
    journal.close()
    again = Journal(tmp_path / "journal.jsonl")
    assert again.find(request("q7" * 5000)) == Reply("答7" * 9000, False, 3, 4)
    assert again.find(request("q50")) is None
    assert (len(again), again.tokens_in, again.tokens_out) == (50, 150, 200)
    again.close()


@pytest.mark.parametrize(
    "other", [{"model": "n"}, {"temperature": 0.6}, {"max_tokens": 65}, {"schema": {"type": "object"}}]
)
def test_another_setting_is_another_request(other):
    assert request("q", **other).key != request("q").key


def test_a_line_that_a_crash_tore_is_dropped_and_the_next_is_whole(tmp_path: Path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.add(request("a"), Reply("A", False, 1, 1))
    journal.add(request("b"), Reply("B", False, 1, 1))
    journal.close()
    whole = path.read_bytes()
    for cut in range(1, len(whole.splitlines(keepends=True)[1])):
        path.write_bytes(whole[:-cut])
        journal = Journal(path)
        assert (len(journal), journal.find(request("b"))) == (1, None)
        journal.add(request("b"), Reply("B", False, 1, 1))
        journal.close()
        assert path.read_bytes() == whole


def test_a_line_in_the_middle_that_the_disk_lost_costs_itself_alone(tmp_path: Path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    for text in "abc":
        journal.add(request(text), Reply(text, False, 1, 1))
    journal.close()
    rows = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(rows[0] + b"\0" * (len(rows[1]) - 1) + b"\n" + rows[2])
    journal = Journal(path)
    assert [journal.find(request(t)) is not None for t in "abc"] == [True, False, True]
    journal.close()


def test_many_threads_write_whole_lines(tmp_path: Path):
    journal = Journal(tmp_path / "journal.jsonl")

    def work(name: str) -> None:
        for i in range(20):
            journal.add(request(f"{name}{i}"), Reply(name * 50, False, 1, 1))

    threads = [threading.Thread(target=work, args=[name]) for name in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert journal.find(request("c7")) == Reply("c" * 50, False, 1, 1)
    journal.close()
    assert len(Journal(tmp_path / "journal.jsonl")) == 160


def test_a_full_disk_is_said_and_leaves_no_half_line(tmp_path: Path, monkeypatch):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.add(request("a"), Reply("A", False, 1, 1))
    before, real = path.read_bytes(), room.os.write
    monkeypatch.setattr(room.os, "write", lambda handle, data: real(handle, data[:10]))
    with pytest.raises(StorageError, match="the disk is full"):
        journal.add(request("b"), Reply("B", False, 1, 1))
    monkeypatch.undo()
    journal.close()
    assert path.read_bytes() == before
