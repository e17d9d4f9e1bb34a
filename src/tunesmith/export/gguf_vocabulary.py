"""A folder's tokenizer and chat template as GGUF metadata: the way out of `models.gguf_tokenizer`.

tokenizer.json is what the rows were made with, so it decides; tokenizer.model, where a SentencePiece
model has one, adds the scores and types of its pieces.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tunesmith.errors import ModelError
from tunesmith.export.gguf_metadata import Value
from tunesmith.models.chat import ChatFormat, read_config, template_of
from tunesmith.models.gguf_tokenizer import BYTE, CONTROL, END_TEXTS, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from tunesmith.models.pre_tokenizers import KNOWN

_LOOKS_SPECIAL = re.compile(r"<pad>|<mask>|<2mass>|\[@BOS@\]|<\|.*\|>|<｜.*｜>|<unused.*>", re.DOTALL)
"""Added tokens that are control tokens whatever their folder says (``does_token_look_special`` of llama.cpp's
converter): Gemma and DeepSeek forgot to mark some."""
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_ADDED_SCORE, _PADDING_SCORE = -1000.0, -10000.0


class _Piece(NamedTuple):
    text: str
    score: float
    type: int


def vocabulary(base: Path, size: int) -> dict[str, Value]:
    """The ``tokenizer.*`` keys of the model in ``base`` whose embedding has ``size`` rows.

    Raises `ModelError` when there is no tokenizer, or it is of a kind that llama.cpp would read
    otherwise, with what was compared.
    """
    path = base / "tokenizer.json"
    chat = ChatFormat(base)  # refuses a folder without a tokenizer
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    model = content["model"]
    if model.get("type") != "BPE":
        raise ModelError(
            f"{path}: tokenizers of the kind {model.get('type')} cannot be written as GGUF, only BPE can; use the "
            "merged folder instead (--to merged)"
        )
    if model.get("byte_fallback"):
        keys = _sentence_piece(base, content, size, chat)
    else:
        keys = _byte_level(path, content, size)
    return keys | _special(base, chat, size)


def wants_rstrip(base: Path) -> bool:
    """Whether control tokens swallow the spaces behind them, as Phi-3's do. llama.cpp does so only in models
    with phi-3 in their name, which must have these four tokens; spaces before a token stay everywhere."""
    content = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    added = content.get("added_tokens") or []
    swallowed = any(t.get("rstrip") and t.get("special") for t in added)
    return swallowed and {"<unk>", "<s>", "</s>", "<|endoftext|>"} <= {t["content"] for t in added}


# -- byte-level BPE ----------------------------------------------------------------------------------


def _byte_level(path: Path, content: dict[str, Any], size: int) -> dict[str, Value]:
    tokens: dict[int, _Piece] = {number: _Piece(t, 0.0, NORMAL) for t, number in content["model"]["vocab"].items()}
    tokens |= _added(content)
    texts, _, types = _table(tokens, size)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": _pre_name(path, content),
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [_merge(m) for m in content["model"]["merges"]],
    }


def _merge(merge: str | list[str]) -> str:
    """llama.cpp parts a merge at its space; one inside a part is written as a letter."""
    return merge if isinstance(merge, str) else " ".join(part.replace(" ", "Ġ") for part in merge)


def _pre_name(path: Path, content: dict[str, Any]) -> str:
    """llama.cpp's name of the way this tokenizer cuts text. Accents are not composed there (NFC): two
    tokenizers that differ only in that are the same to it."""
    steps, ignore = _steps(content.get("pre_tokenizer")), bool(content["model"].get("ignore_merges"))
    normal = _steps(content.get("normalizer"))
    alike = [n for n, p in KNOWN.items() if _steps(p.pre_tokenizer) == steps and p.ignore_merges == ignore]
    exact = [n for n in alike if _steps(KNOWN[n].normalizer) == normal]
    if not alike or normal not in ([], [("NFC",)]):
        raise ModelError(
            f"{path}: llama.cpp cuts text in no way that is known here to be this tokenizer's: its normalizer "
            f"{json.dumps(content.get('normalizer'))}, pre_tokenizer {json.dumps(content.get('pre_tokenizer'))} and "
            f"ignore_merges {json.dumps(ignore)} were compared with those of {', '.join(KNOWN)}; "
            f"use the merged folder instead (--to merged)"
        )
    return (exact or alike)[0]


def _steps(part: dict[str, Any] | None) -> list[tuple[Any, ...]]:
    """What a normalizer or pre-tokenizer does, step by step, without what makes no difference to ids."""
    if not part:
        return []
    kind = part["type"]
    if kind == "Sequence":
        inner = part.get("pretokenizers") or part.get("normalizers") or []
        return [step for child in inner for step in _steps(child)]
    if kind == "Split":
        behavior, invert = part["behavior"], bool(part.get("invert"))
        # To keep only what matches and to cut around it is the same, as these patterns match everything.
        behavior, invert = ("Isolated", False) if (behavior, invert) == ("Removed", True) else (behavior, invert)
        return [(kind, json.dumps(part["pattern"], sort_keys=True), behavior, invert)]
    if kind == "ByteLevel":
        return [(kind, bool(part.get("add_prefix_space", True)), bool(part.get("use_regex", True)))]
    return [(kind, *sorted((k, json.dumps(v)) for k, v in part.items() if k != "type"))]


# -- SentencePiece -----------------------------------------------------------------------------------


def _sentence_piece(base: Path, content: dict[str, Any], size: int, chat: ChatFormat) -> dict[str, Value]:
    path = base / "tokenizer.model"
    if path.is_file():
        pieces = _stored_pieces(path)
        vocab, added = content["model"]["vocab"], _added(content)
        if other := [i for i, p in enumerate(pieces) if i not in added and vocab.get(p.text, i) != i]:
            raise ModelError(f"{path} and tokenizer.json give {pieces[other[0]].text!r} other ids; download both again")
    else:
        pieces = _pieces_of_merges(base / "tokenizer.json", content)
    tokens = dict(enumerate(pieces)) | _added(content)
    texts, scores, types = _table(tokens, size)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.add_space_prefix": _space_prefix(base, content, chat),
    }


def _space_prefix(base: Path, content: dict[str, Any], chat: ChatFormat) -> bool:
    """Whether a space is put before a text. llama.cpp puts it behind every control token too, as the
    Prepend of older tokenizers does; the newer Metaspace only where a text starts: chats start with a
    control token, and so have none."""
    steps = _steps(content.get("normalizer")) + _steps(content.get("pre_tokenizer"))
    space, split = json.dumps({"String": " "}), ("Split", json.dumps({"String": " "}), "MergedWithPrevious", False)
    replace, prepend = ("Replace", ("content", '"\\u2581"'), ("pattern", space)), ("Prepend", ("prepend", '"\\u2581"'))
    steps = [s for s in steps if s != split]  # comes when no space is left
    if steps == [replace]:
        return False
    if steps == [prepend, replace]:
        return True
    named = dict(steps[0][1:]) if len(steps) == 1 and steps[0][0] == "Metaspace" else {}
    scheme = named.get("prepend_scheme")
    if named.get("replacement") != '"\\u2581"' or named.get("split") != "false" or scheme is None:
        raise ModelError(
            f"{base / 'tokenizer.json'}: llama.cpp marks spaces in another way than this tokenizer: its normalizer "
            f"{json.dumps(content.get('normalizer'))} and pre_tokenizer {json.dumps(content.get('pre_tokenizer'))} "
            f"were compared with SentencePiece's (Prepend and Replace, or Metaspace); use the merged folder instead "
            "(--to merged)"
        )
    return scheme == '"always"' or (scheme == '"first"' and not _starts_with_control(chat))


def _starts_with_control(chat: ChatFormat) -> bool:
    try:
        ids = chat.encode(chat.render([{"role": "user", "content": "a"}], ask=True))
    except ModelError:
        return False
    return ids[0] in chat.special


def _pieces_of_merges(path: Path, content: dict[str, Any]) -> list[_Piece]:
    """Scores that order the pieces as the merges do; see `gguf_tokenizer.merges_from_scores`.

    Raises `ModelError` when no scores can: the merges of one piece lie apart, or one is missing.
    """
    vocab: dict[str, int] = content["model"]["vocab"]
    added = _added(content)
    ordinary = {t for t, number in vocab.items() if number not in added and not _BYTE.fullmatch(t)}
    ordinary.discard(content["model"].get("unk_token"))
    merges = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in content["model"]["merges"]]
    merges = [m for m in merges if m[0] in ordinary and m[1] in ordinary and m[0] + m[1] in ordinary]
    order: dict[str, int] = {}
    last = ""
    for left, right in merges:
        if left + right != last and left + right in order:
            raise _not_sentence_piece(path, left + right)
        last = left + right
        order.setdefault(last, len(order))
    made = set(merges)
    for piece in ordinary:
        if missing := [m for m in _ways(piece) if m[0] in ordinary and m[1] in ordinary and m not in made]:
            raise _not_sentence_piece(path, "".join(missing[0]))
    pieces = {number: _Piece(t, -float(order.get(t, len(order) + number)), NORMAL) for t, number in vocab.items()}
    for text, number in vocab.items():
        if _BYTE.fullmatch(text):
            pieces[number] = _Piece(text, 0.0, BYTE)
        elif text == content["model"].get("unk_token"):
            pieces[number] = _Piece(text, 0.0, UNKNOWN)
    return [pieces.get(i, _Piece(f"[PAD{i}]", _PADDING_SCORE, UNUSED)) for i in range(max(pieces) + 1)]


def _ways(piece: str) -> Iterator[tuple[str, str]]:
    """Every way to part a piece in two."""
    return ((piece[:at], piece[at:]) for at in range(1, len(piece)))


def _not_sentence_piece(path: Path, piece: str) -> ModelError:
    return ModelError(
        f"{path}: llama.cpp would join {piece!r} in another order than its merges do, and there is no "
        f"tokenizer.model beside it; put the model's own tokenizer.model there"
    )


def _stored_pieces(path: Path) -> list[_Piece]:
    """The pieces of a tokenizer.model. It is a protobuf: field 1, repeated, a piece (1 text, 2 score, 3
    type); field 2 how it was trained (3: 1 unigram, 2 BPE). See sentencepiece_model.proto."""
    try:
        fields = list(_fields(path.read_bytes()))
        trained = dict(_fields(next((v for n, v in fields if n == 2), b"")))
        pieces = []
        for piece in (dict(_fields(v)) for n, v in fields if n == 1):
            score = struct.unpack("<f", piece.get(2, b"\0\0\0\0"))[0]
            pieces.append(_Piece(piece[1].decode("utf-8"), score, piece.get(3, NORMAL)))
    except (ValueError, KeyError, IndexError, TypeError, struct.error, OSError) as error:
        raise ModelError(f"{path} is no SentencePiece model ({error}); download it again") from None
    if trained.get(3, 1) != 2:
        raise ModelError(
            f"{path}: SentencePiece models of the kind unigram cannot be written as GGUF, only BPE can; use the merged "
            "folder instead (--to merged)"
        )
    return pieces


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of a protobuf message: ints as int, everything else as bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        length, at = _varint(data, at) if wire == 2 else ({1: 8, 5: 4}[wire], at)
        if at + length > len(data):
            raise ValueError("it is cut short")
        yield key >> 3, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at


# -- both --------------------------------------------------------------------------------------------


def _added(content: dict[str, Any]) -> dict[int, _Piece]:
    """Tokens that are found in the text as they stand: llama.cpp looks for them before spaces become ▁."""
    found, unknown = {}, content["model"].get("unk_token")
    for token in content.get("added_tokens") or []:
        text = str(token["content"])
        control = token.get("special") or _LOOKS_SPECIAL.fullmatch(text)
        kind = (UNKNOWN if text == unknown else CONTROL) if control else USER_DEFINED
        found[int(token["id"])] = _Piece(text if control else text.replace("▁", " "), _ADDED_SCORE, kind)
    return found


def _table(tokens: dict[int, _Piece], size: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Texts, scores and types of ``size`` tokens: one for each row of the embedding, no more and no less."""
    table = [tokens.get(i, _Piece(f"[PAD{i}]", _PADDING_SCORE, UNUSED)) for i in range(size)]
    scores = np.array([p.score for p in table], np.float32)
    return [p.text for p in table], scores, np.array([p.type for p in table], np.int32)


def _special(base: Path, chat: ChatFormat, size: int) -> dict[str, Value]:
    """bos, eos and the others by id, and the template. What ends an answer besides eos, and is not known to
    llama.cpp by its text, is said too."""
    config = read_config(base / "tokenizer_config.json")
    ends = sorted(i for i in chat.stop if i != chat.eos)
    eos = chat.eos if chat.eos is not None else next(iter(ends), None)
    unknown = [i for i in ends if i != eos and chat.special.get(i) not in END_TEXTS]
    ids = {"bos": chat.bos, "eos": eos, "unknown": chat.id_of(config.get("unk_token"))}
    ids |= {"padding": chat.id_of(config.get("pad_token")), **dict(zip(("eot", "eom"), unknown, strict=False))}
    keys: dict[str, Value] = {
        f"tokenizer.ggml.{name}_token_id": number
        for name, number in ids.items()
        if number is not None and number < size
    }
    keys["tokenizer.ggml.add_bos_token"] = chat.adds_bos and chat.bos is not None
    keys["tokenizer.ggml.add_eos_token"] = False
    if template := template_of(base, config):
        keys["tokenizer.chat_template"] = template
    return keys
