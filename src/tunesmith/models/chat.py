"""How a model is spoken to: its tokenizer, its chat template, and the tokens that end a turn."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError

_PROBE = "tunesmith"
"""What the template is tried with, to see where it puts things."""


class ChatFormat:
    """Tokenizer and chat template of one model folder.

    The template runs in Jinja's sandbox: it comes with the model, and is a program. It is not told
    today's date (templates that ask for one have a fixed one to fall back on), so that a row gives
    the same tokens tomorrow.

    What people write never makes a control token: `turns` and `shield` mark the special tokens that
    stand in it, and `encode` takes what is marked as plain text.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json"
        if not path.exists():
            raise ModelError(f"{folder} has no tokenizer.json; get a version of the model that has one")
        try:
            self.tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ModelError(f"{path} cannot be read ({error}); download the model again") from None
        config = read_config(folder / "tokenizer_config.json")
        self.special = {i: t.content for i, t in self.tokenizer.get_added_tokens_decoder().items() if t.special}
        literals = sorted(self.special.values(), key=len, reverse=True)
        self._literal = re.compile("|".join(map(re.escape, literals)) or r"(?!)")
        self._mark = f"\U0010fffc{secrets.token_hex(8)}"  # nobody can have written it
        self.bos = self.id_of(config.get("bos_token"))
        self.eos = self.id_of(config.get("eos_token"))
        self.adds_bos = self._adds_bos(config)
        source = template_of(folder, config)
        self._template = compile_template(source, str(folder)) if source else None
        self._words: dict[str, str] = {
            f"{key}_token": _text(config.get(f"{key}_token")) for key in ("bos", "eos", "unk", "pad")
        }
        self.stop = self._stops(folder) | self.taught_end()

    # -- text and tokens -------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Token ids; special tokens written out in the text are recognised, but not what `shield` marked;
        none is added."""
        if self._mark in text:
            return self._encode_shielded(text)
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Text of token ids, with or without special tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=not special)

    def shield(self, value: Any) -> Any:
        """Text, or lists and dicts of it, in which special tokens are marked as plain text."""
        if isinstance(value, str):
            if not self._literal.search(value):
                return value
            return self._literal.sub(lambda m: f"{self._mark}:{self._names[m[0]]};", value)
        if isinstance(value, dict):
            return {self.shield(k): self.shield(v) for k, v in value.items()}
        return [self.shield(v) for v in value] if isinstance(value, list | tuple) else value

    def _encode_shielded(self, text: str) -> list[int]:
        """Encoded by a tokenizer that does not know the special tokens, only names that stand for them
        where the template wrote them; so the text is divided as the tokenizer itself divides it."""
        text = self._literal.sub(lambda m: f"{self._mark}={self._names[m[0]]};", text)
        text = re.sub(f"{self._mark}:(\\d+);", lambda m: self.special[int(m[1])], text)
        found = list[int]()
        encoded = self._shielded_tokenizer.encode(text, add_special_tokens=False)
        for token, (start, end) in zip(encoded.ids, encoded.offsets, strict=True):
            piece = text[start:end].strip()
            if piece.startswith(self._mark):
                found.append(int(piece[len(self._mark) + 1 : -1]))
            elif piece == self.special.get(token):  # a unigram model has them in its vocabulary, too
                found += [i for c in piece for i in self._character(c)]
            else:
                found.append(token)
        return found

    def _character(self, character: str) -> list[int]:
        token = self.tokenizer.token_to_id(character)
        return [token] if token is not None else self.tokenizer.encode(character, add_special_tokens=False).ids

    @cached_property
    def _names(self) -> dict[str, int]:
        return {content: token for token, content in self.special.items()}

    @cached_property
    def _shielded_tokenizer(self) -> Any:
        from tokenizers import AddedToken, Tokenizer

        made = Tokenizer.from_str(self.tokenizer.to_str())
        made.encode_special_tokens = True
        for token, added in self.tokenizer.get_added_tokens_decoder().items():
            if added.special:
                name = f"{self._mark}={token};"
                made.add_tokens([AddedToken(name, lstrip=added.lstrip, rstrip=added.rstrip, normalized=False)])
        return made

    @cached_property
    def longest_token(self) -> int:
        """Characters that a token stands for at most."""
        return max(map(len, self.tokenizer.get_vocab()), default=1)

    def pieces(self, ids: Sequence[int]) -> list[tuple[str, int]]:
        """The text that each token adds, with the number of tokens it takes: a Chinese character or an
        emoji may take several, none of which can be read alone."""
        found, taken = list[tuple[str, int]](), list[int]()
        for token in ids:
            taken.append(token)
            text = self.special.get(token) or self.tokenizer.decode(taken, skip_special_tokens=False)
            if len(taken) == 1 and (self.tokenizer.id_to_token(token) or "").startswith("▁"):
                text = text if text.startswith(" ") else " " + text  # SentencePiece drops a leading space
            if "\ufffd" not in text or len(taken) == 4:  # UTF-8 takes four bytes at most
                found.append((text, len(taken)))
                taken = []
        return [*found, (self.tokenizer.decode(taken), len(taken))] if taken else found

    def start(self, ids: list[int]) -> list[int]:
        """The ids with exactly one BOS in front where the model wants one, and never two."""
        if self.bos is None:
            return ids
        wanted = self.adds_bos or ids[:1] == [self.bos]
        while ids[:1] == [self.bos]:
            ids = ids[1:]
        return [self.bos, *ids] if wanted else ids

    # -- the chat template -----------------------------------------------------------------------

    def turns(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[Any] | None = None
    ) -> tuple[list[dict[str, Any]], list[Any]]:
        """Messages and tools as `render` takes them: shielded, and what the template has no place for is
        said in words: tools in the system message (or the first), their results as a user's turn."""
        made, last = list[dict[str, Any]](), ""
        for message in self.shield(list(messages)):
            role = message["role"]
            if role == "tool" and not self._takes_results:
                content = f"<tool_response>\n{message['content']}\n</tool_response>"
                if last == "tool":  # several results are one turn, for templates that want turns to alternate
                    made[-1]["content"] += "\n" + content
                else:
                    made.append({**message, "role": "user", "content": content})
            else:
                made.append(message)
            last = role
        described = self.shield(list(tools or []))
        if not described or self._takes_tools:
            return made, described
        sentence = f"You can call these tools: {json.dumps(described, ensure_ascii=False)}"
        if made[0]["role"] == "system":
            return [{**made[0], "content": f"{made[0]['content']}\n\n{sentence}"}, *made[1:]], []
        if self._takes_system:
            return [{"role": "system", "content": sentence}, *made], []
        return [{**made[0], "content": f"{sentence}\n\n{made[0]['content']}"}, *made[1:]], []

    def render(self, messages: Sequence[dict[str, Any]], tools: Sequence[Any] = (), *, ask: bool = False) -> str:
        """The conversation as text; with ``ask``, ended so that the model answers next.

        Raises `ModelError` when there is no template or it refuses these messages.
        """
        if self._template is None:
            raise ModelError('this model has no chat template; use rows with "text", or the chat version of the model')
        import jinja2

        try:
            return self._template.render(
                messages=list(messages), tools=list(tools) or None, add_generation_prompt=ask, **self._words
            )
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, OverflowError) as error:
            raise ModelError(f"the model's chat template refuses these messages: {error}") from None

    def prompt(self, messages: Sequence[dict[str, Any]], tools: Sequence[Any] | None = None) -> list[int]:
        """Token ids that ask the model for the next answer."""
        return self.start(self.encode(self.render(*self.turns(messages, tools), ask=True)))

    @cached_property
    def _takes_tools(self) -> bool:
        function = {"name": _PROBE, "description": "a", "parameters": {"type": "object", "properties": {}}}
        return self._shows([{"role": "user", "content": "a"}], [{"type": "function", "function": function}])

    @cached_property
    def _takes_system(self) -> bool:
        return self._shows([{"role": "system", "content": _PROBE}, {"role": "user", "content": "a"}])

    @cached_property
    def _takes_results(self) -> bool:
        turns = (("user", "a"), ("assistant", "b"), ("tool", _PROBE))
        return self._shows([{"role": role, "content": content} for role, content in turns])

    def _shows(self, messages: list[dict[str, Any]], tools: Sequence[Any] = ()) -> bool:
        """Whether the template writes the probe that stands in there: some refuse, some leave it out."""
        try:
            return _PROBE in self.render(messages, tools, ask=True)
        except ModelError:
            return False

    # -- reading the folder ----------------------------------------------------------------------

    def id_of(self, token: Any) -> int | None:
        """The id of a token as tokenizer_config.json names it: its text, or an object that holds it."""
        return self.tokenizer.token_to_id(_text(token)) if token else None

    def _adds_bos(self, config: dict[str, Any]) -> bool:
        if "add_bos_token" in config:
            return bool(config["add_bos_token"])
        ids = self.tokenizer.encode("a", add_special_tokens=True).ids
        return self.bos is not None and ids[:1] == [self.bos]

    def taught_end(self) -> frozenset[int]:
        """The token that the template ends an answer with: it is what training teaches, so it must stop
        generation too (a base model's eos is often another)."""
        try:
            text = self.render([{"role": "user", "content": "a"}, {"role": "assistant", "content": _PROBE}])
        except ModelError:
            return frozenset()
        behind = self.encode(text[text.rfind(_PROBE) + len(_PROBE) :])
        return frozenset([token for token in behind if token in self.special][:1])

    def _stops(self, folder: Path) -> frozenset[int]:
        """Every token that ends an answer: the tokenizer's, and those that generation_config.json names."""
        named = read_config(folder / "generation_config.json").get("eos_token_id")
        ids = named if isinstance(named, list) else [named]
        return frozenset(i for i in [*ids, self.eos] if i is not None)


def read_config(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no file. Raises `ModelError` when it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as error:
        raise ModelError(f"{path} cannot be read ({error}); download the model again") from None
    return value if isinstance(value, dict) else {}


def _text(token: Any) -> str:
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def template_of(folder: Path, config: dict[str, Any]) -> str | None:
    """From chat_template.jinja, else tokenizer_config.json, which may name several."""
    path = folder / "chat_template.jinja"
    if path.exists():
        return path.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {t["name"]: t["template"] for t in template}
        template = named.get("default") or next(iter(named.values()), None)
    return template


def compile_template(source: str, where: str) -> Any:
    import jinja2
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = refuse
    environment.filters["tojson"] = tojson
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as error:
        raise ModelError(f"the chat template of {where} is not valid Jinja: {error}") from None
