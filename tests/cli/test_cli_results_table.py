import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from tunesmith.cli.results_table import ResultsTable


def text(results, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(ResultsTable(results))
    shown = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert max(map(cell_len, shown.splitlines()), default=0) <= width
    return shown


def scored(score, interval=(0.0, 1.0), **more):
    return {"score": score, "n": 300, "interval": list(interval), "ungraded": 0, **more}


def model(name, loss, score=None, interval=(0.0, 1.0), **more):
    tasks = {} if score is None else {"sql": scored(score, interval, **more)}
    return {"model": name, "split": "test", "loss": loss, "perplexity": loss and 3 * loss, "tasks": tasks}


def told(verdict, low=-0.05, high=0.05):
    return {"mean": (low + high) / 2, "interval": [low, high], "p_value": 0.5, "n": 300, "clusters": 300,
            "needed": 900, "verdict": verdict}  # fmt: skip


BETTER = told("better", 0.78, 0.87)
RESULTS = [
    model("base", 2.31, 0.03, (0.016, 0.056)),
    model("step-000200", 0.71),
    model("tuned", 0.72, 0.86, (0.82, 0.9), difference=BETTER),
]


@pytest.mark.parametrize(("width", "interval"), [(100, True), (60, True), (40, False)])
def test_results_name_every_model_and_drop_detail_where_it_is_narrow(width, interval):
    shown = text(RESULTS, width)
    assert shown.index("base") < shown.index("step-0") < shown.index("tuned")
    assert ("82–90 %" in shown) is interval
    assert "86 %" in shown


def lines_of(results, width=100):
    return {line.split()[0]: line for line in text(results, width).splitlines() if line.strip()}


def test_the_best_of_each_column_is_marked():
    lines = lines_of(RESULTS)
    assert "0.710 ◆" in lines["step-000200"]
    assert "86 % ◆" in lines["tuned"]
    assert "◆" not in lines["base"]


def test_a_score_that_cannot_be_told_from_the_other_is_not_marked_as_best():
    unsure = told("not distinguishable")
    assert "◆" not in lines_of([model("base", None, 0.40), model("tuned", None, 0.42, difference=unsure)])["tuned"]
    assert "◆" not in lines_of([model("base", None, 0.42), model("tuned", None, 0.40, difference=unsure)])["base"]
    worse = told("worse", -0.5, -0.3)
    assert "80 % ◆" in lines_of([model("base", None, 0.8), model("tuned", None, 0.4, difference=worse)])["base"]


def test_the_verdict_stands_beneath_in_words_and_without_jargon():
    shown = " ".join(text(RESULTS).split())
    assert "✓ Tuned is better: it answers 86 % of 300 questions right, base 3 % (78 to 87 points more)." in shown
    for jargon in ("p =", "p <", "McNemar", "distinguishable"):
        assert jargon not in shown
    assert "best on validation rows" in shown


def test_older_results_with_a_p_value_are_drawn():
    shown = text([model("base", 1.0, 0.1), model("tuned", 1.0, 0.8, p_value=1e-9)])
    assert "Tuned is better" in shown
    assert "80 % ◆" in shown


def test_a_checkpoint_without_answers_is_explained():
    assert "– not asked: questions are put to base and tuned alone" in text(RESULTS)
    assert "not asked" not in text([RESULTS[0], RESULTS[2]])


def many():
    """All there can be: retrieval, a judge at tuned alone, the general set, seven tasks."""
    kinds = ("sql", "exact", "normalised", "contains", "number", "choice", "function")
    rows = []
    for name in ("base", "base+retrieval", "step-000200", "step-001000", "tuned", "tuned+retrieval"):
        asked = not name.startswith("step")
        difference = {} if name == "base" else {"difference": BETTER}
        rows.append({
            "model": name, "split": "test", "loss": None if "+" in name else 0.7123,
            "perplexity": None if "+" in name else 1234.56,
            "tasks": {kind: scored(0.861, (0.82, 0.9), **difference) for kind in kinds} if asked else {},
        })  # fmt: skip
    rows[4]["tasks"]["judge"] = scored(0.7, (0.6, 0.8), agreement=0.9, **difference)
    rows[0]["general"], rows[4]["general"] = scored(0.61), scored(0.44, difference=told("worse", -0.22, -0.12))
    return rows


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_however_many_tasks_there_are_every_number_is_there_at_every_width(width):
    shown = text(many(), width)
    assert shown.count("86 %") >= 7 * 4
    assert "general" in shown
    assert "tuned+retrieval" in shown
    for name in ("normalised", "function", "judge", "1,234.56", "0.712"):
        assert name in shown
    assert "…" not in shown


@pytest.mark.parametrize("width", [60, 80])
def test_long_and_chinese_names_are_wrapped_and_stay_whole(width):
    name = "客户服务/2024年第四季度/常见问题与标准答复（最终版本）微调模型-tuned-001"
    shown = text([model("base", 1.0, 0.1), model(name, 0.5, 0.9, difference=BETTER)], width)
    left = "".join(line[:width].split("  ")[0] for line in shown.splitlines()).replace(" ", "")
    for character in name:
        assert character in left


def test_results_without_tasks_or_losses_are_drawn():
    assert "base" in text([{"model": "base", "split": "test", "loss": None, "perplexity": None, "tasks": {}}])
    assert "base" in text([{"model": "base"}, {"model": "tuned", "tasks": {"sql": {"score": None, "n": 0}}}])
    assert text([])


def test_a_name_or_an_alarm_cannot_drive_the_terminal():
    results = [model("base", 1.0), model("tuned", 1.0), model("\x1b[31mx", 1.0)]
    results[1]["memorised"] = {"alarm": "\x1b[2J it repeats [bold]rows"}
    shown = text(results)
    assert "\x1b" not in shown
    assert "[bold]rows" in shown
