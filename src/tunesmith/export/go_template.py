"""The part of Go's text/template that derived TEMPLATEs are written in, run as Ollama runs it.

Literal text, ``if``/``else if``/``else``, ``range``, variables, ``define`` and ``template``, and the
functions eq, and, ge, len and slice. Strings are bytes, as in Go. No trim markers, no pipes: whatever
else stands in a template is a ValueError, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

_ACTION = re.compile(r'\{\{((?:"(?:[^"\\]|\\.)*"|[^"}])*)\}\}')
_TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[()]|:=|=|\$?(?:\.[A-Za-z]+)+|\$[A-Za-z]+|\.|\d+|[a-z]+)')
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}
_BLANKS = " \t\n\x0b\x0c\r\x1c\x1d\x1e\x1f\x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B)))
_BLANKS += "\u2028\u2029\u202f\u205f\u3000"
"""What Python's strip() takes away, and so Jinja's trim."""

Node = tuple[Any, ...]


def quote(text: str) -> str:
    """A Go string literal in which every character can be printed (a Modelfile drops the others)."""
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character in "\n\t":
        return "\\n" if character == "\n" else "\\t"
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def literal(text: str) -> str:
    """Text as a template writes it. What Go or a Modelfile would take for its own (braces, three quotes,
    characters that cannot be printed) stands in an action, as a string."""

    def written(match: re.Match[str]) -> str:
        piece = match[0]
        plain = piece in "\n\t" or (piece.isprintable() and piece[0] != "{" and not piece.startswith('"""'))
        return piece if plain else "{{ " + quote(piece) + " }}"

    return re.sub(r'\{+|"{3,}|.', written, text, flags=re.DOTALL)


def trimming(names: set[str]) -> str:
    """Definitions of the templates "left", "right" and "trim", those that are named: each writes its text without
    the blanks at that edge, or at both.

    Each cuts one blank (of one, two or three bytes) and calls itself; without arithmetic, a text's length
    less k is ``len (slice . k)``.
    """
    written = ""
    if names & {"right", "trim"}:
        written += _definition("right", "slice . (len (slice . {}))", "slice . 0 (len (slice . {}))", "{{ . }}")
    if "left" in names:
        written += _definition("left", "slice . 0 {}", "slice . {}", "{{ . }}")
    if "trim" in names:
        written += _definition("trim", "slice . 0 {}", "slice . {}", '{{ template "right" . }}')
    return written


def _definition(name: str, edge: str, rest: str, done: str) -> str:
    branches = list[str]()
    for size in (1, 2, 3):
        blanks = " ".join(quote(blank) for blank in _BLANKS if len(blank.encode()) == size)
        condition = f"and (ge (len .) {size}) (eq ({edge.format(size)}) {blanks})"
        branches.append(f'if {condition} }}}}{{{{ template "{name}" ({rest.format(size)}) }}}}')
    chain = "{{ " + "{{ else ".join(branches) + "{{ else }}" + done + "{{ end }}"
    return f'{{{{ define "{name}" }}}}{chain}{{{{ end }}}}'


def collate(messages: Sequence[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """Ollama's way: every system text joined, and neighbours of one role made one message."""
    made = list[dict[str, Any]]()
    for message in messages:
        if made and made[-1]["role"] == message["role"] != "tool":
            made[-1]["content"] += "\n\n" + message["content"]
        else:
            made.append({"role": message["role"], "content": message["content"]})
    return "\n\n".join(m["content"] for m in messages if m["role"] == "system"), made


def render(template: str, messages: Sequence[dict[str, Any]]) -> str:
    """The prompt that Ollama makes of these messages. Raises ValueError for a template that is not of this subset."""
    system, collated = collate(messages)
    nodes, defined = parse(template)
    data = {
        "System": system.encode(),
        "Messages": [{"Role": m["role"].encode(), "Content": m["content"].encode()} for m in collated],
    }
    return b"".join(_run(nodes, defined, data)).decode()


# -- parsing ---------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def parse(template: str) -> tuple[list[Node], dict[bytes, list[Node]]]:
    """The nodes of a template and those of the templates that it defines."""
    parts = _ACTION.split(template)
    if any("{{" in text for text in parts[::2]):
        raise ValueError("an action that is not closed")
    stream = iter([p if i % 2 else p.encode() for i, p in enumerate(parts)])
    defined = dict[bytes, list[Node]]()
    nodes, end = _block(stream, defined)
    if end:
        raise ValueError(f"{{{{ {' '.join(end)} }}}} without a beginning")
    return nodes, defined


def _block(stream: Iterator[str | bytes], defined: dict[bytes, list[Node]]) -> tuple[list[Node], list[str]]:
    """Nodes up to an ``else`` or ``end``, and that action's words (none at the end of the template)."""
    nodes = list[Node]()
    for part in stream:
        if isinstance(part, bytes):
            nodes += [("text", part)] if part else []
            continue
        words = _words(part)
        match words:
            case ["else" | "end", *_]:
                return nodes, words
            case ["define", name]:
                defined[_string(name)] = _closed(stream, defined)
            case ["range", *rest]:
                nodes.append(("range", _expression(rest), _closed(stream, defined)))
            case ["if", *rest]:
                nodes.append(_branches(rest, stream, defined))
            case ["template", name, *rest]:
                nodes.append(("template", _string(name), _expression(rest)))
            case [name, ":=" | "=", *rest]:
                nodes.append(("set", name, _expression(rest)))
            case _:
                nodes.append(("print", _expression(words)))
    return nodes, []


def _closed(stream: Iterator[str | bytes], defined: dict[bytes, list[Node]]) -> list[Node]:
    nodes, end = _block(stream, defined)
    if end != ["end"]:
        raise ValueError("a block that is not ended")
    return nodes


def _branches(condition: list[str], stream: Iterator[str | bytes], defined: dict[bytes, list[Node]]) -> Node:
    nodes, end = _block(stream, defined)
    match end:
        case ["end"]:
            otherwise = []
        case ["else"]:
            otherwise = _closed(stream, defined)
        case ["else", "if", *rest]:
            otherwise = [_branches(rest, stream, defined)]
        case _:
            raise ValueError("an if that is not ended")
    return "if", _expression(condition), nodes, otherwise


def _words(action: str) -> list[str]:
    found, at = list[str](), 0
    action = action.rstrip()
    while at < len(action):
        match = _TOKEN.match(action, at)
        if match is None:
            raise ValueError(f"not understood: {{{{{action}}}}}")
        found.append(match[1])
        at = match.end()
    return found


def _expression(words: list[str]) -> Any:
    """A literal (bytes or int), a name, or a list of a function's name and its arguments."""
    stack: list[list[Any]] = [[]]
    for word in words:
        if word == "(":
            stack.append([])
        elif word == ")" and len(stack) > 1:
            inner = stack.pop()
            stack[-1].append(inner)
        else:
            stack[-1].append(int(word) if word.isdigit() else _string(word) if word[0] == '"' else word)
    if len(stack) != 1 or not stack[0]:
        raise ValueError(f"not understood: {' '.join(words)}")
    return stack[0] if len(stack[0]) > 1 else stack[0][0]


def _string(word: str) -> bytes:
    if not word.startswith('"'):
        raise ValueError(f"a string was expected: {word}")
    return re.sub(r"\\(U[0-9a-f]{8}|u[0-9a-f]{4}|.)", _unescaped, word[1:-1]).encode()


def _unescaped(match: re.Match[str]) -> str:
    code = match[1]
    return chr(int(code[1:], 16)) if code[0] in "uU" else _ESCAPES.get(code, code)


# -- running ---------------------------------------------------------------------------------------


def _run(nodes: list[Node], defined: dict[bytes, list[Node]], data: Any) -> Iterator[bytes]:
    """The output, piece by piece. The stack is kept here: a template may call itself once a blank."""
    stack: list[tuple[Iterator[Node], Any, dict[str, Any]]] = [(iter(nodes), data, {"$": data})]
    while stack:
        following, dot, names = stack[-1]
        node = next(following, None)
        if node is None:
            stack.pop()
            continue
        match node:
            case ("text", text):
                yield text
            case ("print", expression):
                yield _value(expression, dot, names)
            case ("set", name, expression):
                names[name] = _value(expression, dot, names)
            case ("if", condition, then, otherwise):
                stack.append((iter(then if _value(condition, dot, names) else otherwise), dot, names))
            case ("range", expression, body):
                stack += [(iter(body), item, names) for item in reversed(_value(expression, dot, names))]
            case ("template", name, expression):
                passed = _value(expression, dot, names)
                stack.append((iter(defined[name]), passed, {"$": passed}))


def _value(expression: Any, dot: Any, names: dict[str, Any]) -> Any:
    if isinstance(expression, list):
        name, *arguments = expression
        if name == "and":  # stops at the first that is false, as Go's does
            return all(_value(argument, dot, names) for argument in arguments)
        return _FUNCTIONS[name](*(_value(argument, dot, names) for argument in arguments))
    if not isinstance(expression, str):
        return expression
    if expression == ".":
        return dot
    if expression[0] == ".":
        return dot[expression[1:]]
    if expression.startswith("$."):
        return names["$"][expression[2:]]
    return names[expression]


def _slice(text: bytes, start: int, end: int | None = None) -> bytes:
    if start > len(text) or (end is not None and end > len(text)):
        raise ValueError("slice out of range")
    return text[start:end]


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "eq": lambda first, *others: first in others,
    "ge": lambda a, b: a >= b,
    "len": len,
    "slice": _slice,
}
