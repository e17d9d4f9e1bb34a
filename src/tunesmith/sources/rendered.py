"""Text with literal special tokens, as guides for one model write it, taken apart into turns again.

<s>[INST] <<SYS>>…<</SYS>> q [/INST] a </s>                      Llama 2, Mistral
<|im_start|>user⏎q<|im_end|>                                     ChatML
<|start_header_id|>user<|end_header_id|>⏎⏎q<|eot_id|>            Llama 3
<start_of_turn>user⏎q<end_of_turn>                               Gemma
<|user|>⏎q<|end|> or </s>                                        Phi 3, Zephyr
"""

from __future__ import annotations

import re

from tunesmith.sources.example import Message, Role

ROLES: dict[str, Role] = {
    "system": "system", "developer": "system", "系统": "system",
    "user": "user", "human": "user", "prompter": "user", "用户": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "model": "assistant",
    "bot": "assistant", "助手": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "ipython": "tool", "工具": "tool",
}  # fmt: skip
"""How files call the roles."""

_BEGIN = re.compile(r"(?:\s*(?:<s>|<\|begin_of_text\|>|<bos>|<\|endoftext\|>))*\s*")
_TEXT_ENDS = ("</s>", "<|end_of_text|>", "<eos>", "<|endoftext|>")
# What opens a turn, and what closes it.
_SHAPES = (
    (re.compile(r"<\|im_start\|>(\w+)(?:<\|im_sep\|>)?"), ("<|im_end|>",)),
    (re.compile(r"<\|start_header_id\|>(\w+)<\|end_header_id\|>"), ("<|eot_id|>", "<|eom_id|>")),
    (re.compile(r"<start_of_turn>(\w+)"), ("<end_of_turn>",)),
    (re.compile(r"<\|(system|user|assistant|tool|observation)\|>"), ("<|end|>", "</s>")),
)
_SYSTEM = re.compile(r"\s*<<SYS>>(.*?)<</SYS>>(.*)", re.DOTALL)


def parse_rendered(text: str) -> list[Message] | None:
    """The turns, answers learned, each without the spaces around it; None when ``text`` has no shape above.

    A last turn of the assistant that is only opened (what a model is asked with) is left out.
    """
    begin = _BEGIN.match(text)
    at = begin.end() if begin else 0
    if text.startswith("[INST]", at):
        return _inst(text[at:])
    for head, ends in _SHAPES:
        if head.match(text, at):
            return _turns(head.split(text[at:]), ends) or None
    return None


def _turns(pieces: list[str], ends: tuple[str, ...]) -> list[Message] | None:
    """Messages of [what stands before, role, content, role, content, …]."""
    messages = []
    for name, body in zip(pieces[1::2], pieces[2::2], strict=True):
        role, content = ROLES.get(name.lower()), _without_ends(body, ends + _TEXT_ENDS)
        if role is None or ends[0] in content or ends[-1] in content:  # text between a turn's end and the next one
            return None
        messages.append(Message(role, content, learn=role == "assistant"))
    if messages[-1] == Message("assistant", "", learn=True):
        messages.pop()
    return messages


def _without_ends(body: str, ends: tuple[str, ...]) -> str:
    body = body.strip()
    while body.endswith(ends):
        body = next(body.removesuffix(end) for end in ends if body.endswith(end)).rstrip()
    return body


def _inst(text: str) -> list[Message] | None:
    messages = []
    *closed, last = text.split("[INST]")[1:]
    if any("[/INST]" not in turn for turn in closed):
        return None
    for number, turn in enumerate([*closed, last]):
        question, _, answer = turn.partition("[/INST]")
        if system := _SYSTEM.fullmatch(question) if number == 0 else None:
            messages.append(Message("system", system[1].strip()))
            question = system[2]
        messages.append(Message("user", _without_ends(question, _TEXT_ENDS)))
        content, end, behind = answer.partition("</s>")
        # A follow-up question without its [INST] would be learned as an answer.
        if "[/INST]" in answer or behind.replace("<s>", "").strip():
            return None
        if content.strip() or end:
            messages.append(Message("assistant", content.strip().removesuffix("<s>").rstrip(), learn=True))
    return messages
