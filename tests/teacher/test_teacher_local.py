"""llama.cpp as the teacher: a real server in a child process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from taught import settings

from tunesmith.errors import ModelError, TeacherError
from tunesmith.models.find import starter_file
from tunesmith.teacher import local
from tunesmith.teacher.client import Client
from tunesmith.teacher.request import Request

SMALL = {"url": "", "gguf": "starter", "passage": 64, "max_tokens": 24, "parallel": 1}


def test_a_file_is_served_and_the_server_is_gone_afterwards():
    values = settings("", **{k: v for k, v in SMALL.items() if k != "url"})
    with local.served(starter_file(), values) as url:
        children = psutil.Process().children()
        client = Client(url, values)
        client.probe("any")
        schema = {"type": "object", "properties": {"good": {"type": "boolean"}}, "required": ["good"]}
        reply = client.ask(
            Request((("user", 'Is water wet? {"good": true} or {"good": false}'),), "any", 0.0, 24, schema)
        )
        assert '"good"' in reply.text
        assert reply.tokens_in > 5
        client.close()
    assert not any(child.is_running() for child in children if "tunesmith.teacher.local" in " ".join(_line(child)))


def _line(child: psutil.Process) -> list[str]:
    try:
        return child.cmdline()
    except psutil.Error:
        return []


def test_it_ends_with_a_parent_that_is_killed():
    code = (
        "import time, psutil\nfrom taught import settings\nfrom tunesmith.teacher import local\n"
        "from tunesmith.models.find import starter_file\n"
        "with local.served(starter_file(), settings('', gguf='starter', passage=64, max_tokens=24, parallel=1)):\n"
        "    print(psutil.Process().children()[0].pid, flush=True)\n    time.sleep(60)\n"
    )
    places = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", code]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": places})
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 20
    while psutil.pid_exists(child) and psutil.Process(child).status() != "zombie" and time.monotonic() < until:
        time.sleep(0.02)
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie"


def test_a_context_that_is_too_small_is_said_before_anything_is_served():
    with pytest.raises(TeacherError, match=r"holds 8,192 tokens, and a passage of 8,000.*take about 9,408"):
        local.context_of(starter_file(), settings("", gguf="starter", passage=8000))


def test_what_is_no_model_is_said(tmp_path: Path):
    (tmp_path / "no.gguf").write_bytes(b"GGUF nothing")
    with pytest.raises(ModelError), local.served(tmp_path / "no.gguf", settings("", gguf="starter")):
        raise AssertionError
    with pytest.raises(ModelError, match="there is no file"):
        local.gguf_file(settings("", gguf="none.gguf"))
