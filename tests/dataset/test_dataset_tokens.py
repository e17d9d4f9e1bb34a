from __future__ import annotations

from pathlib import Path

import pytest
from tiny_chat import CHATML, write_chat

from tunesmith.dataset.tokens import encode
from tunesmith.errors import ModelError
from tunesmith.models.chat import ChatFormat
from tunesmith.sources.example import Example, Message, Origin

TEMPLATES = Path(__file__).parents[2].parent / "shared" / "data" / "chat-templates"

DROPS_THOUGHTS = (  # as Qwen3 and DeepSeek do: earlier turns lose what stands before </think>
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1] }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OPENS_THOUGHT = CHATML.replace("<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>\n{% endif %}")
NO_END = (
    "{% for m in messages %}{% if m.role == 'user' %}### Instruction:\n{{ m.content }}\n\n"
    "{% else %}### Response:\n{{ m.content }}\n\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}### Response:\n{% endif %}"
)
BOS_TWICE = "<s><s>" + CHATML
PHI = (  # writes a second end behind the last turn
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% else %}<|endoftext|>{% endif %}"
)


def conversation(*turns: str) -> Example:
    roles = ["user", "assistant"]
    messages = tuple(Message(roles[i % 2], text, i % 2 == 1) for i, text in enumerate(turns))
    return Example(messages, Origin("f.jsonl", 1))


def learned(
    tmp_path: Path, example: Example, template: str = CHATML, limit: int = 4096, **config: object
) -> list[list[str]]:
    """What is learned in each sequence, as runs of text."""
    chat = ChatFormat(write_chat(tmp_path / "chat", template, **config))
    return [runs(chat, s) for s in encode(example, chat, limit)]


def runs(chat: ChatFormat, sequence) -> list[str]:
    found, run = [], []
    for token, learn in [*zip(sequence.ids, sequence.learn, strict=True), (0, False)]:
        if learn:
            run.append(token)
        elif run:
            found.append(chat.decode(run, special=True))
            run = []
    return found


def test_exactly_the_answers_and_their_end_tokens_are_learned(tmp_path):
    assert learned(tmp_path, conversation("q", "a1", "q2", "答2")) == [["a1<|im_end|>", "答2<|im_end|>"]]


def test_an_answer_that_is_not_to_be_learned_is_not(tmp_path):
    example = Example((Message("user", "q"), Message("assistant", "no"), Message("user", "q2"),
                       Message("assistant", "yes", True)), Origin("f", 1))  # fmt: skip
    assert learned(tmp_path, example) == [["yes<|im_end|>"]]


def test_a_template_that_drops_earlier_reasoning_gives_one_sequence_for_each_context(tmp_path):
    example = conversation("q", "x</think>a1", "q2", "y</think>a2")
    assert learned(tmp_path, example, DROPS_THOUGHTS) == [["x</think>a1<|im_end|>"], ["y</think>a2<|im_end|>"]]


def test_the_prompt_of_every_sequence_is_the_prompt_at_inference(tmp_path):
    chat = ChatFormat(write_chat(tmp_path / "chat", DROPS_THOUGHTS))
    example = conversation("q", "x</think>a1", "q2", "y</think>a2")
    last = list(encode(example, chat, 4096))[-1]
    asked = chat.prompt([{"role": m.role, "content": m.content} for m in example.messages[:3]])
    assert last.ids[: len(asked)] == asked
    assert not any(last.learn[: len(asked)])


def test_an_answer_is_learned_behind_the_opening_that_the_model_is_given(tmp_path):
    chat = ChatFormat(write_chat(tmp_path / "chat", OPENS_THOUGHT))
    (sequence,) = encode(conversation("q", "a"), chat, 4096)
    assert chat.decode(sequence.ids, special=True).endswith("assistant\n<think>\na<|im_end|>")
    assert runs(chat, sequence) == ["a<|im_end|>"]


def test_a_template_without_an_end_token_gets_one_after_every_turn(tmp_path):
    found = learned(tmp_path, conversation("q", "a1", "q2", "a2"), NO_END, eos_token="</s>")
    assert found == [["a1</s>"], ["a2</s>"]]


def test_only_the_token_that_ends_the_turn_is_learned_of_several(tmp_path):
    assert learned(tmp_path, conversation("q", "a1", "q2", "a2"), PHI) == [["a1<|im_end|>", "a2<|im_end|>"]]


@pytest.mark.parametrize("template", [CHATML, "<s>" + CHATML, BOS_TWICE])
def test_bos_stands_exactly_once(tmp_path, template):
    chat = ChatFormat(write_chat(tmp_path / "chat", template, bos_token="<s>", add_bos_token=True))
    (sequence,) = encode(conversation("q", "a"), chat, 4096)
    assert sequence.ids[0] == chat.bos
    assert sequence.ids.count(chat.bos) == 1


def test_raw_text_is_learned_whole_with_its_end_but_not_its_beginning(tmp_path):
    example = Example((Message("text", "all", True),), Origin("f", 1))
    assert learned(tmp_path, example, bos_token="<s>", add_bos_token=True) == [["all<|im_end|>"]]


def test_a_cut_answer_is_not_taught_to_end_and_the_loss_is_counted(tmp_path):
    chat = ChatFormat(write_chat(tmp_path / "chat"))
    (whole,) = encode(conversation("q", "abcdef"), chat, 4096)
    (cut,) = encode(conversation("q", "abcdef"), chat, len(whole.ids) - 3)
    assert runs(chat, cut) == ["abcd"]
    assert cut.lost == 3


def test_a_template_cannot_reach_out_of_its_sandbox(tmp_path):
    with pytest.raises(ModelError):
        learned(tmp_path, conversation("q", "a"), "{{ ''.__class__.__mro__[1].__subclasses__() }}")


def test_a_template_that_refuses_says_why(tmp_path):
    with pytest.raises(ModelError, match="only one turn"):
        learned(tmp_path, conversation("q", "a"), "{{ raise_exception('only one turn') }}")


def test_a_template_that_is_no_jinja_and_a_missing_one_are_named(tmp_path):
    with pytest.raises(ModelError, match="not valid Jinja"):
        learned(tmp_path, conversation("q", "a"), "{% for %}")
    with pytest.raises(ModelError, match="no chat template"):
        learned(tmp_path, conversation("q", "a"), None)


@pytest.mark.skipif(not TEMPLATES.exists(), reason="../shared/data is not here")
@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.jinja")) if TEMPLATES.exists() else [], ids=lambda p: p.stem)
def test_real_templates_learn_each_answer_once_with_an_end(tmp_path, path):
    chat = ChatFormat(write_chat(tmp_path / "chat", path.read_text(), eos_token="</s>", bos_token="<s>"))
    sequences = list(encode(conversation("first?", "answer-one", "second?", "answer-two"), chat, 4096))
    found = [run for s in sequences for run in runs(chat, s)]
    assert len(found) == 2
    for run, answer in zip(found, ("answer-one", "answer-two"), strict=True):
        assert answer in run
        assert "?" not in run
    for sequence in sequences:
        assert sequence.ids[-1] in chat.special or sequence.ids[-1] == chat.eos
        assert sequence.ids[:2] != [chat.bos, chat.bos]  # Llama 2 begins every question with one


@pytest.mark.parametrize("answer", ["end", "d", "im", "_", "user", "q"])
def test_an_answer_that_also_stands_in_the_end_token_or_the_question_is_learned_right(tmp_path, answer):
    assert learned(tmp_path, conversation(f"q {answer}?", answer)) == [[f"{answer}<|im_end|>"]]
    assert learned(tmp_path / "2", conversation(f"q {answer}?", answer), OPENS_THOUGHT) == [[f"{answer}<|im_end|>"]]


def test_the_end_token_that_is_taught_stops_generation_whatever_the_tokenizer_says(tmp_path):
    chat = ChatFormat(write_chat(tmp_path / "chat", eos_token="<|endoftext|>"))
    (sequence,) = encode(conversation("q", "a"), chat, 4096)
    assert sequence.ids[-1] in chat.stop
