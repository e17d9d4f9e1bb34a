"""The judge: what counts of what it says, and what does not count at all. The server is the teacher's strict fake."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "teacher"))  # the fake server

from fake_teacher import FakeTeacher, serving

from tunesmith.errors import TeacherError
from tunesmith.evaluation.evaluate import Candidate, Evaluation
from tunesmith.evaluation.question import Question
from tunesmith.evaluation.report_examples import cards, pair
from tunesmith.evaluation.tasks.judge import Judge, better_of
from tunesmith.progress import Progress
from tunesmith.settings.evaluate import JudgeTaskSettings


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.teacher.client.FIRST_PAUSE", 0.005)
    monkeypatch.setattr("tunesmith.teacher.client.LONGEST_PAUSE", 0.02)
    for name in ("TUNESMITH_JUDGE_KEY", "TUNESMITH_TEACHER_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def question(text: str = "What is 2 + 2?", reference: str = "4") -> Question:
    return Question(text, ({"role": "user", "content": text},), reference, text)


def judge(fake: FakeTeacher, folder: Path, **values: Any) -> Judge:
    settings = {"url": fake.url, "model": "teacher-1", **values}
    return Judge(JudgeTaskSettings.model_validate(settings), folder / "judge.jsonl")


def shown(prompt: str) -> tuple[str, str]:
    """The two answers, in their order; none in a probe."""
    found = re.findall(r"<answer_[AB]>\n(.*?)\n?</answer_[AB]>", prompt, re.DOTALL)
    return (found[0], found[1]) if found else ("", "")


def saying(rule: Callable[[str, str], str]) -> Callable[[str, Any], str]:
    """A judge that decides by the two answers that it is shown."""
    return lambda prompt, schema: json.dumps({"better": rule(*shown(prompt))})


def right_one(a: str, b: str) -> str:
    return "tie" if ("4" in a) == ("4" in b) else "A" if "4" in a else "B"


def test_what_the_judge_says_in_both_orders_counts(tmp_path: Path) -> None:
    questions = [question(f"What is 2 + 2? ({i})") for i in range(3)]
    with serving(write=saying(right_one)) as fake:
        verdicts, agreement = judge(fake, tmp_path).prefer(questions, ["5", "4", "four"], ["4", "5", "vier"])
        assert len(fake.seen) == 6
        assert all(body["temperature"] == 0 and "response_format" in body for body in fake.seen)
    assert [v.score for v in verdicts] == [1, 0, 0.5]
    assert verdicts[0].reason == "the judge prefers tuned, in both orders"
    assert agreement == 1


def test_where_nothing_but_a_judge_is_asked_the_report_shows_what_it_compared(tmp_path: Path) -> None:
    nothing: Any = None
    made = Evaluation(*[nothing] * 3, tmp_path, tmp_path, *[nothing] * 5)
    models = [Candidate(name, name, nothing, asked=True) for name in ("base", "tuned")]
    with serving(write=saying(right_one)) as fake:
        asked = judge(fake, tmp_path)
        measured = [made._judged(asked, model, [question()], [said]) for model, said in zip(models, "54", strict=True)]
    assert measured[0] == {}
    assert measured[1]["score"] == 1
    (card,) = cards(pair(made.samples))
    assert [(side["model"], side["text"], side["grade"]) for side in card["sides"]] == [
        ("base", "5", ""), ("tuned", "4", "✓ preferred"),
    ]  # fmt: skip


def test_a_judge_that_looks_at_the_place_finds_no_difference_and_agrees_never(tmp_path: Path) -> None:
    questions = [question(f"{i}?") for i in range(4)]
    with serving(write=saying(lambda a, b: "A")) as fake:
        verdicts, agreement = judge(fake, tmp_path).prefer(questions, ["x"] * 4, ["y"] * 4)
    assert [v.score for v in verdicts] == [0.5] * 4
    assert agreement == 0


def test_equal_answers_are_a_tie_without_asking(tmp_path: Path) -> None:
    with serving() as fake:
        verdicts, agreement = judge(fake, tmp_path).prefer([question()], ["4"], ["4 \n"])
        assert fake.seen == []
    assert [v.score for v in verdicts] == [0.5]
    assert agreement is None


def test_the_judge_sees_conversation_reference_and_answers_in_the_language_of_the_question(tmp_path: Path) -> None:
    turns = ({"role": "system", "content": "你是老师。"}, {"role": "user", "content": "二加二等于几，请回答？"})
    asked = [Question("1", turns, "四", ""), question("Which is the highest mountain?", "")]
    with serving(write=saying(lambda a, b: "tie")) as fake:
        judge(fake, tmp_path, parallel=1).prefer(asked, ["", "K2"], ["{{ 四 }}", "Everest"])
        prompts = [body["messages"][0]["content"] for body in fake.seen]
    assert shown(prompts[0]) == ("", "{{ 四 }}")
    assert shown(prompts[1]) == ("{{ 四 }}", "")
    assert "system: 你是老师。\n\nuser: 二加二等于几" in prompts[0]
    assert "<reference>\n四\n</reference>" in prompts[0]
    assert "只回复 JSON" in prompts[0]
    assert "Reply with JSON only" in prompts[2]
    assert "<reference>" not in prompts[2]


def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    questions = [question(f"{i}?") for i in range(5)]
    answers = ["5"] * 5, ["4"] * 5
    with serving(write=saying(right_one)) as fake:
        first = judge(fake, tmp_path).prefer(questions[:3], answers[0][:3], answers[1][:3])
        again = judge(fake, tmp_path).prefer(questions, *answers)
        assert len(fake.seen) == 10
        fake.stop()
        gone = judge(fake, tmp_path).prefer(questions, *answers)
        fake.start()
    assert first[0] == again[0][:3]
    assert gone == again
    assert all(v.score == 1 for v in gone[0])


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ('{"better": "A"}', "A"),
        ('```json\n{"better": "b"}\n```', "B"),
        ("<think>A is long, B is right.</think>\nB", "B"),
        ("**Answer A**", "A"),
        ("tie.", "tie"),
        ('{"better": "平局"}', "tie"),
        ("Both are good.", None),
        ("A is better than B", None),
        ('{"better": "both"}', None),
        ('{"better": 1}', None),
        ("{}", None),
        ("", None),
    ],
)
def test_a_verdict_is_read_or_it_is_none(reply: str, said: str | None) -> None:
    assert better_of(reply) == said


def test_nonsense_is_asked_about_once_more_and_then_not_graded(tmp_path: Path) -> None:
    def write(prompt: str, schema: Any) -> str:
        return (
            "Certainly! Both are fine." if "nonsense" in prompt else json.dumps({"better": right_one(*shown(prompt))})
        )

    questions = [question("nonsense?"), question("sense?")]
    with serving(write=write) as fake:
        verdicts, agreement = judge(fake, tmp_path).prefer(questions, ["5", "5"], ["4", "4"])
        asked = [body["messages"] for body in fake.seen if "nonsense" in body["messages"][0]["content"]]
    assert [len(messages) for messages in asked] == [1, 3]
    assert verdicts[0].score is None
    assert not verdicts[0].right
    assert verdicts[0].reason == "the judge's reply is no verdict: 'Certainly! Both are fine.'"
    assert verdicts[1].score == 1
    assert agreement == 1


def test_a_question_that_the_server_refuses_is_not_graded(tmp_path: Path) -> None:
    """The others are."""

    class Picky(FakeTeacher):
        def _reply(self, handler: Any, asked: dict[str, Any]) -> None:
            from fake_teacher import send

            if "forbidden" in asked["messages"][0]["content"]:
                return send(handler, 400, {"error": {"message": "content policy"}})
            return super()._reply(handler, asked)

    fake = Picky(write=saying(right_one))
    fake.start()
    try:
        verdicts, _ = judge(fake, tmp_path).prefer([question("forbidden"), question()], ["5", "5"], ["4", "4"])
    finally:
        fake.stop()
    assert verdicts[0].score is None
    assert "content policy" in verdicts[0].reason
    assert verdicts[1].score == 1


def test_a_judge_that_goes_away_is_waited_for_once_and_the_rest_is_not_graded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunesmith.teacher.client.TRIES", 2)
    monkeypatch.setattr("tunesmith.teacher.client.PROBES", 1)
    questions, answers, heard = [question(f"{i}?") for i in range(12)], (["5"] * 12, ["4"] * 12), list[Progress]()
    with serving(write=saying(right_one)) as fake:
        fake.plan = lambda key, times: "drop" if len(fake.answered) >= 1 + 2 * 5 else None
        made = judge(fake, tmp_path, parallel=1)
        verdicts, agreement = made.prefer(questions, *answers, heard.append)
        fake.plan = None
        again = made.prefer(questions, *answers)
    assert [v.score for v in verdicts] == [1] * 5 + [None] * 7
    assert fake.url in verdicts[-1].reason
    assert agreement == 1
    assert [(event.stage, event.done, event.total) for event in heard] == [("evaluate", i, 12) for i in range(1, 13)]
    assert [v.score for v in again[0]] == [1] * 12


def test_a_stop_while_it_judges_ends_at_once(tmp_path: Path) -> None:
    class Stop(Exception): ...

    def notify(event: Progress) -> None:
        raise Stop

    questions = [question(f"{i}?") for i in range(200)]
    with serving(write=saying(right_one), seconds=0.02) as fake:
        with pytest.raises(Stop):
            judge(fake, tmp_path, parallel=2).prefer(questions, ["5"] * 200, ["4"] * 200, notify)
        assert len(fake.seen) < 20


# -- before anything is generated --------------------------------------------------------------------


def said_of(made: Judge) -> str:
    with pytest.raises(TeacherError) as caught:
        made.ready()
    assert "\n" not in str(caught.value)
    assert "teacher" not in str(caught.value).replace("teacher-1", "")
    return str(caught.value)


def test_a_judge_that_is_there_is_ready(tmp_path: Path) -> None:
    with serving(key="sk-right") as fake, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESMITH_JUDGE_KEY", "sk-right")
        judge(fake, tmp_path, model="").ready()
        assert fake.seen == []
    assert not (tmp_path / "judge.jsonl").exists()


def test_what_is_wrong_with_the_judge_is_said_in_a_sentence(tmp_path: Path) -> None:
    with serving(key="sk-right") as fake, pytest.MonkeyPatch.context() as patch:
        assert "TUNESMITH_JUDGE_KEY" in said_of(judge(fake, tmp_path))
        assert "the environment has no MINE, where judge.key says" in said_of(judge(fake, tmp_path, key="MINE"))
        patch.setenv("MINE", "sk-wrong-and-never-shown")
        said = said_of(judge(fake, tmp_path, key="MINE"))
        assert "environment as MINE" in said
        assert "never-shown" not in said
        patch.setenv("MINE", "sk-right")
        said = said_of(judge(fake, tmp_path, key="MINE", model="other"))
        assert said.endswith("mend judge.model; it has teacher-1")
    assert "no judge answers at" in said_of(judge(fake, tmp_path))
    nowhere = JudgeTaskSettings.model_validate({"url": "http:/nowhere"})
    assert "judge.url" in said_of(Judge(nowhere, tmp_path / "judge.jsonl"))
