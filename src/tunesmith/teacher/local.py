"""A GGUF file as a teacher: llama.cpp serves it on loopback, in a child process that ends with this one.

``python -m tunesmith.teacher.local`` is the child. It reads what to serve from its standard input, and ends when that
is closed, which the kernel does even when the parent is killed.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunesmith.errors import EngineError, ModelError, TeacherError
from tunesmith.models.find import starter_file
from tunesmith.models.gguf_file import read_gguf
from tunesmith.models.hashes import file_hash
from tunesmith.settings import TeacherSettings

AROUND = 768
"""Tokens of a prompt around its passage."""
TOKENS = 3
"""Tokens that a small model's tokenizer may take where `tokens_of` counts one: SmolLM2 takes so many for Chinese."""
NOT_INSTALLED = 3


def gguf_file(settings: TeacherSettings) -> Path:
    """The file that teacher.gguf means. Raises `ModelError`."""
    if settings.gguf == "starter":
        return starter_file()
    path = Path(settings.gguf).expanduser()
    if not path.is_file():
        raise ModelError(f'teacher.gguf: there is no file {path}; name a .gguf file, or "starter"')
    return path


def gguf_name(path: Path) -> str:
    """What the model is called: another file is another teacher."""
    return f"{path.stem}-{file_hash(path)[:12]}"


def context_of(path: Path, settings: TeacherSettings) -> int:
    """Tokens of context for each request. Raises `TeacherError` when the model was made for fewer than are needed."""
    gguf = read_gguf(path)
    known = gguf.get(f"{gguf.get('general.architecture')}.context_length")
    need = settings.passage + settings.max_tokens + AROUND // 2
    if isinstance(known, int) and known < need:
        raise TeacherError(
            f"the context of {path.name} is too small: it holds {known:,} tokens, and a passage of "
            f"{settings.passage:,}, the words around it and a reply of {settings.max_tokens:,} take about {need:,}; "
            "set teacher.passage or teacher.max_tokens lower, or name another model"
        )
    wanted = TOKENS * settings.passage + settings.max_tokens + AROUND
    return min(wanted, known) if isinstance(known, int) else wanted


@contextmanager
def served(path: Path, settings: TeacherSettings) -> Iterator[str]:
    """The base URL of a server that runs the file, until the context ends.

    Raises `ModelError` when llama.cpp cannot run the file, `EngineError` when it is not installed.
    """
    request = {"gguf": str(path), "slots": settings.parallel, "context": context_of(path, settings)}
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            start_new_session=True,  # Ctrl-C is the parent's to handle: replies under way are waited for
        )  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
            address = child.stdout.readline().decode().strip()
            if not address:
                status = child.wait()
                errors.seek(0)
                said = errors.read().decode("utf-8", "replace").strip().splitlines() or [f"exit status {status}"]
                if status == NOT_INSTALLED:
                    raise EngineError("llama.cpp is not installed here; install it with: pip install xllamacpp")
                raise ModelError(f"llama.cpp cannot serve {path} ({said[-1].strip()}); name another file")
            yield f"{address}/v1"
        finally:
            child.kill()
            child.wait()
            child.stdin.close()
            child.stdout.close()


def _child() -> None:
    request = json.loads(sys.stdin.buffer.readline())
    llama: Any = importlib.import_module("xllamacpp")
    settings = llama.CommonParams()
    settings.model.path = request["gguf"]
    settings.n_ctx, settings.n_parallel = request["slots"] * request["context"], request["slots"]
    settings.use_jinja, settings.warmup = True, False
    # Half the CPUs: llama.cpp's threads spin for each other, and crawl when something else runs too.
    settings.cpuparams.n_threads = max(1, (os.cpu_count() or 1) // 2)
    out = os.dup(1)
    os.dup2(2, 1)  # what llama.cpp prints is no address
    server = llama.Server(settings)
    os.write(out, f"{server.listening_address}\n".encode())
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    try:
        _child()
    except ImportError:
        sys.exit(NOT_INSTALLED)
    except (OSError, RuntimeError, ValueError, KeyError) as problem:
        sys.exit(f"\n{problem}")
