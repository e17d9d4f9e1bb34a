"""llama.cpp's own server on loopback, in a child process that ends with this one.

In a child, because llama.cpp aborts where Python would raise. ``python -m tunesmith.models.llama_server`` is the child:
it reads what to serve from its standard input, and ends when that is closed, which the kernel does even when the parent
is killed.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from tunesmith.errors import EngineError, ModelError, TunesmithError
from tunesmith.files import storage_errors
from tunesmith.models.llamacpp import PATIENT, threads

NOT_INSTALLED = 3
PROMPTS_KEPT = 256
"""MiB of prompts that were read before; llama.cpp would keep 8 GB."""
SECONDS_TO_END = 1.0
"""An answer breaks off a moment before the process that gave it is gone."""


@contextmanager
def served(gguf: Path, *, slots: int, context: int) -> Iterator[str]:
    """The address of a server that runs the file, until the context ends; ``slots``: requests that it answers at once,
    each with ``context`` tokens.

    Raises `ModelError` when llama.cpp cannot run the file, or ends before it was asked to, `EngineError` when it is not
    installed, `StorageError` when the disk of temporary files is full.
    """
    request = {"gguf": str(gguf), "slots": slots, "context": context}
    with storage_errors(Path(tempfile.gettempdir())):
        complaint = tempfile.TemporaryFile()  # noqa: SIM115
    with complaint:
        child = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaint,
            env=PATIENT | os.environ,
            start_new_session=True,  # Ctrl-C is the parent's to handle: what is under way is waited for
        )  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            with suppress(BrokenPipeError):  # it says below why it ended
                child.stdin.write(json.dumps(request).encode() + b"\n")
                child.stdin.flush()
            address = child.stdout.readline().decode().strip()
            if not address:
                raise _ended(gguf, child.wait(), complaint)
            try:
                yield address
            except (OSError, TunesmithError) as error:
                broke_off = isinstance(error, OSError) or isinstance(error.__cause__, OSError)
                with suppress(subprocess.TimeoutExpired):
                    raise _ended(gguf, child.wait(SECONDS_TO_END if broke_off else 0), complaint) from error
                raise
        finally:
            child.kill()
            child.wait()
            with suppress(BrokenPipeError):
                child.stdin.close()
            child.stdout.close()


def _ended(gguf: Path, status: int, complaint: IO[bytes]) -> TunesmithError:
    if status == NOT_INSTALLED:
        return EngineError("llama.cpp is not installed here; install it with: pip install xllamacpp")
    complaint.seek(0)
    said = complaint.read().decode("utf-8", "replace").strip().splitlines() or [f"exit status {status}"]
    return ModelError(f"llama.cpp cannot serve {gguf} ({said[-1].strip()}); make the file anew, or name another")


def _serve(request: dict[str, Any]) -> None:
    llama: Any = importlib.import_module("xllamacpp")
    settings = llama.CommonParams()
    settings.model.path = request["gguf"]
    settings.n_ctx, settings.n_parallel = request["slots"] * request["context"], request["slots"]
    settings.model_alias = {Path(request["gguf"]).stem}  # its answers would else name the file's whole path
    settings.cache_ram_mib = PROMPTS_KEPT
    settings.use_jinja, settings.warmup = True, False
    settings.verbosity = 1  # its errors; what it says of each request would fill the disk
    settings.cpuparams.n_threads = threads()
    out = os.dup(1)
    os.dup2(2, 1)  # what llama.cpp prints is no address
    server = llama.Server(settings)
    os.write(out, f"{server.listening_address}\n".encode())
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    try:
        _serve(json.loads(sys.stdin.buffer.readline()))
    except ImportError:
        sys.exit(NOT_INSTALLED)
    except (OSError, RuntimeError, ValueError, KeyError) as problem:
        sys.exit(f"\n{problem}")
