"""llama.cpp's real server in a child process, which ends when it is not needed, and never by itself unsaid."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from tunesmith.errors import ModelError, RunError
from tunesmith.models.find import starter_file
from tunesmith.models.llama_server import served


def servers() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        try:
            found += [child] if "tunesmith.models.llama_server" in child.cmdline() else []
        except psutil.Error:
            continue
    return found


def test_a_file_is_served_with_the_context_that_was_asked_for_and_the_server_is_gone_afterwards():
    with served(starter_file(), slots=2, context=256) as address:
        [server] = servers()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{address}/props") as answer:
            props = json.loads(answer.read())
        assert (props["total_slots"], props["default_generation_settings"]["n_ctx"]) == (2, 256)
    assert not server.is_running()


def test_it_ends_with_a_parent_that_is_killed():
    code = (
        "import time, psutil\nfrom tunesmith.models.find import starter_file\n"
        "from tunesmith.models.llama_server import served\n"
        "with served(starter_file(), slots=1, context=256):\n"
        "    print(psutil.Process().children()[0].pid, flush=True)\n    time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 20
    while psutil.pid_exists(child) and psutil.Process(child).status() != "zombie" and time.monotonic() < until:
        time.sleep(0.02)
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie"


def test_a_file_that_it_cannot_run_is_said_in_one_sentence(tmp_path: Path):
    (tmp_path / "no.gguf").write_bytes(b"GGUF nothing")
    with (
        pytest.raises(
            ModelError, match=r"llama.cpp cannot serve .*no.gguf \(.*\); make the file anew, or name another"
        ),
        served(tmp_path / "no.gguf", slots=1, context=256),
    ):
        raise AssertionError


def test_a_server_that_ends_in_the_middle_is_said_and_not_what_came_of_it():
    def kill() -> None:
        servers()[0].kill()
        raise ConnectionResetError

    with pytest.raises(ModelError, match=r"llama.cpp cannot serve"), served(starter_file(), slots=1, context=256):
        kill()


def test_what_goes_wrong_beside_a_server_that_lives_is_said_as_it_is():
    with pytest.raises(RunError, match="other"), served(starter_file(), slots=1, context=256):
        raise RunError("other")
