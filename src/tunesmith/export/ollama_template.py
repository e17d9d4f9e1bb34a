"""Ollama's TEMPLATE for a model, read off the model's own chat template.

The Jinja template is rendered with marker messages; what stands between the markers is what the Go
template has to write between the messages. Blanks are then put around each marker, to see whether the
template trims there (Go has no function for that, but a template that calls itself can do it). Last,
both are rendered over a matrix of conversations, and only equal text counts as exact.

BOS is left out where the model's tokenizer puts it: llama.cpp does so by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tunesmith.errors import ModelError
from tunesmith.export.go_template import literal, quote, render, trimming
from tunesmith.models.chat import ChatFormat

_AROUND = "\n \t{}\u3000 \n"
_TRIMS = {"": str, "left": str.lstrip, "right": str.rstrip, "trim": str.strip}

_TAG = re.compile(r"<\|[^<>|\s]+\|>|</?[a-z][a-z_]*>|\[/?[A-Z][A-Z_]*\]|<</?[A-Z]+>>")
"""What a control token looks like when the tokenizer does not know it as one."""
_HALF = re.compile(r"(?:[<\[][^>\]\n]*|\w+)\Z")
"""A tag or a word that two texts begin alike, and end otherwise."""


@dataclass(frozen=True)
class Derived:
    """A TEMPLATE, and whether it is exact: the model's own template gives the same text for every conversation tried.

    ``differences`` says in plain words what is not the same. It also says what becomes of a system text
    where the model's own template has no place for it; that does not make it inexact. ``template`` is
    empty when none could be made: then nothing is better than the GGUF's own.
    """

    template: str
    exact: bool
    differences: list[str]


class _Slot(NamedTuple):
    """What stands before a message, and how its text is trimmed: a key of `_TRIMS`."""

    before: str
    trim: str


@dataclass
class _Parts:
    """The pieces of a conversation. ``user`` goes by the role before it, "" when it is the first message."""

    user: dict[str, _Slot]
    assistant: _Slot
    ends: dict[str, str]
    open_end: str
    system: _Slot | None = None
    refuses_system: bool = False


class _Irregular(Exception):
    """The template does not write the messages one after the other."""


def derive(chat: ChatFormat) -> Derived:
    """Raises `ModelError` when the model has no chat template, or it refuses even a single question."""
    _rendered(chat, [{"role": "user", "content": "a"}])
    try:
        parts = _read_off(chat)
    except (_Irregular, ModelError) as error:
        return Derived("", False, [str(error)])
    template = _written(parts)
    differences = list(_differences(chat, template, parts.refuses_system))
    exact = not differences
    if parts.refuses_system:
        differences.append(
            "the model's own template refuses a system message; in Ollama its text stands before the first question"
        )
    elif parts.system is None:
        differences.append("the model's own template leaves system messages out, and so does Ollama's")
    return Derived(template, exact, differences)


def stops(chat: ChatFormat) -> list[str]:
    """Texts at which an answer ends: the model's end tokens, and what opens or closes a turn."""
    found = [chat.special.get(i) or chat.decode([i], special=True) for i in sorted(chat.stop)]
    try:
        parts = _read_off(chat)
    except (_Irregular, ModelError):
        return found
    turn = parts.user["assistant"].before
    pieces = [parts.system.before if parts.system else "", parts.ends.get("system", ""), turn, parts.ends["user"]]
    pieces += [parts.assistant.before, parts.open_end, parts.ends["assistant"]]
    special = sorted((s for s in chat.special.values() if s.strip()), key=len, reverse=True)
    tags = re.compile("|".join([*map(re.escape, special), _TAG.pattern]))
    found += [tag for piece in pieces for tag in tags.findall(piece) if "think" not in tag]
    if turn.rstrip().endswith(":") and not tags.search(turn):  # said in words: "User:", on a line of its own
        newline = "\n" if (parts.ends["assistant"] + turn).rstrip().rfind("\n") >= 0 else ""
        found.append(newline + turn.strip())
    bos = chat.special.get(chat.bos) if chat.adds_bos and chat.bos is not None else None
    return [stop for stop in dict.fromkeys(found) if stop and stop != bos]


# -- reading off -----------------------------------------------------------------------------------


def _rendered(chat: ChatFormat, messages: Sequence[dict[str, Any]], *, ask: bool = True) -> str:
    """The text that training made, without the BOS that llama.cpp puts there itself."""
    text = chat.render(messages, ask=ask)
    bos = chat.special.get(chat.bos, "") if chat.adds_bos and chat.bos is not None else ""
    while bos and text.startswith(bos):
        text = text[len(bos) :]
    return text


def _marked(roles: str) -> list[dict[str, str]]:
    """Messages for "s", "u" and "a", each of which holds a text of its own."""
    names = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": names[role], "content": f"tunesmith{i}marker"} for i, role in enumerate(roles)]


def _pieces(chat: ChatFormat, roles: str, *, ask: bool = True) -> list[str]:
    """What stands before, between and after the messages, one text more than there are messages.

    A system text that is not written anywhere counts as empty.
    """
    rest, found = _rendered(chat, messages := _marked(roles), ask=ask), list[str]()
    for message in messages:
        if rest.count(message["content"]) > 1:
            raise _Irregular("the model's template writes a message twice; Ollama's would write each once")
        before, marker, behind = rest.partition(message["content"])
        if not marker and message["role"] != "system":
            raise _Irregular("the model's template leaves messages out, or changes their order or their letters")
        found.append(before if marker else "")
        rest = behind if marker else rest
    return [*found, rest]


def _ending(chat: ChatFormat, roles: str, pieces: Sequence[str]) -> str:
    """What closes the last of these messages, wherever the conversation goes on from there (one of ``pieces``)."""
    try:
        closed = _pieces(chat, roles, ask=False)[-1]
    except ModelError:
        return ""
    common = closed
    for piece in pieces:
        common = common[: _alike(common, piece)]
    return common if common == closed else _HALF.sub("", common)


def _alike(a: str, b: str) -> int:
    """How many characters two texts begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _read_off(chat: ChatFormat) -> _Parts:
    head, first_answer, first_again, answer, again, end = _pieces(chat, "uauau")
    asked, answered = _ending(chat, "u", [first_answer, answer, end]), _ending(chat, "ua", [first_again, again])
    turn = again.removeprefix(answered)
    parts = _Parts(
        user={"assistant": _Slot(turn, _trim(chat, "uau", 2)), "": _Slot(head, _trim(chat, "u", 0))},
        assistant=_Slot(answer.removeprefix(asked), _trim(chat, "uau", 1)),
        ends={"user": asked, "assistant": answered},
        open_end=end.removeprefix(asked),
    )
    try:
        before, behind, *_ = _pieces(chat, "suau")
        dropped = _marked("suau")[0]["content"] not in _rendered(chat, _marked("suau"))
    except ModelError:
        parts.refuses_system = True
        return parts
    closes = behind.removesuffix(turn) if behind.endswith(turn) and not dropped else ""
    parts.ends["system"] = closes
    parts.user["system"] = _Slot(behind.removeprefix(closes), _trim(chat, "su", 1))
    parts.system = None if dropped else _Slot(before, _trim(chat, "su", 0))
    return parts


def _trim(chat: ChatFormat, roles: str, which: int) -> str:
    """How the template trims this message; "" too when it does something else, which the comparison will show."""
    messages = _marked(roles)
    plain, padded = messages[which]["content"], _AROUND.format(messages[which]["content"])
    expected = _rendered(chat, messages)
    messages[which]["content"] = padded
    try:
        got = _rendered(chat, messages)
    except ModelError:
        return ""
    return next((name for name, trim in _TRIMS.items() if got == expected.replace(plain, trim(padded))), "")


# -- writing ---------------------------------------------------------------------------------------


def _written(parts: _Parts) -> str:
    slots = [parts.assistant, *parts.user.values(), *([parts.system] if parts.system else [])]
    written = trimming({slot.trim for slot in slots})
    users = _users(parts)
    by_role = "$role" in users
    written += '{{ $role := "" }}' if by_role else ""
    written += "{{ range .Messages }}"
    if parts.system:
        written += '{{ if eq .Role "system" }}' + _message(parts.system) + literal(parts.ends["system"]) + "{{ else "
    else:
        written += "{{ "
    written += 'if eq .Role "user" }}' + users + literal(parts.ends["user"])
    written += '{{ else if eq .Role "assistant" }}' + _message(parts.assistant) + literal(parts.ends["assistant"])
    written += "{{ end }}" + ("{{ $role = .Role }}" if by_role else "")
    return written + "{{ end }}" + literal(parts.open_end)


def _users(parts: _Parts) -> str:
    """A question, by the role of the message before it where that matters."""
    later = _message(parts.user["assistant"])
    if parts.refuses_system:
        folded = "{{ if $.System }}{{ $.System }}\n\n{{ end }}"
        first = literal(parts.user[""].before) + folded + _content(parts.user[""].trim)
        return '{{ if eq $role "assistant" }}' + later + "{{ else }}" + first + "{{ end }}"
    cases = {role: _message(slot) for role, slot in parts.user.items() if role != "assistant"}
    if cases[""] == cases["system"] != later:
        return '{{ if eq $role "assistant" }}' + later + "{{ else }}" + cases[""] + "{{ end }}"
    branches = [f"if eq $role {quote(role)} }}}}{text}" for role, text in cases.items() if text != later]
    if not branches:
        return later
    return "{{ " + "{{ else ".join(branches) + "{{ else }}" + later + "{{ end }}"


def _message(slot: _Slot) -> str:
    return literal(slot.before) + _content(slot.trim)


def _content(trim: str) -> str:
    return f'{{{{ template "{trim}" .Content }}}}' if trim else "{{ .Content }}"


# -- comparing -------------------------------------------------------------------------------------

_KINDS = {
    "plain text": ["How many?", "Forty-two."],
    "blanks at the edges": ["  a", "b \n", "\n\n c\t\n", "\u3000d\u3000"],
    "braces and quotes": ['{{ .Content }}"""', "{% raw %}}", "'q' \\n {{", '}}"'],
    "Chinese": ["多少行？", "“四十二”行。\n"],
    "thinking in earlier answers": ["q", "<think>\nhm\n</think>\n\na"],
}
_SYSTEMS = {
    "": [None, "You are brief."],
    "an empty system message": [""],
    "blanks around the system message": [" \n s\n "],
    "braces in the system message": ['{{ .System }} "quoted"'],
    "a Chinese system message": ["你是助手。"],
}


def conversations() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """What is compared: kinds of text × system messages × one to three questions; the simplest first."""
    for kind, texts in _KINDS.items():
        for about, systems in _SYSTEMS.items():
            for system in systems:
                for turns in (1, 2, 3):
                    messages = [] if system is None else [{"role": "system", "content": system}]
                    for i in range(2 * turns - 1):
                        role = "assistant" if i % 2 else "user"
                        messages.append({"role": role, "content": texts[(i + turns - 1) % len(texts)]})
                    yield ", ".join(filter(None, [kind, about])), messages


def _differences(chat: ChatFormat, template: str, refuses_system: bool) -> Iterator[str]:
    """One sentence for each kind of conversation that is not the same; what training refuses is passed over."""
    told = set[str]()
    for about, messages in conversations():
        named = about.split(", ")  # a kind of text, and of system message: each is told once
        if told.intersection(named) or (refuses_system and messages[0]["role"] == "system"):
            continue
        try:
            trained = _rendered(chat, messages)
        except ModelError:
            continue
        sent = render(template, messages)
        if sent != trained:
            told.add(named[-1])
            at = max(0, _alike(trained, sent) - 15)
            yield f"{named[-1]}: trained on …{trained[at : at + 50]!r}, but Ollama sends …{sent[at : at + 50]!r}"
