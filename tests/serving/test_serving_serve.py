"""The command: what it refuses before it loads anything, and a whole run served from its folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from openai import OpenAI
from tiny_chat import write_model, write_rows

from tunesmith import machine
from tunesmith.cli.app import call
from tunesmith.errors import ModelError, OutOfMemory, ServingError
from tunesmith.serving import answers
from tunesmith.serving.guard import ANY_HOST
from tunesmith.serving.serve import KEY, names_of, opened, read_key


def test_no_such_run_is_said_in_one_sentence():
    with pytest.raises(ModelError, match=r"^there is no run or model 'runs/nothing'; give a run's folder, a \.gguf"):
        call(["serve", "runs/nothing", "--port", "0"])


def test_a_port_in_use_is_said_before_anything_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ServingError, match=f"^port {port} of 127.0.0.1 is in use"):
            call(["serve", "runs/nothing", "--port", str(port)])


def test_other_machines_may_ask_only_with_a_key(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(KEY, raising=False)
    with pytest.raises(ServingError, match=r"^at 0\.0\.0\.0 other machines can ask, so a key is needed; put one into"):
        call(["serve", "starter", "--host", "0.0.0.0"])
    assert read_key(None, "127.0.0.1") == ""
    with pytest.raises(ServingError, match=r"^the environment variable MINE is not set"):
        read_key("MINE", "127.0.0.1")
    monkeypatch.setenv("MINE", "secret")
    assert read_key("MINE", "0.0.0.0") == "secret"
    assert (ANY_HOST in names_of("0.0.0.0"), ANY_HOST in names_of("127.0.0.1")) == (True, False)


def test_a_context_without_room_for_a_question_is_refused():
    said = r"^--context 5 has no room for a question and its answer; give 64 or more"
    with pytest.raises(ServingError, match=said), opened("starter", context=5):
        pass


def test_a_folder_that_is_no_model_is_said_in_one_sentence(tmp_path: Path):
    with pytest.raises(ModelError), opened(str(tmp_path)):
        raise AssertionError


def test_a_model_that_does_not_fit_is_refused_before_its_weights_are_read(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(machine, "within_reach", lambda: 10**6)
    monkeypatch.setattr(answers, "open_engine", None)
    said = (
        r"^to answer, the whole model takes \d+ MB of memory, and 1 MB can be had; close other programs, serve a GGUF"
    )
    for command in ("serve", "chat"):
        with pytest.raises(OutOfMemory, match=said):
            call([command, str(tiny_model), *(["--port", "0"] if command == "serve" else [])])


@pytest.mark.usefixtures("fresh_consoles")
def test_a_run_is_served_from_its_folder_until_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_model(tmp_path / "model")
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "sums.toml").write_text(
        'model.name = "model"\ndata.sources = ["rows.jsonl"]\ntrain.epochs = 1\ndata.max_tokens = 128\n'
    )
    monkeypatch.chdir(tmp_path)
    for stage in ("prepare", "train"):
        call([stage, "sums.toml"])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    serving = [sys.executable, "-m", "tunesmith", "serve", "runs/sums", "--port", "0"]
    with subprocess.Popen(serving, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        said = server.stdout.readline()
        assert said.endswith("models: sums, base\n")
        with OpenAI(base_url=said.split()[0], api_key="none", max_retries=0) as client:
            answer = client.chat.completions.create(
                model="sums", messages=[{"role": "user", "content": "3 + 3?"}], max_tokens=4
            )
            assert answer.usage is not None
            stream = client.completions.create(model="base", prompt="3", stream=True)
            next(stream)
            server.send_signal(signal.SIGINT)
            assert [chunk.choices[0].finish_reason for chunk in stream][-1] in ("stop", "length")
        assert server.wait(20) == 0
