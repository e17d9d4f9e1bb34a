"""What a server says when it refuses, as one sentence with what to do."""

from __future__ import annotations

import json
import re
from typing import Any

from tunesmith.settings import TeacherSettings


def said_by(body: Any) -> str:
    """The message in an error's body, as the servers of this protocol write it; at most 200 characters."""
    said = body
    if isinstance(said, dict):
        said = said.get("error", said.get("detail", said.get("message", said)))
    if isinstance(said, dict):
        said = said.get("message", said)
    text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
    text = " ".join(re.sub(r"<[^>]*>", " ", text).split())
    return text[:200] or "nothing"


def may_be_schema(status: int, body: Any) -> bool:
    """Whether a refusal may be about the schema of the reply, and not about the prompt."""
    return status in (400, 415, 422, 501) and _context(body) is None


def explain(url: str, status: int, body: Any, settings: TeacherSettings, who: str = "teacher") -> str:
    """A refusal that waiting does not mend. No key is in it, whatever the server repeats of it.

    who: what the server is here, "teacher" or "judge".
    """
    said = _without_keys(said_by(body))
    if status in (401, 403):
        name = settings.key or f"TUNESMITH_{who.upper()}_KEY"
        return f"{url} refuses the key ({said}); put the right one into the environment as {name}"
    if status == 402:
        return f"{url} wants to be paid first ({said})"
    if status == 404 and not re.search("model", said, re.IGNORECASE):
        more = "" if url.endswith("/v1") else f"; most servers have it at {url}/v1"
        return f"{url} has no /chat/completions ({said}): {who}.url is not the base of an OpenAI-like API{more}"
    if status == 404:
        return f"{url} has no such model ({said}); mend {who}.model{' or teacher.judge' * bool(settings.judge)}"
    context = _context(body)
    if context is not None and who == "judge":
        return f"the judge's context is too small for a question with two answers ({context}); give its server more"
    if context is not None:
        return (
            f"the teacher's context is too small for a prompt with its passage: {context}; set teacher.passage "
            f"({settings.passage}) or teacher.max_tokens ({settings.max_tokens}) lower, or give the "
            "server a longer context"
        )
    return f"{url} refuses the request with status {status}: {said}"


_KEY = re.compile(r"\b(?:sk|pk|key|gsk|hf)[-_][\w*.-]{6,}|\b[\w*-]{28,}\b")


def _without_keys(said: str) -> str:
    return _KEY.sub("…", said)


_NUMBERS = re.compile(r"\d[\d,]{2,}")


def _context(body: Any) -> str | None:
    """What the server says of its context, with the numbers, when it is that which was too small."""
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict) and isinstance(error.get("n_ctx"), int):  # llama.cpp
        return f"it holds {error['n_ctx']:,} tokens, and {error.get('n_prompt_tokens', 0):,} were to go in"
    said = said_by(body)
    if re.search(r"context|too long|too many tokens|maximum.*tokens", said, re.IGNORECASE) and _NUMBERS.search(said):
        return said
    return None
