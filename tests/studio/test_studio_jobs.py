"""Processes that the studio starts: they live on without it, are found again, and are never mistaken."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tunesmith.errors import RunError
from tunesmith.machine import record_of
from tunesmith.run import RunFolder
from tunesmith.studio import jobs

PATIENT = """
import signal, sys
def stop(*_):
    print("tunesmith: stopped after step 3; the same command continues from here", flush=True)
    sys.exit(130)
signal.signal(signal.SIGINT, stop)
print("begins", *sys.argv[1:], flush=True)
signal.pause()
"""

HOLDS = """
import signal, sys
from pathlib import Path
from tunesmith.run import RunFolder
with RunFolder(Path(sys.argv[1])).lock():
    print("held", flush=True)
    signal.pause()
"""


def until(condition: Callable[[], bool]) -> None:
    """Wait for another process, at most half a minute: machines are busy."""
    for _ in range(1500):
        if condition():
            return
        threading.Event().wait(0.02)
    raise AssertionError("it did not happen")


@pytest.fixture
def patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A run folder whose process works until it is asked to stop."""
    monkeypatch.setattr(jobs, "PROGRAM", [sys.executable, "-c", PATIENT])
    yield tmp_path / "runs" / "one"
    jobs.end(tmp_path / "runs" / "one")


def test_a_run_is_a_process_of_its_own_that_saves_when_it_is_stopped(patient, tmp_path):
    jobs.start(tmp_path / "one.toml", patient)
    until(lambda: bool(jobs.log_lines(patient)))
    assert jobs.log_lines(patient) == [f"begins run {tmp_path / 'one.toml'} --run {patient}"]
    pid = json.loads((patient / jobs.RECORD).read_text())["pid"]
    assert os.getsid(pid) == pid != os.getsid(0)  # what ends the studio's terminal does not reach it
    jobs.stop(patient)
    until(lambda: not jobs.running(patient))
    assert jobs.said(patient) == "stopped after step 3; the same command continues from here"


def test_it_is_found_by_a_studio_that_was_started_again(patient):
    jobs.start(patient.parent / "one.toml", patient)
    look = "import sys, pathlib, tunesmith.studio.jobs as jobs; print(jobs.running(pathlib.Path(sys.argv[1])))"
    other = subprocess.run([sys.executable, "-c", look, str(patient)], capture_output=True, text=True, check=True)
    assert other.stdout == "True\n"


def test_a_second_start_in_the_same_folder_is_refused(patient):
    jobs.start(patient.parent / "one.toml", patient)
    with pytest.raises(RunError, match="at work in one already"):
        jobs.start(patient.parent / "one.toml", patient)


def test_it_is_asked_to_stop_only_once_because_a_second_time_does_not_save(patient, monkeypatch):
    jobs.start(patient.parent / "one.toml", patient)
    sent = []
    with monkeypatch.context() as patch:
        patch.setattr(psutil.Process, "send_signal", lambda process, number: sent.append(number))
        jobs.stop(patient)
        jobs.stop(patient)
    assert len(sent) == 1
    assert jobs.stopping(patient)


def test_a_run_of_a_terminal_is_found_by_its_lock_and_only_while_it_works(tmp_path):
    with RunFolder(tmp_path).lock():
        assert jobs.running(tmp_path)
    assert not jobs.running(tmp_path)


def test_a_killed_process_leaves_its_record_in_the_lock_and_others_do_not(tmp_path):
    held = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE)
    with held:
        assert held.stdout.readline() == b"held\n"
        assert (jobs.running(tmp_path), jobs.killed(tmp_path)) == (True, False)
        held.kill()
    assert (jobs.running(tmp_path), jobs.killed(tmp_path)) == (False, True)
    with RunFolder(tmp_path).lock():
        assert not jobs.killed(tmp_path)
    assert not jobs.killed(tmp_path)


def test_a_number_that_was_given_to_another_program_is_not_the_run(tmp_path):
    record = record_of(os.getpid())
    (tmp_path / ".lock").write_text(json.dumps(record))
    assert jobs.running(tmp_path)
    (tmp_path / ".lock").write_text(json.dumps({**record, "created": record["created"] - 3600}))
    assert not jobs.running(tmp_path)
    jobs.stop(tmp_path)  # would be a SIGINT to this test


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}', '{"pid": -1, "created": 0}', '{"pid": 1e99}'])
def test_a_damaged_record_is_no_process(tmp_path, content):
    (tmp_path / jobs.RECORD).write_text(content)
    assert not jobs.running(tmp_path)


def test_what_a_terminal_did_since_makes_an_old_sentence_old(tmp_path):
    (tmp_path / jobs.LOG).write_text("tunesmith: the disk is full\n")
    assert jobs.said(tmp_path) == "the disk is full"
    (tmp_path / "progress.jsonl").write_text("{}\n")
    os.utime(tmp_path / jobs.LOG, (1, 1))
    assert jobs.said(tmp_path) == ""
