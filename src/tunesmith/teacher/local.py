"""A GGUF file as a teacher: llama.cpp serves it on loopback for as long as it is needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunesmith.errors import ModelError
from tunesmith.models import llama_server
from tunesmith.models.find import starter_file
from tunesmith.models.gguf_file import read_gguf
from tunesmith.models.hashes import file_hash
from tunesmith.settings import TeacherSettings
from tunesmith.teacher.context import MADE, Context, Need, refuse_too_small

AROUND = 768
"""Tokens of a prompt around its passage."""
TOKENS = 3
"""Tokens that a small model's tokenizer may take where `tokens_of` counts one: SmolLM2 takes so many for Chinese."""


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


def context_of(path: Path, settings: TeacherSettings, need: Need) -> int:
    """Tokens of context for each request. Raises `TeacherError` when the model was made for fewer than are needed."""
    gguf = read_gguf(path)
    known = gguf.get(f"{gguf.get('general.architecture')}.context_length")
    wanted = max(TOKENS * settings.passage + AROUND, TOKENS * need.prompt) + need.reply
    if not isinstance(known, int):
        return wanted
    refuse_too_small(Context(known, MADE), path.name, need)
    return min(wanted, known)


@contextmanager
def served(path: Path, settings: TeacherSettings, need: Need) -> Iterator[str]:
    """The base URL of a server that runs the file, until the context ends. Raises what `llama_server.served` does."""
    context = context_of(path, settings, need)
    with llama_server.served(path, slots=settings.parallel, context=context) as address:
        yield f"{address}/v1"
