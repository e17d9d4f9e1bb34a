from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tunesmith.dataset.pool import WORTH, Pool
from tunesmith.errors import OutOfMemory


def slowly(task: int) -> tuple[int, int]:
    """The task, and the process that did it."""
    time.sleep(0.02)
    return task, os.getpid()


def refused(task: int) -> int:
    if task == 2 * WORTH:
        raise ValueError("this one")
    return task


def killed_elsewhere(parent: int) -> None:
    if os.getpid() != parent:
        os.kill(os.getpid(), 9)
    time.sleep(0.02)


def test_a_few_tasks_are_done_right_here():
    with Pool(2) as pool:
        assert {process for _, process in pool.map(slowly, range(WORTH))} == {os.getpid()}


def test_many_tasks_come_back_in_order_from_several_processes():
    with Pool(2) as pool:
        made = list(pool.map(slowly, range(400)))
    assert [task for task, _ in made] == list(range(400))
    assert len({process for _, process in made}) > 1


def test_what_a_task_raises_is_raised_and_the_rest_given_up():
    with Pool(2) as pool, pytest.raises(ValueError, match="this one"):
        list(pool.map(refused, range(10_000)))


def test_a_process_that_is_killed_is_told_as_want_of_memory():
    with Pool(1) as pool, pytest.raises(OutOfMemory, match="was killed, most likely for want of memory"):
        list(pool.map(killed_elsewhere, [os.getpid()] * 2000))


def test_a_script_without_a_guard_is_told_what_it_lacks(tmp_path: Path):
    script = tmp_path / "mine.py"
    script.write_text(
        "import time\nfrom tunesmith.dataset.pool import Pool\n"
        "with Pool(1) as pool:\n    print(list(pool.map(time.sleep, [0.05] * 200)))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert 'under `if __name__ == "__main__":`' in done.stderr.splitlines()[-1]


def test_few_tasks_are_taken_ahead_of_what_is_asked_for():
    taken = []
    with Pool(2) as pool:
        pool.begin()
        assert pool._begun is not None
        pool._begun.result()
        for done, _ in enumerate(pool.map(abs, (taken.append(i) or i for i in range(200))), 1):
            assert len(taken) <= done + 4
    assert len(taken) == 200


def test_when_nobody_asks_further_the_pool_goes_on_with_other_work():
    with Pool(2) as pool:
        pool.begin()
        made = pool.map(slowly, range(10_000))
        next(made)
        made.close()
        assert list(pool.map(abs, [-1, -2])) == [1, 2]


def test_a_pool_ends_though_its_processes_have_only_begun():
    with Pool(1) as pool:
        pool.begin()
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool._submit(abs, 1)


STOPPED = """
import os, signal, sys, time
from tunesmith.dataset.pool import Pool

if __name__ == "__main__":
    with Pool(2) as pool:
        pool.begin()
        if sys.argv[1] == "later":
            pool._begun.result()
        print("begun", flush=True)
        try:
            for _ in pool.map(time.sleep, [0.05] * 400):
                pass
        except KeyboardInterrupt:
            print("stopped", flush=True)
"""


@pytest.mark.parametrize("when", ["at once", "later"])
def test_ctrl_c_stops_the_work_and_no_process_complains(tmp_path: Path, when: str):
    (tmp_path / "stopped.py").write_text(STOPPED)
    command = [sys.executable, tmp_path / "stopped.py", when]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert run.stdout is not None
    assert run.stdout.readline() == "begun\n"
    time.sleep(0.2)
    os.killpg(run.pid, signal.SIGINT)
    out, complaints = run.communicate(timeout=60)
    assert (out, complaints, run.returncode) == ("stopped\n", "", 0)
