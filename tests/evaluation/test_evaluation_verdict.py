"""The sentences that people read beneath results."""

from __future__ import annotations

from typing import Any

import pytest

from tunesmith.evaluation.statistics import compare
from tunesmith.evaluation.verdict import verdict


def difference(mean: float, interval: tuple[float, float], n: int = 200, **more: Any) -> dict[str, Any]:
    low, high = interval
    said = "better" if low > 0 else "worse" if high < 0 else "not distinguishable"
    return {"mean": mean, "interval": [low, high], "p_value": 0.01, "n": n, "clusters": n, "needed": 310,
            "verdict": said, **more}  # fmt: skip


def scored(score: float | None, n: int = 200, **more: Any) -> dict[str, Any]:
    return {"score": score, "n": n, "interval": [0, 1], "ungraded": 0, **more}


def results(base: dict[str, Any], tuned: dict[str, Any], **models: dict[str, Any]) -> list[dict[str, Any]]:
    """Results of models by name, where ``base`` and ``tuned`` are their tasks."""
    more = [{"model": name.replace("_", "+"), "split": "test", **result} for name, result in models.items()]
    return [{"model": "base", "loss": 2.31, "tasks": base}, *more, {"model": "tuned", "loss": 0.72, "tasks": tuned}]


def said(measured: list[dict[str, Any]]) -> list[str]:
    return [sentence.text for sentence in verdict(measured)]


def compared(before: float, after: float, **more: Any) -> list[dict[str, Any]]:
    return results({"sql": scored(before)}, {"sql": scored(after, **more)})


def test_better_and_worse_are_said_with_scores_and_by_how_much() -> None:
    assert said(compared(0.0, 0.99, difference=difference(0.99, (0.95, 1.0)))) == [
        "Tuned is better: it answers 99 % of 200 questions right, base 0 % (95 to 100 points more)."
    ]
    assert said(compared(0.61, 0.40, difference=difference(-0.21, (-0.27, -0.15)))) == [
        "Tuned is worse: it answers 40 % of 200 questions right, base 61 % (15 to 27 points less)."
    ]


def test_no_difference_is_said_with_the_questions_it_would_take() -> None:
    unsure = difference(0.05, (-0.1, 0.2), n=40)
    measured = results({"sql": scored(0.45, 40)}, {"sql": scored(0.5, 40, difference=unsure)})
    assert said(measured) == [
        "No difference can be told from chance on 40 questions (base 45 %, tuned 50 %); "
        "about 310 such questions would be needed to tell one of this size."
    ]
    assert verdict(measured)[0].tone == "unsure"
    unsure |= {"needed": 4567}
    assert "about 4,600 such questions" in said(measured)[0]
    unsure |= {"needed": 3_000_000}
    assert "more than 100,000 such questions" in said(measured)[0]
    unsure |= {"needed": None}
    assert said(measured)[0].endswith("(base 45 %, tuned 50 %).")


def test_questions_about_too_few_documents_are_said_to_be_so() -> None:
    clusters = [f"document {i % 3}" for i in range(60)]
    measured = results(
        {"normalised": scored(0.0, 60)},
        {"normalised": scored(1.0, 60, difference=compare([0] * 60, [1] * 60, clusters).to_json())},
    )
    assert said(measured) == [
        "No difference can be told from chance (base 0 %, tuned 100 %): all 60 questions are about 3 documents or "
        "tables, and it takes 6."
    ]


def test_what_statistics_say_of_real_scores_is_what_is_said() -> None:
    names = [str(i) for i in range(100)]
    base, tuned = [1, 0] * 50, [1] * 90 + [0] * 10
    for first, second, begins in ((base, tuned, "Tuned is better"), (tuned, base, "Tuned is worse"),
                                  (base, base, "No difference")):  # fmt: skip
        told = compare(first, second, names).to_json()
        assert said(compared(sum(first) / 100, sum(second) / 100, difference=told))[0].startswith(begins)


@pytest.mark.parametrize(("interval", "points"), [
    ((0.004, 0.021), "(0.4 to 2.1 points more)"), ((0.0001, 0.05), "(up to 5.0 points more)"),
    ((0.101, 0.104), "(10 points more)"), ((0.0096, 0.0104), "(1.0 points more)"),
])  # fmt: skip
def test_small_differences_keep_a_decimal(interval: tuple[float, float], points: str) -> None:
    assert points in said(compared(0.5, 0.52, difference=difference(0.02, interval)))[0]


def test_a_share_is_rounded_to_none_or_all_only_where_that_is_true() -> None:
    text = said(compared(0.0004, 0.9996, difference=difference(0.99, (0.95, 1.0))))[0]
    assert "answers 99.9 % of 200 questions right, base 0.1 %" in text


def test_older_results_have_a_p_value_and_no_interval_of_the_difference() -> None:
    assert said(compared(0.03, 0.86, p_value=1e-9)) == [
        "Tuned is better: it answers 86 % of 200 questions right, base 3 %."
    ]
    assert said(compared(0.86, 0.03, p_value=0.01))[0].startswith("Tuned is worse")
    assert said(compared(0.5, 0.54, p_value=0.3)) == [
        "No difference can be told from chance on 200 questions (base 50 %, tuned 54 %)."
    ]
    assert said(compared(0.5, 0.54))[0].startswith("Whether tuned is better was not tested")


def test_of_several_tasks_the_first_is_the_headline_and_each_is_named() -> None:
    better, unsure = difference(0.4, (0.3, 0.5)), difference(0.0, (-0.1, 0.1), needed=None)
    sentences = said(results(
        {"sql": scored(0.5), "json": scored(0.9), "overlap": scored(0.2)},
        {"sql": scored(0.9, difference=better), "json": scored(0.9, difference=unsure),
         "overlap": scored(0.6, difference=better)},
    ))  # fmt: skip
    assert sentences == [
        "Tuned is better at sql: it answers 90 % of 200 questions right, base 50 % (30 to 50 points more).",
        "No difference can be told from chance on 200 questions in json (both 90 %).",
        "Tuned is better at overlap: it scores 60 % on 200 questions, base 20 % (30 to 50 points more).",
    ]


@pytest.mark.parametrize(("over", "begins", "tone"), [
    (difference(-0.11, (-0.2, -0.03)), "You did not need to fine-tune: base with the documents at hand answers better "
                                       "(80 %, tuned 81 %).", "bad"),
    (difference(0.01, (-0.05, 0.07)), "You did not need to fine-tune: base with the documents at hand answers as well "
                                      "(80 %, tuned 81 %, 7 points more at most).", "bad"),
])  # fmt: skip
def test_that_it_was_not_worth_it_comes_before_that_it_learned(over: dict, begins: str, tone: str) -> None:
    tuned = {"normalised": scored(0.81, difference=difference(0.4, (0.3, 0.5)), over_retrieval=over)}
    retrieval = {"tasks": {"normalised": scored(0.8, difference=difference(0.4, (0.3, 0.5)))}}
    first, second = verdict(results({"normalised": scored(0.41)}, tuned, base_retrieval=retrieval))
    assert (first.text, first.tone) == (begins, tone)
    assert second.text.startswith("Tuned is better")


def test_that_it_was_worth_it_or_cannot_be_told_comes_after() -> None:
    def worth(over: dict[str, Any] | None) -> str:
        tuned = {"normalised": scored(0.81, difference=difference(0.4, (0.3, 0.5)))}
        tuned["normalised"] |= {"over_retrieval": over} if over else {}
        retrieval = {"tasks": {"normalised": scored(0.6)}}
        return said(results({"normalised": scored(0.41)}, tuned, base_retrieval=retrieval))[1]

    assert worth(difference(0.21, (0.12, 0.25))) == (
        "It was worth it: base with the documents at hand answers 60 % right, tuned 81 % (12 to 25 points more)."
    )
    assert worth(difference(0.1, (-0.1, 0.3), n=40)).startswith(
        "Whether you needed to fine-tune cannot be told from 40 questions: "
    )
    assert "was not tested" in worth(None)


def test_the_judge_stands_alone_at_tuned() -> None:
    def judged(**more: Any) -> str:
        return said(results({}, {"judge": scored(0.7, 100, **more)}))[0]

    assert judged(difference=difference(0.2, (0.12, 0.28)), agreement=0.83) == (
        "The judge prefers tuned: tuned is ahead in 70 % of 100 pairs, 50 % being a tie; asked in the other order it "
        "says the same of 83 %."
    )
    assert judged(difference=difference(-0.2, (-0.28, -0.12)), agreement=0.83).startswith("The judge prefers base")
    assert judged(difference=difference(0.05, (-0.1, 0.2), n=40)).startswith("The judge sees no difference")
    unreliable = verdict(results({}, {
        "judge": scored(0.7, 100, difference=difference(0.2, (0.12, 0.28)), agreement=0.55)
    }))[0]  # fmt: skip
    assert (unreliable.text.endswith("55 %, which is too few to rely on."), unreliable.tone) == (True, "unsure")


@pytest.mark.parametrize(
    ("seen", "interval", "said", "tone"),
    [
        ("better", [1.2, 1.98], "better than base does (loss 2.310 → 0.720, 1.200 to 1.980 less)", "good"),
        ("worse", [-0.9, -0.1], "no better than base does (loss 2.310 → 0.720, 0.100 to 0.900 more)", "bad"),
        ("not distinguishable", [-0.4, 0.9], "cannot be told on 12 rows (loss 2.310 → 0.720, "
         "between 0.400 more and 0.900 less)", "unsure"),
    ],
)  # fmt: skip
def test_a_loss_is_compared_row_by_row(seen: str, interval: list[float], said: str, tone: str) -> None:
    gain = {"mean": 1.59, "interval": interval, "verdict": seen, "n": 12, "clusters": 12}
    (sentence,) = verdict([{"model": "base", "loss": 2.31}, {"model": "tuned", "loss": 0.72, "gain": gain}])
    assert said in sentence.text
    assert sentence.tone == tone


def test_of_rows_too_few_to_tell_anything_no_interval_is_told() -> None:
    gain = {"mean": 0.79, "interval": [-1.516, 1.516], "verdict": "not distinguishable", "n": 4, "clusters": 4}
    (sentence,) = verdict([{"model": "base", "loss": 2.392}, {"model": "tuned", "loss": 1.602, "gain": gain}])
    assert "cannot be told on 4 rows (loss 2.392 → 1.602);" in sentence.text


def test_without_graded_answers_the_loss_is_told_and_no_more_is_claimed() -> None:
    assert said(results({}, {})) == [
        "Tuned expects text it never saw better than base does (loss 2.310 → 0.720); no answers were graded, so "
        "whether they are right is not known."
    ]
    worse = results({}, {})
    worse[-1]["loss"] = 2.4
    assert "no better than base" in said(worse)[0]
    worse[-1]["loss"] = None
    assert said(worse) == []


def test_answers_that_could_not_be_graded_are_counted_apart() -> None:
    base, tuned = {"function": scored(None, 0, ungraded=40)}, {"function": scored(None, 0, ungraded=39)}
    assert said(results(base, tuned)) == [
        "No answer could be graded, which says nothing about either model.",
        "79 answers could not be graded and were counted neither as right nor as wrong (function 79).",
    ]


def forgetting(before: float, after: float, **more: Any) -> str:
    measured = results({}, {})
    measured[0]["general"] = scored(before, 240, by={"arithmetic": {"score": 0.8, "n": 60}})
    measured[1]["general"] = scored(after, 240, by={"arithmetic": {"score": 0.4, "n": 60}}, **more)
    return said(measured)[1]


def test_what_was_forgotten_is_said_with_the_part_that_fell_most() -> None:
    assert forgetting(0.61, 0.44, difference=difference(-0.17, (-0.22, -0.12))) == (
        "It forgot: general questions 61 % → 44 % (12 to 22 points less), most in arithmetic: 80 % → 40 %."
    )
    assert forgetting(0.61, 0.59, difference=difference(-0.02, (-0.06, 0.02))) == (
        "It forgot nothing that can be told from chance: general questions 61 % → 59 % (at most 6 points less)."
    )
    assert forgetting(0.41, 0.5, difference=difference(0.09, (0.04, 0.14))).startswith("It forgot nothing on the whole")
    assert forgetting(0.61, 0.55, difference=difference(-0.06, (-0.2, 0.08), n=24)).startswith(
        "Whether it forgot cannot be told from 24 questions: general questions 61 % → 55 %"
    )
    assert forgetting(0.61, 0.55).startswith("Whether it forgot was not tested")


def test_the_alarm_of_memorising_and_the_choice_of_the_checkpoint_are_passed_on() -> None:
    measured = results({}, {}, **{"step-000200": {"loss": 0.7}})
    measured[-1]["memorised"] = {"copied": 0.4, "alarm": "It repeats 40 % of its training rows word for word."}
    *_, alarm, checkpoints = verdict(measured)
    assert (alarm.text, alarm.tone) == ("It repeats 40 % of its training rows word for word.", "bad")
    assert "best on validation rows" in checkpoints.text
    measured[-1]["memorised"]["alarm"] = ""
    assert not any(sentence.about == "memorising" for sentence in verdict(measured))


@pytest.mark.parametrize("measured", [[], [{"model": "base", "loss": 1.0}], [{"model": "tuned", "tasks": {}}], [{}]])
def test_of_one_model_alone_nothing_is_said(measured: list[dict[str, Any]]) -> None:
    assert verdict(measured) == []
