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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.engines.base import Generation
from tunesmith.errors import EngineError, ModelError

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
) -> Answers:
    """What llama.cpp's chat makes of conversations that end in a question, and its greedy answers to prompts.

    Raises `ModelError` when llama.cpp cannot run the file, `EngineError` when it is not installed.
    """
    room = max((len(p) for p in prompts), default=0) + max_new_tokens + 8
    request = {
        "gguf": str(gguf),
        "conversations": [list(c) for c in conversations],
        "prompts": [[int(i) for i in p] for p in prompts],
        "max_new_tokens": max_new_tokens,
        "context": SLOTS * max(256, -(-room // 256) * 256),
    }
    with tempfile.TemporaryDirectory(prefix="tunesmith-") as name:
        asked, answered = Path(name) / "request.json", Path(name) / "answers.json"
        asked.write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, "-m", __name__, str(asked), str(answered)]
        child = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if child.returncode == NOT_INSTALLED:
            raise EngineError("llama.cpp is not installed here; install it with: pip install xllamacpp")
        if child.returncode != 0 or not answered.exists():
            said = (child.stderr.strip().splitlines() or [f"exit status {child.returncode}"])[-1]
            raise ModelError(f"llama.cpp's server cannot run {gguf} ({said.strip()}); export the model again")
        result = json.loads(answered.read_text(encoding="utf-8"))
    return Answers(result["prompts"], [Generation(a["ids"], a["stopped"]) for a in result["answers"]])


# -- the child ---------------------------------------------------------------------------------------

NOT_INSTALLED = 3


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
        answers = list(pool.map(lambda p: _answer(address, p, room), request["prompts"]))
    return {"prompts": prompts, "answers": answers}


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
