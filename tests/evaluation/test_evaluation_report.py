"""The report of an evaluation: what is on the page, what may not get in, and that it stays small."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html import unescape

import pytest
from html_page import HOSTILE, Page, assert_closed, assert_inert
from hypothesis import given, settings
from hypothesis import strategies as st
from made_evaluations import ABOUT, CASES, UNSURE, VERDICTS, Said, difference, line, loss_only, many, nothing, sql

from tunesmith.evaluation.report import report_page, said, write_report
from tunesmith.evaluation.report_curves import Curves, smooth, thin
from tunesmith.evaluation.report_examples import SHOWN, TURNS, cards, pair
from tunesmith.evaluation.report_plots import Scale, points
from tunesmith.pages.text import harmless
from tunesmith.progress import Progress


def made(name, title="Questions to SQL"):
    results, samples, events = CASES[name]()
    return report_page(title, results, samples, Curves.of(events), ABOUT, VERDICTS[name])


@pytest.fixture(scope="module")
def page():
    return made("sql")


@pytest.fixture(scope="module")
def shown(page):
    return Page(page)


def folded(page):
    """Its words, with a space between any two elements."""
    body = re.sub("<(style|script)>.*?</(style|script)>", "", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub("<[^>]*>", " ", body)).split())


# -- what is on it -------------------------------------------------------------------------------


def test_the_verdict_stands_first_and_every_measurement_has_a_section(shown):
    assert shown.text.index("It learned: sql rises") < shown.text.index(shown.headings[0])
    assert shown.headings == [
        "Scores, and how sure they are", "Loss, step by step", "What it forgot", "What it learned by heart", "Examples",
        "How it was measured",
    ]  # fmt: skip
    ids = {attrs["id"] for _, attrs in shown.elements if "id" in attrs}
    assert {a["href"].removeprefix("#") for a in shown.all("a")} <= ids
    for told in ("SmolLM2-135M-Instruct", "2026-11-22", "5,879 rows", "train.lora.rank"):
        assert told in shown.text


def test_what_was_not_measured_has_no_section():
    shown = Page(made("loss_only"))
    assert shown.headings == ["Loss, step by step", "Examples", "How it was measured"]
    assert "No answers were compared: only the loss was measured." in shown.text


def test_scores_stand_with_intervals_differences_and_words(page):
    text = folded(page)
    assert "tuned 81.5 % 75.5 to 86.3 % +78.5 +72.0 to +84.0 better by 78.5 points" in text
    assert "p < 0.0001; 200 questions, in 50 groups" in text
    assert "1 could not be graded and does not count" in text
    general = "not distinguishable at n = 240; a difference of this size would show with about 910 questions"
    assert f"38.0 % 32.0 to 44.0 % −4.0 −9.0 to +1.0 {general}" in text
    assert "all in Chinese 40 34.0 % 30.0 % −4.0" in text


def test_a_judge_is_measured_against_a_draw_and_its_own_agreement_is_said():
    text = folded(made("character"))
    assert "tuned 62.0 % 54.0 to 70.0 % +12.0 +4.0 to +20.0 better by 12.0 points" in text
    assert "it says the same in both orders in 87.0 % of the questions" in text
    assert "31 % of its answers repeat training rows word for word; fewer epochs" in text


def test_a_task_of_which_nothing_could_be_graded_is_said_and_not_drawn():
    none = {"score": None, "n": 0, "interval": [0.0, 1.0], "ungraded": 12}
    results = [{"model": "base", "tasks": {"json": none}}, {"model": "tuned", "tasks": {"json": none}}]
    page = report_page("t", results, [], Curves.of([]), {}, [])
    assert "tuned – 12 could not be graded and do not count" in folded(page)
    assert "<svg" not in page


def test_what_is_said_of_a_difference_names_what_would_be_needed_only_where_that_is_more():
    unsure = difference(0.01, -0.02, 0.04, 100)
    assert said(unsure) == f"{UNSURE} at n = 100"
    assert said(unsure | {"needed": 4000}).endswith("with about 4,000 questions")
    assert said(difference(-0.2, -0.3, -0.1)) == "worse by 20.0 points"
    assert [points(x) for x in (0.04, -0.04, 0.0001, -0.0001)] == ["+4.0", "−4.0", "0.0", "0.0"]


def test_the_chosen_checkpoint_is_marked_and_is_one_row_with_the_result(page):
    rows = re.findall('<tr class="chosen">(.*?)</tr>', page)
    assert [folded(row) for row in rows] == ["step 400 = tuned ◆ , chosen 0.061 1.06 0.066"]
    assert page.count("chosen: step 400") == 4  # two plots, each for a screen and for a phone
    assert [int(step) for step in re.findall(r'<th scope="row">step (\d+)', page)] == [100, 200, 300, 400, 500]


# -- the curves ----------------------------------------------------------------------------------


def at(event, step, loss=None, best=None):
    return Progress(event, stage="train", step=step, loss=loss, best=best)


def test_steps_that_were_taken_again_after_a_crash_count_once():
    before = [at("start", 0), at("step", 1, 3.0), at("step", 2, 9.0), at("validation", 2, 8.0, True)]
    after = [at("start", 1), at("step", 2, 2.0), at("validation", 2, 1.9, True), at("step", 3, float("nan"))]
    curves = Curves.of([*before, *after])
    assert (curves.train, curves.valid, curves.chosen) == ([(1, 3.0), (2, 2.0)], [(2, 1.9)], 2)
    assert Curves.of([*before, at("start", 1), at("validation", 2, 8.5)]).chosen is None


def test_without_validation_the_last_step_is_the_chosen_one():
    assert Curves.of([at("step", 1, 3.0), at("step", 2, 2.0)]).chosen == 2
    assert Curves.of([]).chosen is None


def test_a_smoothed_curve_keeps_the_mean_and_a_thin_one_its_peaks():
    noisy = [(step, 1.0 + (-1) ** step * 0.5) for step in range(1, 4001)]
    means, over = smooth(noisy)
    assert over == 201
    assert all(abs(value - 1) < 0.01 for _, value in means)
    noisy[1234] = (1235, 7.0)
    assert len(thin(noisy)) <= 400
    assert max(thin(noisy), key=lambda p: p[1]) == (1235, 7.0)
    assert thin(noisy[:400]) == noisy[:400]


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.integers(3, 9))
def test_ticks_are_round_few_and_within_the_axis(a, b, most):
    scale = Scale.of([a, b], 300)
    ticks = scale.ticks(most)
    assert len(ticks) <= (2 * max(most, 5) if scale.log else most + 1)
    assert all(-0.01 <= scale.at(value) <= 300.01 for value, _ in ticks)
    assert len({label for _, label in ticks}) == len(ticks)


# -- examples ------------------------------------------------------------------------------------


def test_outcomes_are_told_by_scores_and_a_judge_by_half():
    found = pair([
        line("base", "overlap", 1, "q", "a", "r", 0.5, ""), line("tuned", "overlap", 1, "q", "b", "r", 0.65, ""),
        line("base", "overlap", 2, "q", "a", "r", 0.9, ""), line("tuned", "overlap", 2, "q", "b", "r", 0.2, ""),
        line("base", "overlap", 3, "q", "a", "r", 0.6, ""), line("tuned", "overlap", 3, "q", "b", "r", 0.65, ""),
        line("base", "overlap", 4, "q", "a", "r", 0.0, ""), line("tuned", "overlap", 4, "q", "b", "r", 0.05, ""),
        line("base", "overlap", 5, "q", "a", "r", None, ""), line("tuned", "overlap", 5, "q", "b", "r", 1.0, ""),
        line("tuned", "judge", 1, "q", "b", "", 1.0, ""), line("tuned", "judge", 2, "q", "b", "", 0.5, ""),
    ])  # fmt: skip
    assert [e.outcome for e in found] == ["better", "worse", "right", "wrong", "ungraded", "better", "alike"]


def test_what_differs_from_the_reference_is_marked_and_a_different_answer_is_not(page):
    def marks(answer, reference):
        (card,) = cards(pair([line("tuned", "exact", 1, "q", answer, reference, 0.0, "")]))
        return [piece for differs, piece in card["sides"][0]["pieces"] if differs]

    assert marks("嘘——许愿说破是不灵的。", "嘘——都说许愿说破是不灵的。") == []
    assert marks("嘘——只说许愿说破是不灵的。", "嘘——都说许愿说破是不灵的。") == ["只"]
    assert marks("a b c d", "a b x d") == ["c"]
    assert marks("As an AI I cannot", "SELECT 1 FROM t") == []
    assert marks("one two three " + "x " * 60, "one two three " + "y " * 20) == []
    assert "<mark>years</mark>" in page


def test_without_a_reference_base_and_tuned_are_compared_with_each_other():
    told = [line("base", "judge", 1, "q", "a b c", "", None, ""), line("tuned", "judge", 1, "q", "a b d", "", 1.0, "")]
    (card,) = cards(pair(told))
    assert [[piece for differs, piece in side["pieces"] if differs] for side in card["sides"]] == [["c"], ["d"]]
    assert [side["grade"] for side in card["sides"]] == ["", "✓ preferred"]


@pytest.mark.parametrize("length", [30, 5000])
def test_a_page_of_ten_thousand_examples_stays_below_three_megabytes_and_says_what_it_holds(length):
    results, _, events = nothing()
    page = report_page("t", results, many(10_000, length), Curves.of(events), ABOUT, VERDICTS["nothing"])
    assert len(page.encode()) < 3_000_000
    kept = page.count('class="item"')
    assert 40 <= kept <= SHOWN
    assert f"The page holds {kept} of 10,000 examples" in page
    outcomes = re.findall('data-outcome="(.*?)"', page)
    assert {"better", "worse", "wrong"} <= set(outcomes)
    assert length > 30 or min(outcomes.count("worse"), outcomes.count("wrong")) >= TURNS
    assert "… (3,000 more characters)" in page or length == 30


def test_filters_name_what_there_is(shown):
    assert [o["value"] for o in shown.all("option")] == ["", "better", "worse", "ungraded", "wrong", "right"]
    items = [attrs for _, attrs in shown.elements if attrs.get("class") == "item"]
    assert len(items) == 200
    assert {item["data-task"] for item in items} == {"sql"}


# -- nothing gets in or out ----------------------------------------------------------------------


def hostile(text):
    results, samples, events = sql()
    for result in results:
        if "general" in result:
            result["general"]["by"] = {text: {"score": 0.5, "n": 1}}
        if "memorised" in result:
            result["memorised"]["alarm"] = text
    told = dict.fromkeys(("question", "reason", "origin"), text) | {"reference": f"one two three four {text} five"}
    samples = [sample | told | {"answer": f"one two three four {text} six"} for sample in samples[:4]]
    about = {"base": text, "date": text, "rows": {text: 1}, "settings": {text: text}}
    return report_page(text, results, samples, Curves.of(events[:20]), about, [Said(text), Said(text)])


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_inert(text):
    harmed, plain = Page(hostile(text)), Page(hostile("plain"))
    assert_inert(harmed, plain)
    assert harmless(text) in harmed.text


@settings(max_examples=20, deadline=None)
@given(st.text(max_size=30))
def test_whatever_the_text_the_page_is_whole_and_can_be_written(text):
    page = hostile(text)
    assert page.encode("utf-8")
    assert len(Page(page).all("script")) == 1


@pytest.mark.parametrize("name", CASES)
def test_every_page_allows_exactly_its_own_style_and_script(name):
    assert_closed(made(name))


# -- the files -----------------------------------------------------------------------------------


def test_the_page_and_its_plots_are_written_and_plots_of_nothing_are_taken_away(tmp_path):
    results, samples, events = sql()
    write_report(tmp_path, "t", results, samples, events, ABOUT, VERDICTS["sql"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loss.svg", "report.html", "scores.svg"]
    for name, told in (("loss.svg", "validation"), ("scores.svg", "81.5 %")):
        root = ET.fromstring((tmp_path / name).read_text("utf-8"))
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert told in "".join(root.itertext())
        assert "prefers-color-scheme: dark" in "".join(root.itertext())
    write_report(tmp_path, "t", loss_only()[0], [], [], {}, VERDICTS["loss_only"])
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
