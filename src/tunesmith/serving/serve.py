"""``tunesmith serve``: a run, a model or a GGUF, open to programs that speak OpenAI's protocol."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tunesmith.dataset import prepare
from tunesmith.engines.base import Engine
from tunesmith.engines.room import room_for
from tunesmith.errors import ModelError, ServingError
from tunesmith.models.gguf_file import read_gguf
from tunesmith.models.hub import is_hub
from tunesmith.models.llama_server import served
from tunesmith.run import RunFolder
from tunesmith.serving.answers import open_chat
from tunesmith.serving.api import make_app
from tunesmith.serving.backend import Backend
from tunesmith.serving.guard import ANY_HOST, LOOPBACK
from tunesmith.serving.llama import Llama
from tunesmith.serving.running import listening, serve_on
from tunesmith.serving.scheduler import Scheduler
from tunesmith.serving.writers import Writers

KEY = "TUNESMITH_SERVE_KEY"
AT_ONCE, AT_ONCE_BY_LLAMA = 64, 8
"""Answers written together: llama.cpp sets memory aside for each of them."""
WAITING = 256
"""So many may wait besides: a text that waits costs next to nothing."""
LEAST_CONTEXT = 64
"""A template takes half of that before anything is asked."""
CONTEXT = 4096
"""Tokens of a prompt and its answer, where the model was made for more and nothing else is asked for."""
MEMORY_SHARE = 4
"""One part in so many of the memory that the weights leave is for what texts under way remember; a cache makes room for
twice as many texts when one more comes, so that it may become two."""
DOCKER = "host.docker.internal"
"""How a container calls this machine's loopback; nobody outside can give that name to another address."""


def serve(
    name: str, *, host: str, port: int, key_from: str | None, origins: Sequence[str], at_once: int | None,
    context: int | None, on_ready: Callable[[str, Sequence[str]], None],
) -> None:  # fmt: skip
    """Answer until Ctrl-C; ``on_ready`` gets the URL and the names of the models. The port is taken before anything is
    loaded. Raises `ServingError` and what loading a model raises."""
    key = read_key(key_from, host)
    with listening(host, port) as taken, opened(name, at_once=at_once, context=context) as backend:
        app = make_app(backend, hosts=names_of(host), key=key, origins=origins)
        serve_on(taken, app, on_ready=lambda url: on_ready(url, backend.names), on_stop=backend.stop)


def read_key(variable: str | None, host: str) -> str:
    """What requests must bring. Raises `ServingError` when there is none and other machines could ask."""
    key = os.environ.get(variable or KEY, "").strip()
    if variable and not key:
        raise ServingError(f"the environment variable {variable} is not set; put the key into it, or leave --key-from")
    if not key and not _is_loopback(host):
        raise ServingError(f"at {host} other machines can ask, so a key is needed; put one into {variable or KEY}")
    return key


def names_of(host: str) -> Collection[str]:
    """What the server may be called."""
    return [*LOOPBACK, DOCKER, host] if _is_loopback(host) else [ANY_HOST]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def opened(name: str, *, at_once: int | None = None, context: int | None = None) -> Iterator[Backend]:
    """The model of a run, a GGUF in llama.cpp, or any other model."""
    path = Path(name).expanduser()
    if context is not None and context < LEAST_CONTEXT:
        raise ServingError(
            f"--context {context} has no room for a question and its answer; give {LEAST_CONTEXT} or more"
        )
    if path.is_file() and path.suffix.lower() == ".gguf":
        with _by_llama(path.resolve(), at_once or AT_ONCE_BY_LLAMA, context) as backend:
            yield backend
        return
    if name != "starter" and not is_hub(name) and not path.exists():
        raise ModelError(f"there is no run or model {name!r}; give a run's folder, a .gguf file, a model's folder, "
                         f"starter, or hf:OWNER/NAME")  # fmt: skip
    answerer = open_chat(name, tokens=context or CONTEXT)
    if not RunFolder(path).exists and path.exists():
        answerer.name = path.resolve().name
    engine, texts = answerer.engine, at_once or AT_ONCE
    room = context or min(engine.arch.context, CONTEXT)
    scheduler = Scheduler(engine, answerer.chat.decode, at_once=texts, waiting=WAITING, most_tokens=most_tokens(engine))
    yield Writers(answerer, scheduler, context=min(room, engine.arch.context))


def most_tokens(engine: Engine) -> int:
    """How many tokens' keys and values may be kept."""
    arch, size = engine.arch, 2 if engine.precision == "bf16" else 4
    room = room_for(arch, "mlx" if engine.name == "mlx" else "torch", engine.precision, tokens=1)
    kept = 2 * arch.layers * arch.kv_heads * arch.head_dim * size
    return room.left // MEMORY_SHARE // kept


@contextmanager
def _by_llama(path: Path, at_once: int, context: int | None) -> Iterator[Backend]:
    gguf = read_gguf(path)
    known = gguf.get(f"{gguf.get('general.architecture')}.context_length")
    made_for = known if isinstance(known, int) else CONTEXT
    run = RunFolder(path.parent.parent)
    exported = path.parent == run.export and (run.dataset / "train.jsonl").exists()
    system = prepare.shared_system(run.dataset) if exported else ""
    with served(path, slots=at_once, context=min(context or CONTEXT, made_for)) as address:
        calls = "tools" in str(gguf.get("tokenizer.chat_template"))
        yield Llama(path.stem, address, system=system, at_once=at_once, waiting=WAITING, calls=calls)
