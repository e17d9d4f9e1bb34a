"""What goes wrong on the way costs time, and nothing else: no question is lost, doubled or paid for twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from fake_teacher import FakeTeacher, seeded, serving
from taught import adds_up, documents, lines, report, teach

from tunesmith.errors import TeacherError

CHILD = """
import json, sys
from pathlib import Path
from taught import teach
teach(Path(sys.argv[1]), sys.argv[2], **json.loads(sys.argv[3]))
"""


def test_under_faults_and_restarts_every_question_becomes_a_row_or_is_quarantined(tmp_path: Path, quick):
    documents(tmp_path, 20)
    shares = {"429": 0.05, "500": 0.05, "timeout": 0.05, "cut": 0.02, "prose": 0.02}
    with serving(plan=seeded(1, shares), seconds=0.005) as fake:
        fake.retry_after = "0.05"
        threading.Thread(target=restart_twice, args=[fake], daemon=True).start()
        teach(tmp_path, fake.url, parallel=8, timeout=0.4, held_out=0.2)
        assert fake.too_early == 0
        assert max(Counter(fake.answered).values()) <= 2  # a second time after a timeout alone
    found = report(tmp_path)
    assert adds_up(found)
    assert found["asked_about"]["passage"]["lost"] == {}
    assert found["questions"] >= 20 * 4 * 2
    assert found["rows"] >= 150  # the others were answered with prose, which the passage does not support
    asked = [row["messages"][0]["content"] for row in lines(tmp_path)]
    assert len(set(asked)) == len(asked)
    assert sum(found["quarantined"].values()) <= 8


def restart_twice(fake: FakeTeacher) -> None:
    for seen in (20, 60):
        while len(fake.seen) < seen:
            time.sleep(0.005)
        fake.stop()
        time.sleep(0.05)
        fake.start()


def test_killed_twenty_times_the_rows_are_those_of_a_run_never_interrupted(tmp_path: Path):
    documents(tmp_path / "whole", 16)
    documents(tmp_path / "killed", 16)
    values = {"parallel": 4, "held_out": 0.2}
    with serving() as fake:
        teach(tmp_path / "whole", fake.url, **values)
    with serving(seconds=0.01) as fake:
        journal = tmp_path / "killed" / "teacher" / "journal.jsonl"
        for number in range(20):
            before = answered(journal)
            sent = len(fake.seen)
            child = start(tmp_path / "killed", fake.url, values)
            while len(fake.seen) < sent + 3 and child.poll() is None:
                time.sleep(0.002)
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            time.sleep(0.02)  # what is under way in the server comes to nothing
            again = {key(body) for body in fake.seen[sent:]} & before
            assert not again, f"start {number} asked again what was answered"
        assert start(tmp_path / "killed", fake.url, values).wait() == 0
    for name in ("rows", "held-out", "quarantine"):
        assert lines(tmp_path / "killed", name) == lines(tmp_path / "whole", name)
    assert report(tmp_path / "killed") == report(tmp_path / "whole")


def start(folder: Path, url: str, values: dict) -> subprocess.Popen:
    places = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", CHILD, str(folder), url, json.dumps(values)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": places})


def answered(journal: Path) -> set[str]:
    rows = journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []
    return {key(json.loads(row)["request"]) for row in rows}


def key(body: dict) -> str:
    return json.dumps(body["messages"])


def test_a_server_that_dies_for_good_keeps_what_it_answered(tmp_path: Path, quick, monkeypatch):
    monkeypatch.setattr("tunesmith.teacher.client.TRIES", 3)
    documents(tmp_path, 6)
    with serving() as fake:
        before = len(teach(tmp_path, fake.url, "other"))
        assert before
        fake.plan = lambda key, times: "500" if len(fake.answered) > 45 else None
        with pytest.raises(TeacherError, match="the same command goes on from there"):
            teach(tmp_path, fake.url)
        kept = len(answered(tmp_path / "teacher" / "journal.jsonl"))
        assert kept > 5
        fake.plan = None
        sent = len(fake.seen)
        teach(tmp_path, fake.url)
        assert len(fake.seen) - sent == 30 - kept
