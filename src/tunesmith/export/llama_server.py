"""llama.cpp's own server, asked what a person would ask it: conversations become prompts by the file's
template, prompts become greedy answers.

It runs in a child process, because llama.cpp aborts where Python would raise.
``python -m tunesmith.export.llama_server REQUEST.json ANSWERS.json`` is the child.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.engines.base import Generation
from tunesmith.errors import EngineError, ModelError
from tunesmith.files import storage_errors

SLOTS = 4
"""Prompts answered at once."""


@dataclass(frozen=True)
class Answers:
    """prompts: token ids of each conversation, None where llama.cpp refuses it; answers: one for each prompt."""

    prompts: list[list[int] | None]
    answers: list[Generation]


def ask_server(
    gguf: Path,
    conversations: Sequence[Sequence[dict[str, Any]]],
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    on_progress: Callable[[float], None] = lambda _: None,
) -> Answers:
    """What llama.cpp's chat makes of conversations that end in a question, and its greedy answers to prompts.

    ``on_progress`` is called with the share of prompts that are answered; what it raises ends the server. Raises
    `ModelError` when llama.cpp cannot run the file, `EngineError` when it is not installed, `StorageError` when the
    disk of temporary files is full.
    """
    room = max((len(p) for p in prompts), default=0) + max_new_tokens + 8
    request = {
        "gguf": str(gguf),
        "conversations": [list(c) for c in conversations],
        "prompts": [[int(i) for i in p] for p in prompts],
        "max_new_tokens": max_new_tokens,
        "context": SLOTS * max(256, -(-room // 256) * 256),
    }
    with storage_errors(Path(tempfile.gettempdir())), tempfile.TemporaryDirectory(prefix="tunesmith-") as name:
        asked, answered = Path(name) / "request.json", Path(name) / "answers.json"
        asked.write_text(json.dumps(request), encoding="utf-8")
        status, said = _run([sys.executable, "-m", __name__, str(asked), str(answered)], len(prompts), on_progress)
        if status == NOT_INSTALLED:
            raise EngineError("llama.cpp is not installed here; install it with: pip install xllamacpp")
        if status != 0 or not answered.exists():
            raise ModelError(f"llama.cpp's server cannot run {gguf} ({said}); export the model again")
        result = json.loads(answered.read_text(encoding="utf-8"))
    return Answers(result["prompts"], [Generation(a["ids"], a["stopped"]) for a in result["answers"]])


def _run(command: list[str], prompts: int, on_progress: Callable[[float], None]) -> tuple[int, str]:
    """Run the child; its exit status, and the last line of its complaint. It is ended when we are stopped."""
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaint,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaint, text=True, errors="replace") as child,
    ):
        assert child.stdout
        answered = 0
        try:
            for line in child.stdout:
                if line == ANSWERED:
                    answered += 1
                    on_progress(answered / prompts)
        except BaseException:
            child.kill()
            raise
        status = child.wait()
        complaint.seek(0)
        return status, (complaint.read().strip().splitlines() or [f"exit status {status}"])[-1].strip()


# -- the child ---------------------------------------------------------------------------------------

NOT_INSTALLED = 3
ANSWERED = "tunesmith: answered\n"
"""What the child writes behind each answer; llama.cpp may write to the same place."""


def _child(request: dict[str, Any]) -> dict[str, Any]:
    llama: Any = importlib.import_module("xllamacpp")
    settings = llama.CommonParams()
    settings.model.path = request["gguf"]
    settings.n_ctx, settings.n_parallel, settings.use_jinja = request["context"], SLOTS, True
    settings.warmup = False
    # Half the CPUs: llama.cpp's threads spin for each other, and crawl when something else runs too.
    settings.cpuparams.n_threads = max(1, (os.cpu_count() or 1) // 2)
    server = llama.Server(settings)
    address = server.listening_address
    with ThreadPoolExecutor(SLOTS) as pool:
        prompts = list(pool.map(lambda c: _prompt(address, c), request["conversations"]))
        room = request["max_new_tokens"]
        answers = [pool.submit(_answer, address, prompt, room) for prompt in request["prompts"]]
        for _ in as_completed(answers):
            sys.stdout.write(ANSWERED)
            sys.stdout.flush()
    return {"prompts": prompts, "answers": [answer.result() for answer in answers]}


def _prompt(address: str, messages: list[dict[str, Any]]) -> list[int] | None:
    try:
        text = _post(address, "/apply-template", {"messages": messages})["prompt"]
    except urllib.error.HTTPError:  # the template raises an exception for these turns
        return None
    return _post(address, "/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]


def _answer(address: str, prompt: list[int], room: int) -> dict[str, Any]:
    wanted = {"prompt": prompt, "n_predict": room, "temperature": 0, "return_tokens": True}
    got = _post(address, "/completion", wanted)
    stopped = got["stop_type"] == "eos"
    return {"ids": got["tokens"][:-1] if stopped else got["tokens"], "stopped": stopped}


def _post(address: str, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(address + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback goes through no proxy
    with opener.open(request) as answer:
        return json.loads(answer.read())


if __name__ == "__main__":
    try:
        found = _child(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
        Path(sys.argv[2]).write_text(json.dumps(found), encoding="utf-8")
    except ImportError:
        sys.exit(NOT_INSTALLED)
    except (OSError, RuntimeError, ValueError, KeyError) as problem:
        sys.exit(f"\n{problem}")
