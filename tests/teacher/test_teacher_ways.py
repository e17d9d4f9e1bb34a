from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from fake_teacher import MODEL, serving, written
from taught import adds_up, documents, lines, report, settings, teach

from tunesmith.errors import RecipeError, SourceError, TeacherError
from tunesmith.sources.example import Example
from tunesmith.sources.read import read_source
from tunesmith.teacher.teach import Teacher, dry_run


def test_documents_become_rows_in_several_wordings_that_name_where_they_are_from(tmp_path):
    documents(tmp_path, 3)
    with serving() as fake:
        events = teach(tmp_path, fake.url, phrasings=3, held_out=0.0)
    rows = lines(tmp_path)
    assert len(rows) == 3 * 4 * 3
    assert rows[0]["messages"][1] == {
        "role": "assistant", "content": "The height of tower Fpomolggppmi is 1000 metres.", "learn": True,
    }  # fmt: skip
    assert (rows[0]["origin"], rows[0]["group"]) == ({"file": "docs/0.md", "line": 1}, "docs/0.md")
    assert len({row["messages"][0]["content"] for row in rows}) == 36
    assert adds_up(report(tmp_path))
    assert [e.event for e in events if e.event == "asked"]


def test_rows_can_be_read_as_a_source_with_their_documents_as_groups(tmp_path):
    documents(tmp_path)
    with serving() as fake:
        teach(tmp_path, fake.url)
    source = {"path": "teacher/rows.jsonl", "kind": "taught"}
    items = read_source(settings(fake.url, sources=[source]).sources[0], tmp_path)
    read = [row for row in items if isinstance(row, Example)]
    assert [row.group for row in read] == [row["group"] for row in lines(tmp_path)]
    assert str(read[0].origin) == "docs/0.md:1"


def test_what_is_held_out_asks_about_learned_facts_in_other_words(tmp_path):
    documents(tmp_path, 12)
    with serving() as fake:
        teach(tmp_path, fake.url, held_out=0.4)
    held, rows = lines(tmp_path, "held-out"), lines(tmp_path)
    learned = {row["messages"][1]["content"] for row in rows}
    asked = {row["messages"][0]["content"] for row in rows}
    assert 0 < len(held) < len(rows) / 2
    assert all(row["messages"][1]["content"] in learned and row["messages"][0]["content"] not in asked for row in held)
    assert "group" not in held[0]
    assert held[0]["origin"]["file"].startswith("docs/")


def test_topics_become_questions_by_how_they_begin_and_each_is_answered_with_its_follow_up(tmp_path):
    (tmp_path / "topics.txt").write_text("WordPress\n\n- Gardening\n")
    with serving() as fake:
        teach(tmp_path, fake.url, way="topics", sources=["topics.txt"], start=["How do I", "Can I"], questions=3,
              follow_up=True, held_out=0.0)  # fmt: skip
    rows = lines(tmp_path)
    assert len(rows) == 2 * 2 * 3
    assert [m["role"] for m in rows[0]["messages"]] == ["user", "assistant"] * 2
    assert [m["learn"] for m in rows[0]["messages"]] == [False, True] * 2
    assert {str(row["origin"]["line"]) for row in rows} == {"1", "3"}
    assert report(tmp_path)["follow_ups"] == {"kept": 12, "lost": {}}


def test_a_question_that_two_topics_lead_to_is_paid_for_once(tmp_path):
    (tmp_path / "topics.txt").write_text("WordPress\nWordPress\n")
    with serving() as fake:
        teach(tmp_path, fake.url, way="topics", sources=["topics.txt"], held_out=0.0)
        assert len(fake.seen) == 1 + 5
    assert report(tmp_path)["dropped"] == {"the same question again": 5}
    assert adds_up(report(tmp_path))


@pytest.mark.parametrize(("name", "text"), [
    ("questions.json", '["What is a block?", "Where is it?"]'),
    ("q.jsonl", '{"question": "What is a block?"}\n{"messages": [{"role": "user", "content": "Where is it?"}]}'),
    ("questions.txt", "What is a block?\nWhere is it?\n"),
    ("questions.csv", "question,answer\nWhat is a block?,no\nWhere is it?,no\n"),
])  # fmt: skip
def test_existing_questions_get_answers_whatever_file_they_stand_in(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with serving() as fake:
        teach(tmp_path, fake.url, way="questions", sources=[name], held_out=0.0)
    assert [row["messages"][0]["content"] for row in lines(tmp_path)] == ["What is a block?", "Where is it?"]


def test_of_existing_questions_some_are_held_out_in_other_words(tmp_path):
    (tmp_path / "q.json").write_text(json.dumps([f"What does the lever {c * 9} do?" for c in "abcdefghijklmnop"]))
    with serving() as fake:
        teach(tmp_path, fake.url, way="questions", sources=["q.json"], held_out=0.5)
    found = report(tmp_path)
    assert found["rows"] == 16
    assert 4 <= found["held_out"] <= 12
    assert adds_up(found)


def test_chinese_documents_are_asked_about_in_chinese(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# 存储\n\n每个数据块保存三个副本，集群最多有 15 个只读节点。")

    def write(prompt: str, form) -> str:
        if "请写出" in prompt:
            return '{"questions": [{"wordings": ["集群最多有多少个只读节点？", "只读节点最多能有几个？"]}]}'
        return "集群最多有 15 个只读节点。"

    with serving(write=write) as fake:
        teach(tmp_path, fake.url, held_out=0.0)
        assert "请只根据下面这段文字" in fake.seen[-1]["messages"][0]["content"]
    assert len(lines(tmp_path)) == 2


BAD = {
    "I'm sorry, but I cannot answer that.": "refusal",
    "As an AI, I would say 1000 metres.": "speaks as an AI",
    "According to the text, it is 1000 metres.": "mentions the text",
    "这座塔的高度是一千米。": "another language",
    "It was built by giants who loved cheese.": "not in the passage",
    "It is 4711 metres high.": "not in the passage",
}


@pytest.mark.parametrize(("answer", "fault"), list(BAD.items()))
def test_a_poor_answer_is_dropped_and_counted(tmp_path, answer, fault):
    documents(tmp_path, 1)

    def write(prompt: str, form) -> str:
        return answer if "Answer the question" in prompt and "Fpomolggppmi?" in prompt else written(prompt)

    with serving(write=write) as fake:
        teach(tmp_path, fake.url, held_out=0.0)
    found = report(tmp_path)
    assert found["dropped"] == {fault: 2}
    assert found["rows"] == 6
    assert adds_up(found)
    lost = lines(tmp_path, "quarantine")
    assert (lost[0]["reason"], lost[0]["reply"], lost[0]["file"]) == (fault, answer, "docs/0.md")


def test_an_unusable_reply_is_asked_for_again_with_the_reason(tmp_path):
    documents(tmp_path, 1)
    with serving(plan=lambda key, times: "prose" if '"user"' in key and '"assistant"' not in key and "PASSAGE:\\n"
                 in key and "QUESTION" not in key else None) as fake:  # fmt: skip
        teach(tmp_path, fake.url, held_out=0.0)
        again = fake.seen[1]["messages"]
    assert [m["role"] for m in again] == ["user", "assistant", "user"]
    assert "it is not the JSON that was asked for" in again[-1]["content"]
    assert report(tmp_path)["rows"] == 8


def test_a_reply_that_stays_unusable_is_quarantined(tmp_path):
    documents(tmp_path, 2)
    with serving(plan=lambda key, times: "cut" if "1700" in key and "QUESTION" not in key else None) as fake:
        teach(tmp_path, fake.url, held_out=0.0, retries=1)
        assert len([b for b in fake.seen if "QUESTION" not in b["messages"][0]["content"]]) == 3
    assert report(tmp_path)["asked_about"]["passage"] == {"all": 2, "lost": {"cut off": 1}, "not_asked": 0}
    assert lines(tmp_path, "quarantine")[0]["what"] == "passage"


def test_what_repeats_itself_is_dropped_across_all_documents(tmp_path):
    documents(tmp_path, 2)
    (tmp_path / "docs" / "9.md").write_text((tmp_path / "docs" / "0.md").read_text() + "\nA further line.\n")
    with serving() as fake:
        teach(tmp_path, fake.url, held_out=0.0)
    found = report(tmp_path)
    assert found["rows"] == 16
    assert found["dropped"] == {"repeats a question": 8}
    assert adds_up(found)


def test_a_teacher_that_says_the_same_to_everything_is_caught(tmp_path):
    (tmp_path / "q.json").write_text(json.dumps([f"What does the lever {c * 9} do?" for c in "abcdef"]))
    answer = "It is a very important part of the whole system, and people use it every day for many different things."
    with serving(write=lambda prompt, form: answer) as fake:
        teach(tmp_path, fake.url, way="questions", sources=["q.json"], held_out=0.0)
    assert (report(tmp_path)["rows"], report(tmp_path)["dropped"]) == (1, {"repeats an answer": 5})


def test_a_judge_is_asked_about_every_answer(tmp_path):
    (tmp_path / "q.json").write_text('["What is good here?", "What is Bad here?"]')
    with serving() as fake:
        fake.models.append({"id": "judge"})
        teach(tmp_path, fake.url, way="questions", sources=["q.json"], held_out=0.0, judge="judge")
        assert [b["temperature"] for b in fake.seen if b["model"] == "judge"] == [0.0, 0.0]
    assert report(tmp_path)["dropped"] == {"judged wrong": 1}


def test_run_again_it_asks_nothing_and_needs_no_server(tmp_path):
    documents(tmp_path)
    with serving() as fake:
        teach(tmp_path, fake.url)
        first = (tmp_path / "teacher" / "rows.jsonl").read_bytes()
    teach(tmp_path, fake.url)
    assert (tmp_path / "teacher" / "rows.jsonl").read_bytes() == first


def test_a_budget_of_requests_is_kept_exactly_and_more_goes_on_from_there(tmp_path):
    documents(tmp_path, 5)
    with serving() as fake:
        events = teach(tmp_path, fake.url, most_requests=12, held_out=0.0, parallel=1)
        assert len(fake.seen) == 12
        assert "the budget is spent (teacher.most_requests)" in next(e.message for e in events if e.event == "note")
        found = report(tmp_path)
        assert found["rows"] > 0
        assert found["asked_about"]["passage"]["not_asked"] > 0
        assert adds_up(found)
        teach(tmp_path, fake.url, held_out=0.0)
        assert len(fake.seen) == 5 * 5
        assert report(tmp_path)["rows"] == 40


def test_a_budget_of_money_or_tokens_is_never_exceeded(tmp_path):
    documents(tmp_path, 5)
    with serving() as fake:
        price = {"input": 10.0, "output": 100.0}
        teach(tmp_path, fake.url, "money", most_money=0.05, parallel=1, price=price, max_tokens=40, held_out=0.0)
        assert 0 < report(tmp_path, "money")["money"] <= 0.05
        with pytest.raises(TeacherError, match=r"the budget \(teacher.most_tokens\) was spent before"):
            teach(tmp_path, fake.url, "tokens", most_tokens=100)


def test_no_row_at_all_is_an_error_that_says_why(tmp_path):
    documents(tmp_path)
    with (
        serving(write=lambda prompt, form: "Certainly!") as fake,
        pytest.raises(TeacherError, match=r"gave no row.*not the JSON asked for.*quarantine.jsonl"),
    ):
        teach(tmp_path, fake.url)


def test_stopped_it_keeps_what_was_answered(tmp_path):
    documents(tmp_path, 5)
    with serving(seconds=0.02) as fake:
        made = Teacher(settings(fake.url, parallel=2), tmp_path, tmp_path / "teacher", lambda: len(fake.answered) > 6)
        list(made.run())
        assert made.stopped
        assert len((tmp_path / "teacher" / "journal.jsonl").read_text().splitlines()) + 1 == len(fake.answered)
        assert not (tmp_path / "teacher" / "rows.jsonl").exists()
    assert threading.active_count() < 20


def test_a_dry_run_shows_the_first_prompts_and_the_cost_and_asks_nothing(tmp_path):
    documents(tmp_path, 7)
    known, money, replies = dry_run(
        settings("http://127.0.0.1:9/v1", price={"input": 1.0, "output": 2.0}), tmp_path, tmp_path / "teacher"
    )
    assert (known.units, known.requests, replies) == (7, 7 * 6, 0)
    assert money == (known.tokens_in + 2 * known.tokens_out) / 1e6
    assert len(known.prompts) == 3
    assert "tower" in known.prompts[0]
    assert not (tmp_path / "teacher").exists()


def test_prompts_of_ones_own_replace_those_of_the_package(tmp_path):
    documents(tmp_path, 1)
    (tmp_path / "prompts").mkdir()
    own = tmp_path / "prompts" / "answer.en.txt"
    own.write_text("My own words.\nPASSAGE:\n{{ passage }}\nQUESTION: {{ question }}")
    with serving() as fake:
        teach(tmp_path, fake.url, prompts=str(tmp_path / "prompts"))
        assert fake.seen[-1]["messages"][0]["content"].startswith("My own words.")
        own.write_text("{{ nothing.of(this) }}")
        with pytest.raises(RecipeError, match=r"answer.en.txt cannot be filled in.*it gets earlier, passage, question"):
            teach(tmp_path, fake.url, "second", prompts=str(tmp_path / "prompts"))
        own.rename(tmp_path / "prompts" / "anwser.en.txt")
        with pytest.raises(RecipeError, match=r"anwser.en.txt is no prompt; files may be called again.en.txt"):
            teach(tmp_path, fake.url, prompts=str(tmp_path / "prompts"))


def test_sources_that_cannot_be_used_are_said(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"question": "a", "answer": "b"}')
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(SourceError, match="no-such"):
        teach(tmp_path, "http://127.0.0.1:9/v1", sources=["no-such.md"])
    with pytest.raises(SourceError, match=r'teacher.way = "questions"'):
        teach(tmp_path, "http://127.0.0.1:9/v1", sources=["rows.jsonl"])
    with pytest.raises(TeacherError, match=r"nothing to ask about in empty.txt"):
        teach(tmp_path, "http://127.0.0.1:9/v1", way="topics", sources=["empty.txt"])


def test_the_model_of_a_server_with_one_is_found(tmp_path):
    documents(tmp_path, 1)
    with serving() as fake:
        teach(tmp_path, fake.url, model="")
        assert fake.seen[0]["model"] == MODEL


def test_the_key_is_in_no_file(tmp_path: Path, monkeypatch):
    documents(tmp_path, 1)
    monkeypatch.setenv("MY_KEY", "sk-secret-0123456789")
    with serving(key="sk-secret-0123456789") as fake:
        teach(tmp_path, fake.url, key="MY_KEY")
    assert all(b"sk-secret" not in file.read_bytes() for file in (tmp_path / "teacher").iterdir())


def test_questions_of_which_none_can_be_used_are_asked_for_again(tmp_path):
    documents(tmp_path, 1)
    copy = '{"questions": [{"wordings": ["Reply with JSON only, in this form", "in the language of the passage"]}]}'

    def first_copy(prompt: str, form) -> str:
        copies = "PASSAGE:" in prompt and "QUESTION" not in prompt and len(fake.seen) == 1
        return copy if copies else written(prompt)

    with serving(write=first_copy) as fake:
        teach(tmp_path, fake.url, held_out=0.0)
        assert "it repeats the words of the request" in fake.seen[1]["messages"][-1]["content"]
    assert report(tmp_path)["rows"] == 8


def test_a_teacher_that_only_copies_is_told_of_and_not_what_was_never_asked(tmp_path):
    documents(tmp_path, 1)
    for name in "abc":
        (tmp_path / "docs" / f"{name}.md").write_text(f"# {name}\n\n[Further reading about it](x.md)\n")
    copy = '{"questions": [{"wordings": ["Reply with JSON only, in this form", "in the language of the passage"]}]}'
    with serving(write=lambda prompt, form: copy) as fake:
        with pytest.raises(TeacherError, match="most of what was asked for: repeats the prompt"):
            teach(tmp_path, fake.url)
        with pytest.raises(
            TeacherError, match=r"teacher.most_requests\) was spent before.*raise teacher.most_requests, or name"
        ):
            teach(tmp_path, fake.url, "budget", most_requests=1)
