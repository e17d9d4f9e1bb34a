"""Rows in the forms that people have them are recognised, and each turn is learned or not as it should be."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.sources.example import Example, Origin
from tunesmith.sources.forms import NULS, PLACEHOLDER, TAKEN_APART, UNANSWERED, read_row
from tunesmith.sources.text import Unreadable
from tunesmith.sources.turns import REASONING

ORIGIN = Origin("rows.jsonl", 1)
USER = {"role": "user", "content": "q"}
ANSWER = {"role": "assistant", "content": "a"}
PAIR = [("user", "q", False), ("assistant", "a", True)]


def turns(row: Any, **columns: str) -> list[tuple[str, str, bool]]:
    return [(m.role, m.content, m.learn) for m in read_row(row, ORIGIN, columns).messages]  # type: ignore[arg-type]


def extra(row: Any) -> dict[str, Any]:
    return read_row(row, ORIGIN).extra


def chat(*messages: dict[str, Any], **further: Any) -> dict[str, Any]:
    return {"messages": list(messages), **further}


def test_messages_learn_every_answer_but_those_of_weight_0():
    row = chat({"role": "developer", "content": "s"}, USER, ANSWER, USER, {**ANSWER, "weight": 0}, USER,
               {**ANSWER, "weight": 1})  # fmt: skip
    assert [learn for _, _, learn in turns(row)] == [False, False, True, False, False, False, True]
    assert turns(row)[0][0] == "system"


def test_content_may_be_a_list_of_parts_that_are_text():
    row = chat(
        {"role": "user", "content": [{"type": "text", "text": "look "}, {"type": "text", "text": "here"}]}, ANSWER
    )
    assert turns(row)[0][1] == "look here"
    row["messages"][0]["content"].append({"type": "image_url", "image_url": {"url": "x"}})
    with pytest.raises(Unreadable, match="a part of the type 'image_url'; only text is read"):
        read_row(row, ORIGIN)


def test_a_call_of_a_tool_is_an_answer_and_its_result_a_turn_of_the_tool():
    function = {"name": "add", "arguments": '{"a": 1, "b": "二"}'}
    written = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "二"}}\n</tool_call>'
    calls = [{"id": "1", "type": "function", "function": function}] * 2
    result = {"role": "tool", "tool_call_id": "1", "content": "3"}
    for call, text in (
        ({"tool_calls": calls[:1], "content": None}, written),
        ({"tool_calls": calls, "content": "wait"}, f"wait\n{written}\n{written}"),
        ({"function_call": function}, written),
    ):
        row = chat(USER, {"role": "assistant", **call}, result, ANSWER)
        assert turns(row)[1:3] == [("assistant", text, True), ("tool", "3", False)]
    row = {"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": json.dumps(function)},
                             {"from": "observation", "value": {"sum": 3}}, {"from": "gpt", "value": "a"}]}  # fmt: skip
    assert turns(row)[1:3] == [("assistant", written, True), ("tool", '{"sum": 3}', False)]


def test_tools_become_a_list_of_openais_descriptions():
    bare = {"name": "add", "parameters": {}}
    whole = {"type": "function", "function": bare}
    for given_tools in ([bare], [whole], json.dumps([bare]), bare):
        for key in ("tools", "functions"):
            assert extra(chat(USER, ANSWER, **{key: given_tools})) == {"tools": [whole]}
    assert extra(chat(USER, ANSWER, tools="[]")) == extra(chat(USER, ANSWER, tools=None)) == {}


def test_sharegpt_has_its_own_names_for_roles():
    for role in ("gpt", "assistant", "chatgpt", "bing", "model", "GPT"):
        row = {"conversations": [{"from": "human", "value": "q"}, {"from": role, "value": "a"}], "system": "s"}
        assert turns(row) == [("system", "s", False), *PAIR]
    assert turns({"conversations": [USER, ANSWER]}) == PAIR


def test_messages_may_stand_in_a_table_as_json():
    assert turns({"messages": json.dumps([USER, ANSWER]), "tools": "", "system": ""}) == PAIR


@pytest.mark.parametrize(
    ("question", "answer"),
    [("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("query", "response"),
     ("instruction", "output"), ("Question", "ANSWER"), ("User", "Assistant"), ("input", "target"),
     ("问题", "答案"), ("提问", "回答"), ("用户", "助手"), ("指令", "输出"), ("问题", "回复"), ("输入", "输出")],
)  # fmt: skip
def test_a_question_and_its_answer_are_known_by_many_names(question, answer):
    assert turns({question: "q", answer: "a"}) == PAIR


def test_prompt_and_completion_may_be_lists_of_turns():
    assert turns({"prompt": [USER], "completion": [ANSWER]}) == PAIR
    assert turns({"prompt": [USER], "completion": "a"}) == PAIR


def test_instruction_joins_its_input_and_keeps_system_and_history():
    row = {"instruction": "add", "input": "1 2", "output": "3", "system": "s", "history": [["hi", "hello"]]}
    wanted = [("system", "s", False), ("user", "hi", False), ("assistant", "hello", True),
              ("user", "add\n1 2", False), ("assistant", "3", True)]  # fmt: skip
    assert turns(row) == wanted
    assert turns({"指令": "add", "输入": "1 2", "输出": "3", "系统": "s", "历史": [["hi", "hello"]]}) == wanted


def test_text_is_learned_whole():
    for key in ("text", "content", "正文", "内容", "Text"):
        assert turns({key: "all of it"}) == [("text", "all of it", True)]


def test_text_with_special_tokens_is_taken_apart_and_says_so():
    example = read_row({"text": "<s>[INST] q [/INST] a </s>[INST] and more? [/INST]"}, ORIGIN)
    assert [(m.role, m.content, m.learn) for m in example.messages] == PAIR
    assert example.notes == (TAKEN_APART, UNANSWERED)


def test_preferences_end_with_the_chosen_answer():
    good, bad = {"from": "gpt", "value": "a"}, {"from": "gpt", "value": "b"}
    system, asked = {"role": "system", "content": "s"}, {"from": "human", "value": "q"}
    for row in (
        {"conversations": [asked], "chosen": good, "rejected": bad},
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [{**ANSWER, "content": "b"}]},
        {"prompt": "q", "chosen": [USER, ANSWER], "rejected": [USER, {**ANSWER, "content": "b"}], "score_chosen": 2},
        {"chosen": [USER, ANSWER], "rejected": [USER, {**ANSWER, "content": "b"}]},
        {"instruction": "q", "input": "", "chosen": "a", "rejected": "b"},
        chat(USER, ANSWER, chosen="a", rejected="b"),
        chat(USER, ANSWER, rejected_response="b"),
    ):
        assert turns(row) == PAIR
        assert extra(row)["rejected"] == "b"
        assert "chosen" not in extra(row)
    assert turns({"messages": [system, USER], "chosen": [USER, ANSWER], "rejected": "b"})[0] == ("system", "s", False)
    with pytest.raises(Unreadable, match="is a second answer"):
        read_row(chat(USER, ANSWER, chosen="c", rejected="b"), ORIGIN)


def test_a_label_says_whether_the_answer_is_good():
    assert extra({"prompt": "q", "completion": "a", "label": False}) == {"label": False}
    assert extra(chat(USER, ANSWER, kto_tag="true")) == {"label": True}
    assert extra(chat(USER, ANSWER, label=3)) == {"label": 3}
    assert extra({"prompt": "q", "completion": "a", "label": 1})["label"] is not True
    example = read_row({"prompt": "q", "completion": "a", "good": 1}, ORIGIN, {"label": "good"})
    assert example.extra == {"label": True}
    with pytest.raises(Unreadable, match='"kto_tag" must be true or false'):
        read_row(chat(USER, ANSWER, kto_tag="maybe"), ORIGIN)


def test_named_columns_win_over_what_is_recognised():
    row = {"question": "x", "answer": "y", "text": "z", "Frage": "q", "Antwort": "a", "system": "s"}
    assert turns(row, question="Frage", answer="Antwort") == [("system", "s", False), *PAIR]
    assert turns(row, question="Frage") == [("system", "s", False), PAIR[0], ("assistant", "y", True)]
    assert turns(row, text="Frage") == [("text", "q", True)]
    assert turns({"prompt": "q", "text": "a"}, answer="text") == PAIR
    assert turns({"dialog": [USER, ANSWER], "messages": 3}, messages="dialog") == PAIR
    assert read_row(row, ORIGIN, {"question": "Frage", "answer": "Antwort"}).extra == {
        "question": "x", "answer": "y", "text": "z",
    }  # fmt: skip
    with pytest.raises(Unreadable, match=r'name "Fragen", and the row has no such key; it has "question", "answer"'):
        turns(row, question="Fragen")
    with pytest.raises(Unreadable, match='"Antwort" is empty'):
        turns({"Frage": "q", "Antwort": None}, question="Frage", answer="Antwort")


def test_a_last_question_that_nobody_answers_is_left_out():
    example = read_row(chat(USER, ANSWER, USER, {"role": "tool", "content": "3"}), ORIGIN)
    assert [m.content for m in example.messages] == ["q", "a"]
    assert example.notes == (UNANSWERED,)


def test_nul_characters_are_removed_and_that_is_noted():
    example = read_row({"prompt": "q\0", "completion": "\0a\0", "rejected": "b\0"}, ORIGIN)
    assert [(m.role, m.content, m.learn) for m in example.messages] == PAIR
    assert (example.notes, example.extra) == ((NULS,), {"rejected": "b"})


@pytest.mark.parametrize(
    ("answer", "noted"),
    [
        ("I am {{name}}, made by {{ author }}.", True), ("我是{{名字}}。", True), ("```\ncode\n``` by {{name}}", True),
        ("Write `{{ name }}` there.", False), ("```jinja\n{{ name }}\n```", False), ("~~~\n{{name}}", False),
        ("{{ user.name }} {{ x | upper }} {% if %}", False), ("$x_{{ab}}$ and \\frac{{ab}}{{cd}}", False),
        ("{{1}} {{{raw}}} {}", False), ('{"a":{"b":{}}}', False),
    ],
)  # fmt: skip
def test_a_placeholder_that_nobody_filled_in_is_noted_unless_it_is_code(answer, noted):
    row = read_row({"question": "Who are you, {{name}}?", "answer": answer}, ORIGIN)
    assert row.notes == ((PLACEHOLDER,) if noted else ())


def test_reasoning_beside_an_answer_is_left_out_and_that_is_noted():
    example = read_row(chat(USER, {**ANSWER, "reasoning_content": "hm"}), ORIGIN)
    assert [(m.role, m.content, m.learn) for m in example.messages] == PAIR
    assert example.notes == (REASONING,)


def test_further_keys_are_kept_for_tasks():
    assert extra({"prompt": "q", "completion": "a", "table_id": "1-2", "none": None}) == {"table_id": "1-2"}


def test_an_example_comes_back_from_its_file_as_it_was():
    example = read_row({"instruction": "问", "output": "答", "k": [1], "tools": [{"name": "f"}]}, ORIGIN)
    again = Example.from_json(example.to_json())
    assert (again, again.extra, again.id) == (example, example.extra, example.id)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "q"}, "no known form"),
        ({}, "this one has nothing"),
        ({"role": "user", "content": "one turn"}, "no known form"),
        ({"prompt": "q", "completion": ""}, "an answer is empty"),
        ({"prompt": "q", "completion": "\0"}, "an answer is empty"),
        ({"text": " "}, "the text is empty"),
        ({"prompt": " ", "completion": "a"}, "a question is empty"),
        ({"prompt": "q", "completion": 3}, '"completion" must be text'),
        ({"instruction": "q"}, '"output" is missing'),
        ({"messages": [USER]}, "no answer: the last turn is the user's"),
        ({"text": "<|im_start|>user\nq<|im_end|>"}, "no answer: the last turn is the user's"),
        ({"messages": [USER, {**ANSWER, "weight": 0}]}, "nothing to learn"),
        ({"messages": [USER, {**ANSWER, "weight": 0}, USER]}, "no answer"),
        ({"messages": [ANSWER]}, "no question"),
        ({"chosen": "a", "rejected": "b"}, "no question"),
        ({"messages": [{"role": "wizard", "content": "q"}]}, "'wizard' is not known"),
        ({"messages": [{"content": "q"}]}, 'needs "role" and "content"'),
        ({"messages": [USER, {"role": "assistant"}]}, '"content" is missing'),
        ({"messages": '[{"role": "user", "content": "a\\ud83d"}]'}, "half a character"),
        ({"messages": [USER, ANSWER], "tools": '{"name": "\\uD83D"}'}, "half a character"),
        ({"prompt": "q", "chosen": "a", "rejected": [USER]}, '"rejected" holds no answer'),
        ({"instruction": "q", "input": 5, "output": "a"}, '"input" must be text'),
        ({"instruction": "q", "output": "a", "history": 3}, '"history" must be a list'),
        ({"instruction": "q", "output": "a", "history": "so"}, '"history" is not JSON'),
        ({"instruction": "q", "output": "a", "history": [["q", 1]]}, '"history" must be text'),
        ({"messages": [{"role": ["user"], "content": "q"}]}, "is not known"),
        ({"messages": []}, "must be a list"),
        ({"messages": [3]}, 'each turn in "messages"'),
        ({"messages": [USER, ANSWER], "images": ["a.png"]}, '"images" holds pictures, sound or video; only text'),
        ({"messages": [USER, {"role": "assistant", "tool_calls": [3]}]}, 'a tool call needs "name"'),
        ({"messages": [USER, {"role": "assistant", "function_call": {"name": "f", "arguments": "{"}}]}, "is not JSON"),
        ({"messages": [USER, ANSWER], "tools": "{"}, '"tools" is not JSON'),
        ({"messages": [USER, ANSWER], "tools": [3]}, '"tools" must be a list'),
        ([1, 2], "a row must be a JSON object"),
        ("text", "a row must be a JSON object"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_read_says_why(row, reason):
    with pytest.raises(Unreadable) as error:
        read_row(row, ORIGIN)
    assert reason in str(error.value)


def test_empty_pictures_do_no_harm():
    assert turns(chat(USER, ANSWER, images=[], audio=None)) == PAIR


KEYS = ["messages", "conversations", "prompt", "completion", "input", "chosen", "rejected", "label", "kto_tag", "tools",
        "history", "system", "text", "images", "role", "content", "from", "value", "tool_calls", "function_call",
        "name", "arguments", "weight", "user", "assistant", "function"]  # fmt: skip
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from(KEYS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=500, deadline=None)
@given(row=st.dictionaries(st.sampled_from(KEYS), anything, max_size=5))
def test_no_json_object_fails_otherwise_than_with_a_reason(row):
    try:
        example = read_row(row, ORIGIN)
    except Unreadable:
        return
    assert example.messages[-1].role in ("assistant", "text")
    assert any(m.learn for m in example.messages)


@pytest.mark.parametrize(
    "row",
    [
        {"phase": 1, "table_id": "1-1", "question": "who?", "sql": {"sel": 0, "agg": 0, "conds": []}},
        {"id": "1-1", "header": ["a"], "types": ["text"], "rows": [["x"]]},
    ],
)
def test_rows_of_wikisql_say_which_kind_of_source_reads_them(row):
    with pytest.raises(Unreadable, match=r'kind = "wikisql", tables = "train.tables.jsonl"'):
        read_row(row, Origin("rows.jsonl", 1))


def test_a_conversation_of_thousands_of_turns_is_not_one_row():
    turns = [{"role": role, "content": "a"} for _ in range(1000) for role in ("user", "assistant")]
    assert len(read_row({"messages": turns}, Origin("f", 1)).messages) == 2000
    with pytest.raises(Unreadable, match="2,001 turns, more than the 2,000 of one row; divide"):
        read_row({"messages": [*turns, {"role": "user", "content": "a"}]}, Origin("f", 1))
