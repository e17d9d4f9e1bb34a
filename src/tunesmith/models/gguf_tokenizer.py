"""A GGUF's tokenizer as ``tokenizer.json`` and ``tokenizer_config.json``.

Two kinds exist in the families that are supported. "gpt2" is byte-level BPE: the merges are in the
metadata, the way text is cut before merging only by name (``tokenizer.ggml.pre``). "llama" is
SentencePiece: there are scores instead of merges, bytes for what has no token, ▁ for a space.
"""

from __future__ import annotations

import json
from typing import Any

from tunesmith.errors import ModelError
from tunesmith.models.gguf_file import Gguf
from tunesmith.models.pre_tokenizers import PreTokenizer, pre_tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
END_TEXTS = frozenset(
    ["<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>"]
) | {"<EOT>", "<|end_of_text|>", "<end_of_utterance>", "</s>", "<eos>", "<｜end▁of▁sentence｜>"}
"""Control tokens that llama.cpp takes for the end of an answer by their text (llama-vocab.cpp). It goes by
the text alone; Gemma has </s> as an ordinary piece of HTML."""


def tokenizer_files(gguf: Gguf) -> dict[str, dict[str, Any]]:
    """File name -> content, for tokenizer.json, tokenizer_config.json and generation_config.json.

    Raises `ModelError` for a kind of tokenizer that cannot be written exactly, naming it.
    """
    kind = gguf.require("tokenizer.ggml.model")
    if kind == "gpt2":
        tokenizer, adds_bos = _byte_level(gguf)
    elif kind == "llama":
        tokenizer, adds_bos = _sentence_piece(gguf)
    else:
        raise ModelError(
            f"{gguf.path}: its tokenizer is of the kind {kind!r}, which is not supported; supported are "
            f"gpt2 (byte-level BPE) and llama (SentencePiece)"
        )
    special = special_ids(gguf)
    adds_bos = bool(gguf.get("tokenizer.ggml.add_bos_token", adds_bos)) and "bos" in special
    adds_eos = bool(gguf.get("tokenizer.ggml.add_eos_token", False)) and "eos" in special
    tokens = gguf.require("tokenizer.ggml.tokens")
    tokenizer["post_processor"] = _template(
        (tokens[special["bos"]], special["bos"]) if adds_bos else None,
        (tokens[special["eos"]], special["eos"]) if adds_eos else None,
    )
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": adds_bos,
        "add_eos_token": adds_eos,
        "clean_up_tokenization_spaces": False,
        "model_max_length": int(gguf.require("{arch}.context_length")),
        **{f"{name}_token": tokens[number] for name, number in special.items()},
    }
    if template := gguf.get("tokenizer.chat_template"):
        config["chat_template"] = template
    return {
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": config,
        "generation_config.json": generation_ids(gguf),
    }


def generation_ids(gguf: Gguf) -> dict[str, Any]:
    """bos, pad and all end ids, the tokenizer's own end token first."""
    special = special_ids(gguf)
    tokens, types = gguf.require("tokenizer.ggml.tokens"), _types(gguf)
    ends = [special.get("eos"), *(gguf.get(f"tokenizer.ggml.{name}_token_id") for name in ("eot", "eom"))]
    ends += [i for i, t in enumerate(tokens) if t in END_TEXTS and types[i] == CONTROL]
    ids = {"bos_token_id": special.get("bos"), "pad_token_id": special.get("pad")}
    found = {name: number for name, number in ids.items() if number is not None}
    return found | {"eos_token_id": list(dict.fromkeys(e for e in ends if e is not None))}


def special_ids(gguf: Gguf) -> dict[str, int]:
    """bos, eos, unk and pad by id. SentencePiece files may leave out <unk> 0, <s> 1, </s> 2."""
    llama = gguf.get("tokenizer.ggml.model") == "llama"
    usual = {"bos": 1, "eos": 2, "unk": 0} if llama else {}
    keys = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    ids = {name: gguf.get(f"tokenizer.ggml.{key}_token_id", usual.get(name)) for name, key in keys.items()}
    if ids["pad"] is None:
        ids["pad"] = ids["eos"]
    count = len(gguf.require("tokenizer.ggml.tokens"))
    return {name: int(number) for name, number in ids.items() if number is not None and 0 <= number < count}


def _types(gguf: Gguf) -> list[int]:
    tokens = gguf.require("tokenizer.ggml.tokens")
    types = gguf.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    if len(types) != len(tokens):
        raise ModelError(f"{gguf.path}: its tokens and their types differ in number; download it again")
    return types


def _byte_level(gguf: Gguf) -> tuple[dict[str, Any], bool]:
    name = str(gguf.get("tokenizer.ggml.pre", "default"))
    pre = pre_tokenizer(name)
    if pre is None:
        raise ModelError(
            f"{gguf.path}: its pre-tokenizer {name!r} is not known here; use the model's safetensors folder"
        )
    merges = [_split_merge(merge) for merge in gguf.require("tokenizer.ggml.merges")]
    model = _bpe(gguf, merges, ignore_merges=pre.ignore_merges)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return _tokenizer(gguf, model, pre, byte_level), pre.adds_bos


def _split_merge(merge: str) -> list[str]:
    """Both parts; as in llama.cpp the first space after the first character parts them."""
    at = merge.find(" ", 1)
    return [merge[:at], merge[at + 1 :]] if at > 0 else [merge]


def _sentence_piece(gguf: Gguf) -> tuple[dict[str, Any], bool]:
    types = _types(gguf)
    if BYTE not in types:
        raise ModelError(f"{gguf.path}: its SentencePiece tokenizer has no byte tokens, which is not supported")
    model = _bpe(gguf, merges_from_scores(gguf), byte_fallback=True)
    prefix = bool(gguf.get("tokenizer.ggml.add_space_prefix", True))
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    steps = [{"type": "Prepend", "prepend": "▁"}, replace] if prefix else [replace]
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    pre = PreTokenizer(normalizer={"type": "Sequence", "normalizers": steps})
    return _tokenizer(gguf, model, pre, {"type": "Sequence", "decoders": decoders}), True


def merges_from_scores(gguf: Gguf) -> list[list[str]]:
    """Every way to put a piece together from two others, the best score first.

    SentencePiece joins the two neighbours whose union has the best score; a BPE whose merges are all
    the (left, right) of all pieces, ordered by score, does the same. Only ordinary pieces take part:
    control and user-defined tokens are matched in the text before.
    """
    tokens, types = gguf.require("tokenizer.ggml.tokens"), _types(gguf)
    scores = gguf.require("tokenizer.ggml.scores")
    ordinary = {t: i for i, t in enumerate(tokens) if types[i] == NORMAL}
    by_score = sorted(ordinary.items(), key=lambda item: (-scores[item[1]], item[1]))
    return [
        [piece[:at], piece[at:]]
        for piece, _ in by_score
        for at in range(1, len(piece))
        if piece[:at] in ordinary and piece[at:] in ordinary
    ]


def _bpe(
    gguf: Gguf, merges: list[list[str]], *, byte_fallback: bool = False, ignore_merges: bool = False
) -> dict[str, Any]:
    tokens = gguf.require("tokenizer.ggml.tokens")
    vocabulary = {token: i for i, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise ModelError(f"{gguf.path}: its vocabulary holds a token twice; convert or download it again")
    unknown = special_ids(gguf).get("unk") if byte_fallback else None
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": tokens[unknown] if unknown is not None else None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": byte_fallback,
        "byte_fallback": byte_fallback,
        "ignore_merges": ignore_merges,
        "vocab": vocabulary,
        "merges": merges,
    }


def _tokenizer(gguf: Gguf, model: dict[str, Any], pre: PreTokenizer, decoder: dict[str, Any]) -> dict[str, Any]:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(gguf),
        "normalizer": pre.normalizer,
        "pre_tokenizer": pre.pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }


def _added(gguf: Gguf) -> list[dict[str, Any]]:
    """Tokens that are found in the text as they stand, before anything else is done to it."""
    added = []
    for i, (token, kind) in enumerate(zip(gguf.require("tokenizer.ggml.tokens"), _types(gguf), strict=True)):
        special = kind in (CONTROL, UNKNOWN)
        if special or kind == USER_DEFINED:
            flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
            added.append({"id": i, "content": token, **flags, "special": special})
    return added


def _template(first: tuple[str, int] | None, last: tuple[str, int] | None) -> dict[str, Any] | None:
    """A post-processor that puts bos before and eos after a text, where the model wants it."""
    if first is None and last is None:
        return None

    def around(name: str, kind: int) -> list[dict[str, Any]]:
        start = [{"SpecialToken": {"id": first[0], "type_id": kind}}] if first else []
        end = [{"SpecialToken": {"id": last[0], "type_id": kind}}] if last else []
        return [*start, {"Sequence": {"id": name, "type_id": kind}}, *end]

    special = {t[0]: {"id": t[0], "ids": [t[1]], "tokens": [t[0]]} for t in (first, last) if t}
    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": around("A", 0) + around("B", 1),
        "special_tokens": special,
    }


def check_tokenizer(gguf: Gguf, tokenizer: dict[str, Any]) -> str:
    """The JSON text of tokenizer.json, once the `tokenizers` package has taken it.

    Raises `ModelError` when it does not: a merge of a token that is not in the vocabulary, say.
    """
    from tokenizers import Tokenizer

    text = json.dumps(tokenizer, ensure_ascii=False)
    try:
        Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises bare Exception
        raise ModelError(f"{gguf.path}: its tokenizer is damaged ({error}); download it again") from None
    return text
