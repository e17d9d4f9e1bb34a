"""Why an exported file is not the trained model: its metadata, vocabulary and chat template, read back and held
against the model it was made of. `diagnose_weights` does the same for its tensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.errors import ModelError
from tunesmith.models import chat as chats
from tunesmith.models.architecture import Architecture, Rope, parse_architecture, read_architecture
from tunesmith.models.chat import ChatFormat
from tunesmith.models.gguf_config import hf_config
from tunesmith.models.gguf_file import Gguf
from tunesmith.models.gguf_tokenizer import CONTROL, generation_ids, special_ids, tokenizer_files
from tunesmith.models.gguf_tokenizer import UNKNOWN as UNKNOWN_TOKEN


@dataclass(frozen=True)
class Cause:
    """One thing that is wrong, by name, as a sentence; ``places`` are the tensors or tokens it was seen at."""

    name: str
    sentence: str
    places: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "sentence": self.sentence, "places": list(self.places)}


UNKNOWN = Cause(
    "not found",
    "The two models answer differently, and yet metadata, vocabulary, chat template and every tensor of the file are "
    "as they should be: the cause is not known. It may lie in llama.cpp or in the training engine; please report it.",
)
ROUNDED = Cause(
    "lost in quantizing",
    "every tensor is the trained one, rounded: it is the rounding that moves the answers this far",
)
DISTORTED = "adapter distorted by quantizing"
OF_ROUNDING = (ROUNDED.name, DISTORTED)
"""Causes that a kind with more bits mends; which, the proof says behind them."""


# -- metadata ----------------------------------------------------------------------------------------


_SAID = {
    "norm_eps": ("wrong rms_norm_eps", "attention.layer_norm_rms_epsilon (rms_norm_eps)"),
    "rope": ("wrong rope base", "rope.freq_base and its scaling (rope_theta, rope_scaling)"),
    "local_rope": ("wrong rope base", "rope.freq_base_swa (rope_local_base_freq)"),
    "windows": ("wrong attention window", "attention.sliding_window"),
    "query_scale": ("wrong scale of queries", "the scale of queries (query_pre_attn_scalar)"),
}
_NOT_IN_A_GGUF = {"family", "activation", "embedding_scale", "context"}
"""llama.cpp takes the first from the architecture's name (Mistral's files say llama), and the last is advice."""


def shape_causes(gguf: Gguf, base: Path) -> list[Cause]:
    """What the file's metadata say of the model, against the base's config.json."""
    expected = read_architecture(base)
    try:
        found = parse_architecture(hf_config(gguf), str(gguf.path))
    except ModelError as error:
        return [Cause("wrong metadata", f"The file's own metadata do not describe a model that runs: {error}")]
    causes = list[Cause]()
    for field in Architecture.__dataclass_fields__:
        want, got = getattr(expected, field), getattr(found, field)
        if field in _NOT_IN_A_GGUF or _same(want, got) or (field == "windows" and expected.family == "mistral"):
            continue
        name, key = _SAID.get(field, (f"wrong {field}", field))
        causes.append(Cause(name, f"{key} is {_word(got)} in the file, and {_word(want)} in the model it was made of."))
    return causes


def _same(want: Any, got: Any) -> bool:
    """Equal, numbers as 32-bit floats hold them."""
    if isinstance(want, Rope) and isinstance(got, Rope):
        if want.kind != got.kind or not _same(want.theta, got.theta):
            return False
        if want.kind == "llama3":  # only these ratios are kept in a GGUF
            a, b = ((r.factor, r.original_length / r.low_freq_factor, r.original_length / r.high_freq_factor)
                    for r in (want, got))  # fmt: skip
            return bool(np.allclose(a, b, rtol=1e-3))
        return want.kind == "default" or _same(want.factor, got.factor)
    if isinstance(want, float) and isinstance(got, float):
        return bool(np.isclose(want, got, rtol=1e-6, atol=0))
    return want == got


def _word(value: Any) -> str:
    if isinstance(value, Rope):
        return f"{value.theta:g}" + ("" if value.kind == "default" else f" ({value.kind}, factor {value.factor:g})")
    return f"{value:g}" if isinstance(value, float) else str(value)


# -- vocabulary, end and beginning -------------------------------------------------------------------


def token_causes(gguf: Gguf, chat: ChatFormat) -> list[Cause]:
    """Tokens, merges, and the ids that begin and end an answer, against the tokenizer of the base."""
    return [*_vocabulary(gguf, chat), *_end(gguf, chat), *_beginning(gguf, chat)]


def _vocabulary(gguf: Gguf, chat: ChatFormat) -> Iterator[Cause]:
    tokens, types = gguf.require("tokenizer.ggml.tokens"), gguf.get("tokenizer.ggml.token_type") or []
    known: dict[str, int] = chat.tokenizer.get_vocab(with_added_tokens=True)
    ours = {number: token for token, number in known.items()}
    # Ids that the tokenizer does not know fill the embedding up: what they are called is of no matter.
    wrong = [i for i, token in ours.items() if i < len(tokens) and _spaced(tokens[i]) != _spaced(token)]
    if wrong:
        places = tuple(f"token {i}" for i in sorted(wrong)[:5])
        first = min(wrong)
        yield Cause(
            "tokenizer differs",
            f"{len(wrong):,} of {len(ours):,} tokens are others than in training; token {first} is {tokens[first]!r} "
            f"in the file and {ours[first]!r} in training.",
            places,
        )
    plain = [i for i in chat.special if i < len(types) and types[i] not in (CONTROL, UNKNOWN_TOKEN)]
    if plain:
        yield Cause(
            "tokenizer differs",
            f"{chat.special[plain[0]]!r} is a control token in training and ordinary text in the file.",
            tuple(f"token {i}" for i in plain[:5]),
        )
    if (merges := gguf.get("tokenizer.ggml.merges")) is not None:
        yield from _merges(merges, chat)


def _spaced(token: str) -> str:
    """Added tokens are written with spaces, which tokenizer.json may have as ▁."""
    return token.replace("▁", " ")


def _merges(found: list[str], chat: ChatFormat) -> Iterator[Cause]:
    pairs = json.loads(chat.tokenizer.to_str())["model"].get("merges") or []
    expected = [p if isinstance(p, str) else " ".join(part.replace(" ", "Ġ") for part in p) for p in pairs]
    if found == expected:
        return
    at = next(
        (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), min(len(found), len(expected))
    )
    said, want = (repr(m[at]) if at < len(m) else "missing" for m in (found, expected))
    yield Cause(
        "tokenizer differs",
        f"the merges of the tokenizer differ from number {at} on: {said} in the file, {want} in training.",
        (f"merge {at}",),
    )


def _end(gguf: Gguf, chat: ChatFormat) -> Iterator[Cause]:
    """llama.cpp must stop at the taught end. Where the base names it as its eos, the file must do so too: what
    llama.cpp finds by a token's text, other programs do not."""
    named, stops = gguf.get("tokenizer.ggml.eos_token_id"), generation_ids(gguf)["eos_token_id"]
    taught = chat.taught_end() or frozenset([] if chat.eos is None else [chat.eos])
    if not taught or (taught & set(stops) and (chat.eos not in taught or named == chat.eos)):
        return
    token = min(taught)
    yield Cause(
        "missing stop",
        f"answers were taught to end with {chat.special.get(token, token)!r} (token {token}), and the file names token "
        f"{named} as the end (tokenizer.ggml.eos_token_id): answers run on.",
        (f"token {token}",),
    )


def _beginning(gguf: Gguf, chat: ChatFormat) -> Iterator[Cause]:
    asks, begin = adds_bos(gguf), special_ids(gguf).get("bos")
    if asks and chat.bos is not None and begin != chat.bos:
        yield Cause("wrong BOS", f"the file begins a text with token {begin}, training with token {chat.bos}.")
    if asks == chat.adds_bos:
        return
    template = str(gguf.get("tokenizer.chat_template") or "")
    written = "bos_token" in template or bool(chat.bos is not None and chat.special.get(chat.bos, "\0") in template)
    if asks and written:
        yield Cause(
            "double BOS",
            "the file asks for BOS (tokenizer.ggml.add_bos_token), and its chat template writes one too: programs "
            "that do both begin a question with two.",
        )
    elif asks:
        yield Cause("BOS too many", "the file asks for BOS (tokenizer.ggml.add_bos_token); in training there was none.")
    elif not written:
        yield Cause("missing BOS", "in training every text began with BOS; the file does not ask for it.")


def adds_bos(gguf: Gguf) -> bool:
    """Whether llama.cpp puts BOS before a text: as the metadata say, or by the kind of tokenizer."""
    return bool(tokenizer_files(gguf)["tokenizer_config.json"]["add_bos_token"])


# -- the template ------------------------------------------------------------------------------------


def template_causes(gguf: Gguf, base: Path) -> list[Cause]:
    """Asked when a prompt differs: is the file's chat template the one of training?"""
    expected = chats.template_of(base, chats.read_config(base / "tokenizer_config.json")) or ""
    found = str(gguf.get("tokenizer.chat_template") or "")
    if not found:
        return [Cause("wrong template", "the file has no chat template: programs guess one.")]
    causes = list[Cause]()
    if found != expected:
        at = next((i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), 0)
        causes.append(Cause(
            "wrong template",
            f"the file's chat template is another than the one of training; they part at character {at}: "
            f"{found[at : at + 40]!r} in the file, {expected[at : at + 40]!r} in training.",
        ))  # fmt: skip
    if "strftime_now" in found:
        causes.append(Cause(
            "today's date",
            "the chat template writes today's date where a program tells it; in training it had a fixed one.",
        ))  # fmt: skip
    return causes
