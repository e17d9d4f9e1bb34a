"""llama.cpp as a reference: the ids and the full logits it gives, position by position.

`xllamacpp` wraps only llama.cpp's server, which tells a few best tokens. Its shared library carries
llama.h all the same, and here the dozen functions that are needed are called through ctypes, in a
child process: llama.cpp aborts where Python would raise, and its memory is given back at the end.

Nothing depends on how long llama.cpp's parameter structs are (fields come and go with every
version): defaults are taken as an opaque block that is larger than any of them and handed back. Only
the first field of the context's parameters, its length, is set.

``python -m tunesmith.models.llamacpp REQUEST.json FOLDER`` is the child.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.errors import EngineError, ModelError
from tunesmith.machine import cores

PIECE = 512
"""Tokens decoded at once: llama.cpp's default micro-batch."""
PATIENT = {"GOMP_SPINCOUNT": "300"}
"""Its threads (OpenMP's) wait for each other by spinning, 300,000 times as they come, and crawl when anything else runs
on one of their cores; after a moment they sleep instead. Measured in docs/serve.md."""

_BLOCK_BYTES = 1024
"""Both parameter structs are under 200 bytes today."""


def threads() -> int:
    """For llama.cpp: all cores where its threads are patient, else half, which leaves others room to run."""
    return cores() if sys.platform == "linux" else max(1, cores() // 2)


@dataclass(frozen=True)
class Reference:
    """One request's ids and, when asked for, logits: float32 [len(ids), vocabulary]."""

    ids: list[int]
    logits: np.ndarray | None


def ask_llamacpp(gguf: Path, requests: Sequence[str | Sequence[int]], *, logits: bool = True) -> Iterator[Reference]:
    """Run the model in ``gguf`` over texts or token ids, one `Reference` each, in order.

    Texts are tokenized with special tokens recognised and BOS put before where the model wants it;
    ids are taken as they are. Raises `ModelError` when llama.cpp refuses the file or breaks, and
    `EngineError` when it is not installed.
    """
    library = shared_library()
    with tempfile.TemporaryDirectory(prefix="tunesmith-") as name:
        folder = Path(name)
        plain = [r if isinstance(r, str) else [int(i) for i in r] for r in requests]
        request = {"library": str(library), "gguf": str(gguf), "requests": plain, "logits": logits}
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, "-m", __name__, str(folder / "request.json"), name]
        child = subprocess.run(command, capture_output=True, text=True, errors="replace", env=PATIENT | os.environ)
        if child.returncode != 0:
            said = (child.stderr.strip().splitlines() or [f"exit status {child.returncode}"])[-1]
            raise ModelError(f"llama.cpp cannot run {gguf} ({said.strip()}); check or download the file again")
        answers: list[list[int]] = json.loads((folder / "ids.json").read_text(encoding="utf-8"))
        for i, ids in enumerate(answers):
            path = folder / f"{i}.npy"
            yield Reference(ids, np.load(path) if logits else None)
            path.unlink(missing_ok=True)


def shared_library() -> Path:
    """xllamacpp's shared library, found without importing the package."""
    spec = importlib.util.find_spec("xllamacpp")
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        for pattern in ("xllamacpp*.so", "xllamacpp*.pyd", "xllamacpp*.dylib"):
            for path in sorted(Path(folder).glob(pattern)):
                return path
    raise EngineError("llama.cpp is not installed here; install it with: pip install xllamacpp")


class _Block(ctypes.Structure):
    _fields_ = [("words", ctypes.c_uint32 * (_BLOCK_BYTES // 4))]


class _Batch(ctypes.Structure):
    """``struct llama_batch``, the same since 2023; `_batch` checks that it still is."""

    _fields_ = [
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.POINTER(ctypes.c_float)),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    ]


_Log = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


class _LlamaCpp:
    """llama.h, as far as it is needed; lives in the child process only."""

    def __init__(self, library: str, gguf: str) -> None:
        self.lib = ctypes.CDLL(library)
        self.errors: list[str] = []
        self.log = _Log(self._keep_errors)  # must outlive every call
        pointer, number = ctypes.c_void_p, ctypes.c_int32
        self._call("llama_log_set", None, (self.log, _Log), (None, pointer))
        self._call("llama_backend_init", None)
        parameters = self._call("llama_model_default_params", _Block)
        path = (os.fsencode(gguf), ctypes.c_char_p)
        self.model = self._call("llama_model_load_from_file", pointer, path, (parameters, _Block))
        if not self.model:
            raise RuntimeError(self.errors[-1] if self.errors else "it cannot be loaded")
        self.vocabulary = self._call("llama_model_get_vocab", pointer, (self.model, pointer))
        self.size = self._call("llama_vocab_n_tokens", number, (self.vocabulary, pointer))

    def _keep_errors(self, level: int, text: bytes | None, _: Any) -> None:
        if level == 4 and text and text.strip():  # GGML_LOG_LEVEL_ERROR
            self.errors.append(text.decode("utf-8", "replace").strip())

    def _call(self, name: str, result: Any, *arguments: tuple[Any, Any]) -> Any:
        function = getattr(self.lib, name)
        function.restype = result
        function.argtypes = [kind for _, kind in arguments]
        return function(*(value for value, _ in arguments))

    def tokenize(self, text: str) -> list[int]:
        raw = text.encode("utf-8")
        room = len(raw) + 16
        ids = (ctypes.c_int32 * room)()
        number, yes = ctypes.c_int32, ctypes.c_bool
        count = self._call(
            "llama_tokenize",
            number,
            (self.vocabulary, ctypes.c_void_p),
            (raw, ctypes.c_char_p),
            (len(raw), number),
            (ids, ctypes.POINTER(number)),
            (room, number),
            (True, yes),  # BOS where the model wants it
            (True, yes),  # special tokens in the text are tokens
        )
        if count < 0:
            raise RuntimeError(f"a text of {len(raw)} bytes has more than {room} tokens")
        return list(ids[:count])

    def logits(self, rows: list[list[int]]) -> Iterator[np.ndarray]:
        """float32 [length, vocabulary] for each row, each from an empty memory."""
        pointer, number = ctypes.c_void_p, ctypes.c_int32
        parameters = self._call("llama_context_default_params", _Block)
        parameters.words[0] = max(PIECE, -(-max(map(len, rows), default=0) // 256) * 256)
        context = self._call("llama_init_from_model", pointer, (self.model, pointer), (parameters, _Block))
        if not context:
            raise RuntimeError(self.errors[-1] if self.errors else "it has no room to run")
        count = (threads(), number)
        self._call("llama_set_n_threads", None, (context, pointer), count, count)
        memory = self._call("llama_get_memory", pointer, (context, pointer))
        batch = self._batch()
        for row in rows:
            self._call("llama_memory_clear", None, (memory, pointer), (True, ctypes.c_bool))
            result = np.empty((len(row), self.size), np.float32)
            for start in range(0, len(row), PIECE):
                self._decode(context, batch, row[start : start + PIECE], start, result)
            yield result

    def _batch(self) -> _Batch:
        number = (1, ctypes.c_int32)
        batch = self._call("llama_batch_init", _Batch, (PIECE, ctypes.c_int32), (0, ctypes.c_int32), number)
        if batch.n_tokens != 0 or not batch.token or batch.embd or not batch.seq_id or not batch.logits:
            raise RuntimeError("llama_batch has changed: this version of xllamacpp is too new for tunesmith")
        return batch

    def _decode(self, context: int, batch: _Batch, ids: list[int], start: int, result: np.ndarray) -> None:
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i] = token, start + i
            batch.n_seq_id[i], batch.logits[i] = 1, 1
            batch.seq_id[i][0] = 0
        status = self._call("llama_decode", ctypes.c_int32, (context, ctypes.c_void_p), (batch, _Batch))
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}")
        floats = ctypes.POINTER(ctypes.c_float)
        found = self._call("llama_get_logits", floats, (context, ctypes.c_void_p))
        result[start : start + len(ids)] = np.ctypeslib.as_array(found, (len(ids), self.size))


def _child(request_path: str, folder: str) -> None:
    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    llama = _LlamaCpp(request["library"], request["gguf"])
    rows = [llama.tokenize(r) if isinstance(r, str) else r for r in request["requests"]]
    if bad := [i for row in rows for i in row if not 0 <= i < llama.size]:
        raise RuntimeError(f"token id {bad[0]} is not below {llama.size}")
    if request["logits"]:
        for i, logits in enumerate(llama.logits(rows)):
            np.save(Path(folder) / f"{i}.npy", logits)
    (Path(folder) / "ids.json").write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    try:
        _child(sys.argv[1], sys.argv[2])
    except (RuntimeError, OSError, AttributeError) as problem:
        sys.exit(str(problem))
