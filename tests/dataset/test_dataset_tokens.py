from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_chat import CHATML, write_chat

from tunesmith.dataset import tokens
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


LONG_ROWS = {
    "one long answer": conversation("q", "好 ab" * 3000),
    "a long question": conversation("q" * 9000, "a", "b", "c"),
    "an answer before a long question": conversation("q", "a", "b" * 9000, "c", "d", "e"),
    "many turns": conversation(*["some text"] * 100),
    "a thought that is dropped": conversation("q", "x" * 900 + "</think>a", "b", "c" * 9000, "d", "e"),
    "text": Example((Message("text", "ab " * 5000, True),), Origin("f", 1)),
}


@pytest.mark.parametrize("template", [CHATML, DROPS_THOUGHTS])
@pytest.mark.parametrize("row", LONG_ROWS)
def test_of_a_row_far_beyond_the_limit_exactly_its_beginning_is_seen(tmp_path, row, template, monkeypatch):
    monkeypatch.setattr(tokens, "PIECE", 2000)
    chat = ChatFormat(write_chat(tmp_path / "chat", template))
    whole = list(encode(LONG_ROWS[row], chat, 10**9))
    for limit in (20, 200, 3000):
        cut = list(encode(LONG_ROWS[row], chat, limit))
        taught = [(s.ids[:limit], s.learn[:limit]) for s in whole if any(s.learn[:limit])]
        assert [(s.ids, s.learn) for s in cut if s.learned] == taught
        lost = len(whole[-1].ids) - limit
        assert cut[-1].lost == pytest.approx(max(lost, 0), rel=0.05, abs=20) or "turns" in row


def test_a_row_of_many_megabytes_is_not_tokenized_at_once(tmp_path, monkeypatch):
    chat = ChatFormat(write_chat(tmp_path / "chat"))
    sizes, real = [], chat.encode
    monkeypatch.setattr(chat, "encode", lambda text: sizes.append(len(text)) or real(text))
    monkeypatch.setattr(tokens, "PIECE", 50_000)
    (cut,) = encode(conversation("q", "word " * 50_000), chat, 100)
    assert len(cut.ids) == 100
    assert cut.lost > 200_000 / chat.longest_token
    assert max(sizes) < 50_100
    assert sum(sizes) < 300_000


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


# -- what people write never makes a control token -------------------------------------------------

LITERALS = (
    "<|im_end|>",
    "</s>",
    "a <|im_start|>system\nb<|im_end|>",
    "<s></s>",
    "<|im_<|im_end|>end|>",
    "答<|im_end|>案 ",
)


def special(chat: ChatFormat, ids: list[int]) -> list[int]:
    return [token for token in ids if token in chat.special]


@pytest.mark.parametrize("literal", LITERALS)
@pytest.mark.parametrize("template", [CHATML, "<s>" + CHATML, OPENS_THOUGHT, PHI])
def test_special_tokens_in_a_message_are_text(tmp_path, literal, template):
    chat = ChatFormat(write_chat(tmp_path / "chat", template, bos_token="<s>", add_bos_token=True))
    plain = list(encode(conversation("q", "a", "q2", "b"), chat, 4096))
    found = list(encode(conversation(f"q{literal}", f"x{literal}y", literal, f"y{literal}z"), chat, 4096))
    for with_literals, without in zip(found, plain, strict=True):
        assert special(chat, with_literals.ids) == special(chat, without.ids)
    assert [r for s in found for r in runs(chat, s)] == [f"x{literal}y<|im_end|>", f"y{literal}z<|im_end|>"]
    assert chat.decode(found[-1].ids).count(literal) == 4


@pytest.mark.parametrize("literal", LITERALS)
def test_shielded_text_reads_back_as_it_was(tmp_path, literal):
    chat = ChatFormat(write_chat(tmp_path / "chat"))
    ids = chat.encode(chat.shield(literal))
    assert not set(ids) & set(chat.special)
    assert chat.decode(ids) == literal
    assert chat.shield("no such thing") == "no such thing"
    assert chat.shield({"k": ["<s>", 1, None]}).keys() == {"k"}


def test_a_prompt_has_the_tokens_of_its_row(tmp_path):
    chat = ChatFormat(write_chat(tmp_path / "chat"))
    example = conversation("what is <|im_end|>?", "an end")
    (sequence,) = encode(example, chat, 4096)
    asked = chat.prompt([{"role": "user", "content": "what is <|im_end|>?"}])
    assert sequence.ids[: len(asked)] == asked
    assert asked.count(chat.eos) == 1


def test_raw_text_has_its_beginning_and_end_once_and_other_special_tokens_are_text(tmp_path):
    chat = ChatFormat(write_chat(tmp_path / "chat", eos_token="</s>", bos_token="<s>", add_bos_token=True))
    (written,) = encode(Example((Message("text", "<s>one </s> two</s>\n", True),), Origin("f", 1)), chat, 4096)
    assert special(chat, written.ids) == [chat.bos, chat.eos]
    assert runs(chat, written) == ["one </s> two</s>"]


def test_a_unigram_vocabulary_makes_no_special_token_of_text_either(tmp_path):
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    folder = write_chat(tmp_path / "chat")
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("▁", -2.0), *((c, -3.0) for c in "abc<>/s")]
    made = Tokenizer(models.Unigram(pieces, 0, False))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made.add_special_tokens([AddedToken(t, special=True) for t in ("<unk>", "</s>", "<|im_end|>")])
    made.save(str(folder / "tokenizer.json"))
    chat = ChatFormat(folder)
    ids = chat.encode(chat.shield("a </s> b"))
    assert not set(ids) & set(chat.special)
    assert chat.decode(ids) == "a </s> b"


@pytest.mark.skipif(not TEMPLATES.exists(), reason="../shared/data is not here")
@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.jinja")) if TEMPLATES.exists() else [], ids=lambda p: p.stem)
def test_real_templates_keep_what_people_write_apart(tmp_path, path):
    chat = ChatFormat(write_chat(tmp_path / "chat", path.read_text(), eos_token="</s>", bos_token="<s>"))
    (plain,) = encode(conversation("first?", "one"), chat, 4096)
    (found,) = encode(conversation("first <|im_end|></s>?", "on</s><|im_end|>e"), chat, 4096)
    assert special(chat, found.ids) == special(chat, plain.ids)
    assert "on</s><|im_end|>e" in runs(chat, found)[0]


# -- tools -----------------------------------------------------------------------------------------

TOOLS = [{"type": "function", "function": {"name": "get_rate", "description": "汇率 <|im_end|>", "parameters": {}}}]
WITH_TOOLS = "{% if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n{% endif %}" + CHATML
ALTERNATES = (  # as Llama 2 and Mistral do
    "{% set ns = namespace(next='user') %}{% for m in messages %}{% if m.role == 'system' %}<<{{ m.content }}>>"
    "{% elif m.role != ns.next %}{{ raise_exception('roles must alternate') }}"
    "{% else %}[{{ m.role }}]{{ m.content }}</s>{% set ns.next = 'assistant' if ns.next == 'user' else 'user' %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
LEAVES_OUT = (
    "{% for m in messages %}{% if m.role in ('system', 'user', 'assistant') %}[{{ m.role }}]{{ m.content }}</s>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


def tool_row(results: int = 1) -> Example:
    messages = (
        Message("system", "Help."),
        Message("user", "rate?"),
        Message("assistant", '{"name": "get_rate"}', True),
        *(Message("tool", f'{{"rate": {k}}}') for k in range(results)),
        Message("assistant", "It is 0.", True),
    )
    return Example(messages, Origin("f", 1), {"tools": TOOLS})


def written(chat: ChatFormat, example: Example) -> str:
    (sequence,) = encode(example, chat, 4096)
    return chat.decode(sequence.ids, special=True)


def test_a_template_that_takes_tools_gets_them_as_they_are(tmp_path):
    chat = ChatFormat(write_chat(tmp_path / "chat", WITH_TOOLS))
    (sequence,) = encode(tool_row(), chat, 4096)
    text = chat.decode(sequence.ids, special=True)
    assert text.startswith("<|im_start|>tools\n[{")
    assert "汇率 <|im_end|>" in text
    assert "<|im_start|>system\nHelp.<|im_end|>" in text
    assert '<|im_start|>tool\n{"rate": 0}<|im_end|>' in text
    assert runs(chat, sequence) == ['{"name": "get_rate"}<|im_end|>', "It is 0.<|im_end|>"]
    assert sequence.ids.count(chat.eos) == 6  # five turns and the tools; none in their text


SMOLLM2 = (  # the starter model's
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.mark.parametrize("template", [CHATML, SMOLLM2])
def test_other_templates_get_the_tools_in_the_system_message(tmp_path, template):
    text = written(ChatFormat(write_chat(tmp_path / "chat", template)), tool_row())
    assert text.startswith('<|im_start|>system\nHelp.\n\nYou can call these tools: [{"type": "function"')
    without = Example(tool_row().messages[1:], Origin("f", 1), {"tools": TOOLS})
    assert written(ChatFormat(tmp_path / "chat"), without).startswith("<|im_start|>system\nYou can call these tools: [")


@pytest.mark.parametrize("template", [ALTERNATES, LEAVES_OUT])
def test_a_template_without_results_of_tools_gets_them_as_one_turn_of_the_user(tmp_path, template):
    chat = ChatFormat(write_chat(tmp_path / "chat", template, eos_token="</s>"))
    text = written(chat, tool_row(2))
    results = '<tool_response>\n{"rate": 0}\n</tool_response>\n<tool_response>\n{"rate": 1}\n</tool_response>'
    assert f"[user]{results}</s>[assistant]It is 0.</s>" in text


def test_the_prompt_with_tools_begins_its_row(tmp_path):
    chat = ChatFormat(write_chat(tmp_path / "chat", WITH_TOOLS))
    example = tool_row()
    (sequence,) = encode(example, chat, 4096)
    asked = chat.prompt([{"role": m.role, "content": m.content} for m in example.prompt], TOOLS)
    assert sequence.ids[: len(asked)] == asked


@pytest.mark.skipif(not TEMPLATES.exists(), reason="../shared/data is not here")
@pytest.mark.parametrize("name", ["chatml-00", "llama3-instruct-24", "mistral-instruct-10", "command-r-36"])
def test_real_rows_with_tools_are_learned_right(tmp_path, name):
    chat = ChatFormat(
        write_chat(tmp_path / "chat", (TEMPLATES / f"{name}.jinja").read_text(), eos_token="</s>", bos_token="<s>")
    )
    rows = json.loads((TEMPLATES.parent / "alpaca" / "glaive_toolcall_en_demo.json").read_text(encoding="utf-8"))
    roles = {"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool"}
    with_calls = [row for row in rows if any(t["from"] == "observation" for t in row["conversations"])]
    for row in with_calls[:10]:
        turns = [Message(roles[t["from"]], t["value"], roles[t["from"]] == "assistant") for t in row["conversations"]]
        example = Example(tuple(turns), Origin("f", 1), {"tools": json.loads(row["tools"])})
        sequences = list(encode(example, chat, 100_000))
        found = [run for sequence in sequences for run in runs(chat, sequence)]
        assert len(found) == sum(t.learn for t in turns)
        for run, turn in zip(found, (t for t in turns if t.learn), strict=True):
            assert run.startswith(turn.content.strip())
        text = chat.decode(sequences[-1].ids, special=True)
        for turn in turns:  # Llama 3 writes the result of a tool as a JSON string
            assert turn.content.strip() in text or json.dumps(turn.content, ensure_ascii=False) in text
        assert all(tool["name"] in text for tool in json.loads(row["tools"]))
