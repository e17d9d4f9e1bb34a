"""How long a context a teacher has, where its server says so: what does not fit is told before anything is asked.

    llama.cpp                        /props, of each request; /v1/models, what the model was made for
    vLLM, SGLang, many paid APIs     /v1/models, under one of several names
    LM Studio                        /api/v0/models
    Ollama                           /api/ps, once the model is loaded; /api/show, what it was made for

Ollama does not refuse what is too long, but shortens it without a word.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from tunesmith.errors import TeacherError

Look = Callable[..., Any]
"""(address, what is posted to it, if anything) -> the JSON that stands there, or None."""

_LLAMA = "start llama.cpp with a larger --ctx-size, which its --parallel requests share"
_STUDIO = "load the model in LM Studio with a longer context"
_OLLAMA = "start Ollama with a larger OLLAMA_CONTEXT_LENGTH"
MADE = "name a model that was made for more"
_LISTED = {
    "max_model_len": "start vLLM with a larger --max-model-len", "context_length": MADE, "context_window": MADE,
    "max_context_length": MADE,
}  # fmt: skip


@dataclass(frozen=True)
class Context:
    """tokens: of prompt and reply together; longer: what a person does to have more."""

    tokens: int
    longer: str


def find_context(look: Look, url: str, model: str) -> Context | None:
    """The context that a server, whose API is at ``url``, gives the model, which is loaded; None if it does not say."""
    root = url.removesuffix("/v1")
    return (
        _of_llama_cpp(look, root, model)
        or _of_list(look, url, model)
        or _of_lm_studio(look, root, model)
        or _of_ollama(look, root, model)
    )


def _of_llama_cpp(look: Look, root: str, model: str) -> Context | None:
    props = look(f"{root}/props?model={quote(model, safe='')}")
    return _context(_in(props, "default_generation_settings", "n_ctx"), _LLAMA)


def _of_list(look: Look, url: str, model: str) -> Context | None:
    entry = _entry(_in(look(f"{url}/models"), "data"), model)
    for name, longer in _LISTED.items():
        if found := _context(_in(entry, name), longer):
            return found
    return _context(_in(entry, "meta", "n_ctx_train"), MADE)


def _of_lm_studio(look: Look, root: str, model: str) -> Context | None:
    entry = _entry(_in(look(f"{root}/api/v0/models"), "data"), model)
    return _context(_in(entry, "loaded_context_length"), _STUDIO) or _context(_in(entry, "max_context_length"), MADE)


def _of_ollama(look: Look, root: str, model: str) -> Context | None:
    loaded = _entry(_in(look(f"{root}/api/ps"), "models"), model)
    if found := _context(_in(loaded, "context_length"), _OLLAMA):
        return found
    shown = look(f"{root}/api/show", {"model": model})
    if given := re.search(r"^num_ctx\s+(\d+)", str(_in(shown, "parameters")), re.MULTILINE):
        return _context(int(given[1]), _OLLAMA)
    info = _in(shown, "model_info")
    return _context(_in(info, f"{_in(info, 'general.architecture')}.context_length"), MADE)


def _in(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _entry(listed: Any, model: str) -> Any:
    """The model's own, among those that a server has; Ollama adds a tag to a name without one."""
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    names, keys = (model, f"{model}:latest"), ("id", "name", "model")
    return next((entry for entry in entries if any(entry.get(key) in names for key in keys)), None)


def _context(tokens: Any, longer: str) -> Context | None:
    return Context(tokens, longer) if isinstance(tokens, int) and tokens > 0 else None


@dataclass(frozen=True)
class Need:
    """Tokens: of a prompt, of the passage in it (0: there is none), of the longest reply that is allowed."""

    prompt: int
    passage: int
    reply: int


def refuse_too_small(context: Context | None, whose: str, need: Need) -> None:
    """Raises `TeacherError`, with what to set, when the prompt and its reply do not fit into a context."""
    if context is None or need.prompt + need.reply <= context.tokens:
        return
    most, lower = context.tokens - need.prompt, list[str]()
    if most >= need.reply // 4:
        lower.append(f"teacher.max_tokens ({need.reply}) to at most {most}")
    if (most := most - need.reply + need.passage) >= max(32, need.passage // 4):
        lower.append(f"teacher.passage to at most {most}")
    ways = [f"set {' or '.join(lower)}"] * bool(lower) + [context.longer]
    what = "a prompt with its passage" if need.passage else "a prompt"
    raise TeacherError(
        f"the context of {whose} is too small: it holds {context.tokens:,} tokens, and {what} (about {need.prompt:,}) "
        f"and a reply of at most {need.reply:,} take {need.prompt + need.reply:,}; {', or '.join(ways)}"
    )
