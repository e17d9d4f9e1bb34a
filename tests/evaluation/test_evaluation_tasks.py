"""What each task counts as right, and what it says of files and rows that it cannot use."""

from __future__ import annotations

import json
import sys
import textwrap
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from tunesmith.errors import SourceError
from tunesmith.evaluation.question import Question, Verdict, ask_rows
from tunesmith.evaluation.tasks.json_answers import json_in
from tunesmith.evaluation.tasks.json_schema import BadSchema, Schema
from tunesmith.evaluation.tasks.number import last_number
from tunesmith.evaluation.tasks.open import files_of, open_task
from tunesmith.settings.evaluate import LossTask
from tunesmith.settings.evaluate import Task as TaskSettings
from tunesmith.sources.example import Example, Message, Origin


def settings(kind: str, **values: Any) -> Any:
    return TypeAdapter(TaskSettings).validate_python({"kind": kind, **values})


def opened(kind: str, folder: Path = Path(), **values: Any) -> Any:
    return open_task(settings(kind, **values), folder, folder / "evaluation")


def row(answer: str, line: int = 7, question: str = "?") -> Example:
    return Example((Message("user", question), Message("assistant", answer, True)), Origin("rows.jsonl", line))


def asked(reference: str) -> Question:
    return ask_rows([row(reference)])[0]


def graded(kind: str, reference: str, answer: str, folder: Path = Path(), **values: Any) -> Verdict:
    return opened(kind, folder, **values).grade(asked(reference), answer)


# -- text --------------------------------------------------------------------------------------------


def test_exact_is_character_by_character() -> None:
    assert graded("exact", "Paris", "Paris\n").score == 1
    for other in ("paris", "Paris.", "", "Ｐaris"):
        assert graded("exact", "Paris", other).score == 0


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("Paris", "paris."),
        ("Paris", "**Answer:** `Paris`!"),
        ("New  York", "new\nyork"),
        ("It's 3.5 km", "it’s 3.5 KM."),
        ("well-known", "Well known"),
        ("答案：北京", "北京。"),
        ("北京", "答：「 北 京 」"),
        ("ＡＢＣ１２３", "abc123"),
        ("Straße", "STRASSE"),
        ("東京、大阪", "東京大阪"),
        ("−5 °C", "-5 °c"),
        ("?!", "?!"),
    ],
)
def test_normalised_passes_over_case_width_spaces_marks_and_the_label(reference: str, answer: str) -> None:
    assert graded("normalised", reference, answer).score == 1


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("Paris", "Paris, France"),
        ("Paris", ""),
        ("C#", "C"),
        ("C++", "C"),
        ("-5", "5"),
        ("3.5", "35"),
        ("3.5", "3 5"),
        ("10:30", "1030"),
        ("5 %", "5"),
        ("New York", "NewYork"),
        ("北京", "東京"),
        ("?!", "yes"),
    ],
)
def test_normalised_keeps_what_says_something(reference: str, answer: str) -> None:
    assert graded("normalised", reference, answer).score == 0


@pytest.mark.parametrize(
    ("reference", "answer", "found"),
    [
        ("art", "It is Art, of course.", True),
        ("art", "It is a part.", False),
        ("art", "Artful", False),
        ("5", "It took 15 days, or 5.5", False),
        ("5", "花了5个小时", True),
        ("北京", "中国的首都是北京。", True),
        ("京北", "中国的首都是北京。", False),
        ("New York", "in New-York's streets", True),
        ("New York", "in New York.", True),
        ("서울", "수도는 서울입니다", True),
        ("a b", "a, or b", False),
        ("!!!", "anything", False),
    ],
)
def test_contains_finds_whole_words_and_chinese_by_characters(reference: str, answer: str, found: bool) -> None:
    assert graded("contains", reference, answer).right is found


@pytest.mark.parametrize(
    ("reference", "answer", "f1"),
    [
        ("the cat sat", "A cat sat", 1),
        ("cat sat", "the cat ran far", 2 / 5),
        ("cat cat", "cat", 2 / 3),
        ("北京市", "北京", 4 / 5),
        ("A", "A", 1),
        ("cat", "dog", 0),
        ("cat", "", 0),
    ],
)
def test_overlap_is_the_f1_of_words_without_articles_and_of_characters(reference: str, answer: str, f1: float) -> None:
    assert graded("overlap", reference, answer).score == pytest.approx(f1)


# -- numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("first 3, then 1,234.5 in all", "1234.5"),
        ("1 234", "1234"),
        ("1 234,5", "1234.5"),
        ("1.234,5", "1234.5"),
        ("3,5", "3.5"),
        ("0,125", "0.125"),
        ("1,2,3", "3"),
        ("10 20 300", "300"),
        ("in 2023 100 of them", "100"),
        ("3/4", "3/4"),
        ("½", "1/2"),
        ("2½ cups", "5/2"),
        ("2 1/2", "5/2"),
        ("12/25/2023", "2023"),
        ("-5", "-5"),
        ("−5", "-5"),
        ("minus 5", "-5"),
        ("-$5", "-5"),
        ("7-5", "5"),
        ("1e-3", "1/1000"),
        ("2 × 10^6", "2000000"),
        ("10³", "1000"),
        ("\\boxed{2 \\times 10^{6}}", "2000000"),
        ("１２３", "123"),
        ("20 m²", "20"),
        ("8 g of CO2", "8"),
        ("The answer is...5.", "5"),
        ("1.5 million", "1500000"),
        ("三百二十", "320"),
        ("一共两千零五个", "2005"),
        ("一百五", "150"),
        ("一万零五百", "10500"),
        ("三亿五千万", "350000000"),
        ("一万亿", "1000000000000"),
        ("十二", "12"),
        ("二〇二四年", "2024"),
        ("负五", "-5"),
        ("三点一四", "3.14"),
        ("三分之二", "2/3"),
        ("3.5万", "35000"),
        ("2亿", "200000000"),
        ("1亿2000万元", "120000000"),
        ("5千克", "5"),
        ("3千万", "30000000"),
        ("42，这是一个好答案", "42"),
        ("一个", "1"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_a_number_is_read_however_it_is_written(text: str, value: str) -> None:
    found = last_number(text)
    assert found is not None
    if len(value) < 100:
        assert found.value == Fraction(value)
    else:
        assert found.value == 10**5000 - 1


@pytest.mark.parametrize("text", ["", "none", "m2", "2^10", "1.2.3", "千万不要", "三四"])
def test_what_is_no_number_is_none(text: str) -> None:
    assert last_number(text) is None


@pytest.mark.parametrize(
    ("reference", "answer", "right"),
    [
        ("1000", "about 1,000.0005", True),
        ("1000", "1000.01", False),
        ("0", "0.0", True),
        ("0", "1e-9", False),
        ("12 %", "12", True),
        ("12", "12%", True),
        ("12 %", "0.12", True),
        ("百分之十二", "12％", True),
        ("12", "0.12", False),
        ("12 %", "1200", False),
        ("1/3", "0.333333333", True),
        ("320", "答案是三百二十。", True),
        ("42", "no idea", False),
    ],
)
def test_numbers_are_equal_within_the_tolerance(reference: str, answer: str, right: bool) -> None:
    assert graded("number", reference, answer).right is right


def test_the_tolerance_is_a_share_of_the_reference() -> None:
    assert graded("number", "200", "202", tolerance=0.01).right
    assert not graded("number", "200", "202.1", tolerance=0.01).right
    assert graded("number", "0.1", "0.1", tolerance=0).right


def test_a_reference_without_a_number_is_named_before_anything_is_asked() -> None:
    with pytest.raises(SourceError, match=r"rows\.jsonl:9: the answer 'many' holds no number"):
        opened("number").questions([row("4"), row("many", 9)])


# -- choices -----------------------------------------------------------------------------------------


def choices(folder: Path, *rows: Any) -> Any:
    lines = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in rows]
    (folder / "questions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return opened("choice", folder, path="questions.jsonl")


@pytest.mark.parametrize(
    "question",
    [
        {"choices": ["Rome", "Paris", "Oslo"], "answer": 1},
        {"choices": ["Rome", "Paris", "Oslo"], "answer": "Paris"},
        {"choices": ["Rome", "Paris", "Oslo"], "answer": "B"},
        {"choices": {"text": ["Rome", "Paris"], "label": ["1", "2"]}, "answerKey": "2"},
        {"options": {"A": "Rome", "B": "Paris"}, "answer": "B"},
        {"A": "Rome", "B": "Paris", "C": "Oslo", "D": "Bern", "answer": "B"},
    ],
)
def test_the_usual_shapes_of_choices_are_read(tmp_path: Path, question: dict[str, Any]) -> None:
    task = choices(tmp_path, {"question": "What is the capital of France?", **question})
    (made,) = task.questions([])
    assert made.reference == "Paris"
    assert {"Rome", "Paris"} <= set(made.choices)
    assert made.messages == ({"role": "user", "content": "What is the capital of France?"},)
    assert made.origin.endswith("questions.jsonl:1")
    assert task.grade(made, "Paris").score == 1
    assert task.grade(made, "Rome").score == 0


def test_a_choice_itself_goes_before_the_letter_of_its_place(tmp_path: Path) -> None:
    (made,) = choices(tmp_path, {"question": "Second letter?", "choices": ["B", "A"], "answer": "B"}).questions([])
    assert made.reference == "B"


def test_the_same_question_twice_is_one_cluster(tmp_path: Path) -> None:
    first, second, other = choices(
        tmp_path,
        {"question": "上海在哪里？", "choices": ["中国", "日本"], "answer": 0},
        {"question": "上海在哪里", "choices": ["亚洲", "欧洲"], "answer": 0},
        {"question": "巴黎在哪里？", "choices": ["法国", "日本"], "answer": 0},
    ).questions([])
    assert first.cluster == second.cluster != other.cluster
    assert len({first.id, second.id, other.id}) == 3


GOOD = {"question": "?", "choices": ["a", "b"], "answer": 0}


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ('{"question": ', "broken JSON"),
        ("[1]", "it is no JSON object"),
        ({**GOOD, "question": " "}, '"question" is missing or empty'),
        ({**GOOD, "choices": ["a"]}, "two or more"),
        ({**GOOD, "choices": ["a", "a"]}, "there twice"),
        ({**GOOD, "choices": ["a", None]}, "a choice is empty"),
        ({**GOOD, "choices": {"text": ["a", "b"], "label": ["A"]}}, "one label for each"),
        ({**GOOD, "answer": 2}, "the places are 0 to 1"),
        ({**GOOD, "answer": True}, "none of the choices"),
        ({**GOOD, "answer": "c"}, "'c', which is none of the choices"),
        ({"question": "?", "choices": ["a", "b"]}, '"answer" is missing'),
    ],
)
def test_a_line_that_is_no_question_is_named(tmp_path: Path, bad: Any, why: str) -> None:
    with pytest.raises(SourceError) as caught:
        choices(tmp_path, GOOD, "", bad)
    said = str(caught.value)
    assert "questions.jsonl:3 is" in said
    assert why in said
    assert "\n" not in said


def test_a_file_without_questions_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no question"):
        choices(tmp_path, "")


# -- JSON --------------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}


def with_schema(folder: Path, schema: Any) -> Any:
    text = schema if isinstance(schema, str) else json.dumps(schema)
    (folder / "schema.json").write_text(text)
    return opened("json", folder, schema_file="schema.json")


@pytest.mark.parametrize(
    "answer",
    ['{"a": 1}', 'Here:\n```json\n{"a": 1}\n```\nThat is [it].', 'It is {"a": 1}, as said.', '```\n{"a": 1}'],
)
def test_json_is_found_in_what_a_model_says(answer: str) -> None:
    assert json_in(answer) == {"a": 1}
    assert graded("json", "no JSON", answer) == Verdict(1.0, "valid")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("I do not know", "no JSON"),
        ("42", "no JSON"),
        ('{"a": 1,}', "broken JSON: "),
        ('{"a": [1, 2], oops}', "broken JSON: "),
        ('{"a": NaN}', "NaN is no JSON"),
        ('```json\n{"a": 1} {"b": 2}\n```', "broken JSON: more stands behind its end"),
        ("[" * 100_000, "broken JSON: it is nested too deeply"),
    ],
)
def test_what_is_no_json_is_wrong_and_says_why(answer: str, why: str) -> None:
    verdict = graded("json", '{"a": 1}', answer)
    assert verdict.score == 0
    assert why in verdict.reason


def test_being_equal_to_the_reference_is_said_and_not_scored() -> None:
    reference = '{"a": 1, "b": [true, "x"]}'
    assert graded("json", reference, '{"b": [true, "x"], "a": 1.0}').reason == "valid, and equal to the reference"
    for other in ('{"b": [1, "x"], "a": 1}', "[]"):
        assert graded("json", reference, other) == Verdict(1.0, "valid, and not equal to the reference")


def test_a_schema_decides_and_says_where(tmp_path: Path) -> None:
    task = with_schema(tmp_path, SCHEMA)
    assert task.grade(asked("x"), '{"name": "Ann", "age": 3.0}').score == 1
    verdict = task.grade(asked("x"), '{"name": "Ann", "age": -1}')
    assert verdict == Verdict(0.0, "does not keep to the schema: age: -1 is less than the minimum of 0")
    assert task.grade(asked("x"), '{"age": 3, "names": "Ann"}').score == 0


def test_a_reference_that_breaks_the_schema_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"rows\.jsonl:8: the answer does not keep to the schema"):
        with_schema(tmp_path, SCHEMA).questions([row('{"name": "Ann"}'), row('{"name": 1}', 8)])


LIST = {"$ref": "#/$defs/list", "$defs": {"list": {"type": "array", "items": {"$ref": "#/$defs/list"}}}}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (True, [1, {}], []),
        (False, [], [1, {}]),
        ({"type": "integer"}, [1, 1.0], [1.5, True, "1", None]),
        ({"type": ["string", "null"]}, ["", None], [0, []]),
        ({"enum": [1, "a", [1]]}, [1.0, "a", [1.0]], [True, "b", []]),
        ({"const": {"a": 0}}, [{"a": 0}], [{"a": False}, {}]),
        ({"minimum": 1, "exclusiveMaximum": 2}, [1, 1.9, "x"], [0, 2]),
        ({"minLength": 2, "maxLength": 3}, ["北京", "abc", 1], ["京", "abcd"]),
        ({"pattern": "^a+$"}, ["aa", 5], ["ab", ""]),
        ({"prefixItems": [{"type": "string"}], "items": {"type": "number"}}, [["a", 1], []], [[1], ["a", "b"]]),
        ({"uniqueItems": True, "maxItems": 2}, [[1, True], {}], [[1, 1.0], [1, 2, 3]]),
        ({"properties": {"a": {"type": "null"}}, "additionalProperties": {"type": "string"}},
         [{"a": None, "b": "x"}, 3], [{"a": 1}, {"b": 1}]),
        ({"required": ["a"], "maxProperties": 1}, [{"a": 1}, []], [{}, {"a": 1, "b": 2}]),
        ({"if": {"type": "string"}, "then": {"minLength": 1}}, ["a", 1], [""]),
        ({"anyOf": [{"type": "string"}, {"minimum": 5}]}, ["a", 5], [4]),
        ({"oneOf": [{"minimum": 1}, {"maximum": 3}]}, [0, 4], [2]),
        ({"allOf": [{"minimum": 1}, {"maximum": 3}], "not": {"const": 2}}, [1, 3], [0, 2, 4]),
        (LIST, [[], [[], [[]]]], [{}, [[1]]]),
    ],
)  # fmt: skip
def test_every_keyword_means_what_the_standard_says(schema: Any, good: list[Any], bad: list[Any]) -> None:
    made = Schema(schema)
    assert [made.fault(value) for value in good] == [""] * len(good)
    assert all(made.fault(value) for value in bad)


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"$ref": "https://example.com/schema.json"}, "nothing is fetched"),
        ({"properties": {"a": {"$ref": "other.json#/a"}}}, "nothing is fetched"),
        ({"$ref": "#/$defs/none"}, "nothing is fetched"),
        ({"anyOf": [{"$ref": "#"}]}, "leads back to itself"),
        ({"properties": {"a": {"type": "text"}}}, "properties.a.type: 'text' is not valid"),
        ({"pattern": "("}, "pattern: '(' is not a 'regex'"),
        ({"required": "a"}, "required: 'a' is not of type 'array'"),
        ({"items": [{}]}, "items: [{}] is not of type"),
        ({"$ref": "#/required", "required": ["a"]}, "['a'] is not of type"),
    ],
)
def test_a_schema_that_cannot_be_checked_is_refused_when_it_is_read(tmp_path: Path, schema: Any, why: str) -> None:
    with pytest.raises(BadSchema):
        Schema(schema)
    with pytest.raises(SourceError) as caught:
        with_schema(tmp_path, schema)
    assert why in str(caught.value)
    assert "schema.json" in str(caught.value)


def test_a_schema_file_that_is_broken_or_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"schema\.json is no JSON schema but broken JSON"):
        with_schema(tmp_path, "{")
    with pytest.raises(SourceError, match=r"there is no file or folder .*none\.json"):
        opened("json", tmp_path, schema_file="none.json")


# -- a person's function -----------------------------------------------------------------------------


def own(folder: Path, body: str, **values: Any) -> Any:
    (folder / "grader.py").write_text(textwrap.dedent(body))
    return opened("function", folder, file="grader.py", **values)


def test_a_function_sees_question_answer_and_reference(tmp_path: Path) -> None:
    (tmp_path / "helper_of_grader.py").write_text("HALF = 0.5")
    task = own(tmp_path, """
        from helper_of_grader import HALF
        def marks(question, answer, reference):
            return {("Q", "A", "R"): True, ("Q", "B", "R"): HALF}.get((question, answer, reference), False)
    """, name="marks")  # fmt: skip
    (question,) = task.questions([row("R", question="Q")])
    assert [task.grade(question, answer).score for answer in "ABC"] == [1, 0.5, 0]
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize(
    ("result", "why"),
    [
        ("1 / 0", "the grader failed: ZeroDivisionError: division by zero"),
        ("exit(1)", "the grader failed: SystemExit: 1"),
        ("None", "it gave None, not True, False or a number from 0 to 1"),
        ("1.5", "it gave 1.5, not"),
        ("float('nan')", "it gave nan, not"),
        ("'yes'", "it gave 'yes', not"),
    ],
)
def test_a_function_that_fails_is_neither_right_nor_wrong(tmp_path: Path, result: str, why: str) -> None:
    task = own(tmp_path, f"""
        def grade(question, answer, reference):
            return True if answer == reference else {result}
    """)  # fmt: skip
    (question,) = task.questions([row("gold")])
    assert task.grade(question, "gold").score == 1
    verdict = task.grade(question, "other")
    assert verdict.score is None
    assert not verdict.right
    assert why in verdict.reason


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    task = own(tmp_path, """
        import numpy
        def grade(question, answer, reference):
            return numpy.bool_(True) if answer == "a" else numpy.float32(0.25)
    """)  # fmt: skip
    assert [task.grade(asked("?"), answer).score for answer in "ab"] == [1, 0.25]


def test_a_function_that_fails_on_every_gold_answer_is_said_before_anything_is_asked(tmp_path: Path) -> None:
    task = own(tmp_path, """
        def grade(question, answer):
            return True
    """)  # fmt: skip
    with pytest.raises(SourceError, match=r"grade fails on all 2 reference answers.*rows\.jsonl:7: .*TypeError"):
        task.questions([row("a"), row("b", 8)])


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("def other(question, answer, reference): ...", r"has no function grade\(.*it has other; write it"),
        ("grade = 3", "has no function grade"),
        ("def grade(:", "does not run as Python: SyntaxError"),
        ("import nothing_of_that_name", "does not run as Python: ModuleNotFoundError"),
        ("raise SystemExit(2)", "does not run as Python: SystemExit: 2"),
    ],
)
def test_a_file_without_a_grader_is_said_in_a_sentence(tmp_path: Path, body: str, why: str) -> None:
    with pytest.raises(SourceError, match=why) as caught:
        own(tmp_path, body)
    assert "grader.py" in str(caught.value)
    assert "\n" not in str(caught.value)


# -- all of them -------------------------------------------------------------------------------------

EVERY = {
    "exact": {}, "normalised": {}, "contains": {}, "overlap": {}, "number": {}, "json": {"schema_file": "s.json"},
    "sql": {"database": "s.sql"}, "function": {"file": "s.py"}, "choice": {"path": "s.jsonl"},
    "judge": {"url": "http://127.0.0.1:9/v1"},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "s.json").write_text("{}")
    (tmp_path / "s.sql").write_text("CREATE TABLE p (x)")
    (tmp_path / "s.py").write_text("def grade(question, answer, reference): return True")
    (tmp_path / "s.jsonl").write_text(json.dumps(GOOD))
    return tmp_path


@pytest.mark.parametrize("kind", [kind for kind in EVERY if kind != "choice"])
def test_rows_without_answers_are_said_in_a_sentence(folder: Path, kind: str) -> None:
    task = opened(kind, folder, **EVERY[kind])
    assert task.name == kind
    raw = Example((Message("text", "raw text", True),), Origin("a.txt", 1))
    for rows in ([], [raw], [row(" \n")]):
        with pytest.raises(SourceError, match=f'no test row has an answer, by which the task "{kind}" grades'):
            task.questions(rows)


@pytest.mark.parametrize("kind", EVERY)
def test_each_file_of_a_task_counts_and_is_named_when_it_is_missing(folder: Path, kind: str) -> None:
    named = [name for name in EVERY[kind].values() if name.startswith("s.")]
    assert files_of(settings(kind, **EVERY[kind]), folder) == [folder / name for name in named]
    for name in named:
        (folder / name).unlink()
        with pytest.raises(SourceError, match=str(folder / name)):
            opened(kind, folder, **EVERY[kind])


def test_the_loss_has_no_files() -> None:
    assert files_of(LossTask(), Path()) == []


@pytest.mark.parametrize("kind", [kind for kind in EVERY if kind not in ("sql", "choice", "judge")])
@pytest.mark.parametrize("answer", ["", "\0", "\ud800", "😀" * 1000, "1" * 20_000, "[" * 20_000, "-.,:；。%^/", "分之"])
def test_no_answer_makes_a_task_raise(folder: Path, kind: str, answer: str) -> None:
    assert opened(kind, folder, **EVERY[kind]).grade(asked("42"), answer).score is not None
