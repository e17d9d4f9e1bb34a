import json
import os
import signal
import subprocess
import sys

import pytest

from tunesmith import stages
from tunesmith.cli.app import call
from tunesmith.cli.edge import exit_status
from tunesmith.cli.init import CHOICES
from tunesmith.errors import CheckFailed, RecipeError
from tunesmith.progress import Progress
from tunesmith.run import RunFolder
from tunesmith.settings import make_recipe, read_recipe
from tunesmith.stages.hosts import Hosts

REPORT = {
    "inputs": 10,
    "divided": 0,
    "rows": {"train": 8, "valid": 1, "test": 1},
    "quarantined": 0,
    "merged": 0,
    "removed": 0,
    "sources": [],
    "cut": {"rows": 0, "lost": 0, "worst": []},
    "tokens": {"train": 800, "learned": 100, "longest": 90, "limit": 100, "histogram": [0] * 31 + [10]},
    "findings": [],
    "preferences": 0,
    "boilerplate": [],
    "conflicts": [],
    "near_duplicates": [],
    "leaks": [],
    "quarantine": [],
}
RESULTS = [{"model": "base", "split": "test", "loss": 2.0, "perplexity": 7.4, "tasks": {}}]


def tunesmith(*tokens: str) -> int:
    return exit_status(lambda: call(tokens))


pytestmark = pytest.mark.usefixtures("fresh_consoles")


@pytest.fixture
def rooms(monkeypatch, tmp_path):
    """The stages, replaced by ones that note how they were called."""
    calls = []

    def open_run(recipe_or_run, run=None, overrides=None):
        calls.append(("open", str(recipe_or_run), run, overrides))
        return RunFolder(tmp_path / "run"), make_recipe({"data": {"sources": ["rows.jsonl"]}})

    def run(folder, recipe, *, stages, fresh, stop, notify, hosts):
        calls.append(("run", stages, fresh, *([hosts] if hosts else [])))
        for stage in stages:
            print("a library prints")
            yield Progress("stage", stage=stage)
            yield Progress("end", stage=stage)

    monkeypatch.setattr(stages, "open_run", open_run)
    monkeypatch.setattr(stages, "run", run)
    monkeypatch.setattr(stages, "report", lambda folder: REPORT)
    monkeypatch.setattr(stages, "results", lambda folder: RESULTS)
    return calls


def test_importing_the_app_pulls_in_nothing_heavy():
    code = "import sys, tunesmith.cli.app; print(*{m.split('.')[0] for m in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "cyclopts" in loaded
    assert not {"torch", "pydantic", "numpy", "mlx", "tokenizers"} & set(loaded)


def test_help_names_every_command_and_exits_0(capsys):
    assert tunesmith("--help") == 0
    shown = capsys.readouterr().out
    for command in ("demo", "run", "prepare", "train", "evaluate", "check", "compare", "chat", "models"):
        assert command in shown


def test_help_of_run_lists_every_setting_with_its_default(capsys):
    from tunesmith.settings import every_field

    assert tunesmith("run", "--help") == 0
    shown = capsys.readouterr().out
    for name in every_field():
        assert f"--{name}" in shown
    assert "[default: 0.0002]" in shown


@pytest.mark.parametrize("command", ["run", "prepare", "train", "evaluate"])
def test_a_stage_command_passes_on_what_was_given(rooms, command, capsys, tmp_path):
    assert tunesmith(command, "shop.toml", "--train.epochs", "3", "--fresh", "--train.layers=all") == 0
    wanted = stages.STAGES if command == "run" else (command,)
    assert rooms == [
        ("open", "shop.toml", None, {"train.epochs": 3, "train.layers": "all"}),
        ("run", wanted, True),
    ]


def test_processes_and_hosts_are_passed_on_to_the_training(rooms, tmp_path, capsys):
    (tmp_path / "hosts").write_text("node1 slots=2\nnode2\n")
    assert tunesmith("train", "shop.toml", "--processes", "2") == 0
    assert tunesmith("run", "shop.toml", "--hosts", str(tmp_path / "hosts")) == 0
    assert [call[3] for call in rooms if call[0] == "run"] == [
        Hosts({"localhost": 2}, "localhost"), Hosts({"node1": 2, "node2": 1}, "node1"),
    ]  # fmt: skip
    assert tunesmith("train", "shop.toml", "--here", "node2") == 2
    assert tunesmith("train", "shop.toml", "--processes", "2", "--hosts", str(tmp_path / "hosts")) == 2
    assert "write slots=N in the file" in capsys.readouterr().err
    assert tunesmith("train", "shop.toml", "--hosts", str(tmp_path / "hosts"), "--here", "node2") == 1
    assert "is not on this host; copy it from node1" in capsys.readouterr().err
    assert tunesmith("train", "shop.toml", "--hosts", str(tmp_path / "hosts"), "--here", "node2", "--fresh") == 2
    assert "go with the first host, node1" in capsys.readouterr().err


def test_json_puts_one_object_on_stdout_and_nothing_else(rooms, capsys, tmp_path):
    assert tunesmith("run", "shop.toml", "--json") == 0
    written = capsys.readouterr()
    outcome = json.loads(written.out)
    assert outcome["results"] == RESULTS
    assert outcome["report"] == REPORT
    assert "a library prints" in written.err


def test_a_mendable_error_is_one_sentence_and_status_1(monkeypatch, capsys):
    def refuse(*_, **__):
        raise RecipeError("recipe.toml: train.epohcs is not a setting; did you mean train.epochs?")

    monkeypatch.setattr(stages, "open_run", refuse)
    assert tunesmith("run", "recipe.toml") == 1
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err == "tunesmith: recipe.toml: train.epohcs is not a setting; did you mean train.epochs?\n"


def test_debug_shows_the_traceback_of_a_mendable_error(monkeypatch, capsys):
    monkeypatch.setenv("TUNESMITH_DEBUG", "1")

    def refuse():
        raise RecipeError("no")

    assert exit_status(refuse) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        ["run"],
        ["run", "shop.toml", "--train.epochs"],
        ["run", "shop.toml", "stray"],
        ["run", "shop.toml", "--jsn"],
        ["check", "shop.toml", "--run", "runs/shop"],
        ["ruun", "shop.toml"],
        ["compare", "runs/x", "--jsn"],
        ["models", "--verify"],
    ],
)
def test_wrong_usage_is_status_2_and_one_line(line, capsys, rooms):
    assert tunesmith(*line) == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.startswith("tunesmith: ")


def test_a_finding_that_must_be_mended_is_status_3_after_the_json(monkeypatch, capsys, rooms):
    findings = [{"severity": "error", "message": "no row has an answer"}]
    sample = stages.Sample("rows.jsonl:1", [("<|im_start|>", False, True), ("你好", True, False)])
    monkeypatch.setattr(
        stages, "check", lambda recipe, rows, show: stages.Check({**REPORT, "findings": findings}, [sample])
    )
    assert tunesmith("check", "shop.toml", "--json") == 3
    written = capsys.readouterr()
    assert json.loads(written.out)["samples"][0]["tokens"][1] == ["你好", True, False]
    assert "no row has an answer" in written.err


def test_check_writes_a_page_when_asked(monkeypatch, capsys, rooms, tmp_path):
    monkeypatch.setattr(stages, "check", lambda recipe, rows, show: stages.Check(REPORT, []))
    assert tunesmith("check", "shop.toml", "--html", str(tmp_path / "page.html")) == 0
    assert "<html" in (tmp_path / "page.html").read_text()
    assert "page.html" in capsys.readouterr().out


@pytest.mark.parametrize("like", ["documents", "character", "sql"])
def test_init_writes_a_recipe_that_can_be_read_and_never_over_another(like, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert tunesmith("init", "我的 blog", "--like", like) == 0
    assert " check '我的 blog/recipe.toml'" in capsys.readouterr().out
    recipe = tmp_path / "我的 blog" / "recipe.toml"
    assert read_recipe(recipe).data.sources
    recipe.write_text("mine")
    assert tunesmith("init", "我的 blog", "--like", like) == 1
    assert recipe.read_text() == "mine"


def test_init_without_a_choice_shows_the_choices_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert tunesmith("init", "blog") == 2
    shown = capsys.readouterr().err
    for like, what in CHOICES.items():
        assert f" init blog --like {like}" in shown
        assert what in shown
    assert not list(tmp_path.iterdir())


def test_a_failed_check_is_status_3(capsys):
    def fail():
        raise CheckFailed("it did not hold")

    assert exit_status(fail) == 3


def test_a_bug_keeps_its_traceback_and_asks_to_be_reported(capsys):
    assert exit_status(lambda: 1 / 0) == 1
    err = capsys.readouterr().err
    assert "ZeroDivisionError" in err
    assert "report" in err.splitlines()[-1]


def test_the_first_ctrl_c_lets_the_step_finish_and_is_status_130(monkeypatch, capsys, rooms):
    def run(folder, recipe, *, stages, fresh, stop, notify, hosts):
        yield Progress("stage", stage="train")
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        yield Progress("step", stage="train", step=7, steps=9, loss=1.0)

    monkeypatch.setattr(stages, "run", run)
    before = signal.getsignal(signal.SIGINT)
    assert tunesmith("train", "shop.toml") == 130
    assert "stopped after step 7; the same command continues" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before


def test_the_second_ctrl_c_stops_at_once(monkeypatch, capsys, rooms):
    def run(folder, recipe, *, stages, fresh, stop, notify, hosts):
        yield Progress("stage", stage="train")
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("still running")

    monkeypatch.setattr(stages, "run", run)
    assert tunesmith("train", "shop.toml") == 130
    assert "the last checkpoint" in capsys.readouterr().err


def test_ctrl_c_between_training_stages_ends_the_work_there(monkeypatch, capsys, rooms):
    def run(folder, recipe, *, stages, fresh, stop, notify, hosts):
        yield Progress("stage", stage="evaluate")
        os.kill(os.getpid(), signal.SIGINT)
        yield Progress("working", stage="evaluate", done=1, total=100)
        assert stop()  # and so the real one returns

    monkeypatch.setattr(stages, "run", run)
    assert tunesmith("evaluate", "shop.toml") == 130


def test_a_reader_that_goes_away_is_no_error_message():
    code = "from tunesmith.cli import main; import sys; sys.argv = ['tunesmith', 'run', '--help']; main()"
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    complaint = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 141
    assert complaint == b""


def test_compare_shows_the_question_and_both_answers(monkeypatch, capsys, tmp_path):
    from tunesmith.serving import answers

    asked = []

    def compare(folder, questions, *, notify):
        asked.append(questions)
        notify(Progress("working", stage="compare", message="loading the model"))
        yield answers.Comparison("谁？", "base says", "tuned says", None)

    monkeypatch.setattr(answers, "compare", compare)
    folder = RunFolder(tmp_path)
    folder.save_recipe(make_recipe({"data": {"sources": ["rows.jsonl"]}}))
    assert tunesmith("compare", str(tmp_path), "谁？") == 0
    shown = capsys.readouterr().out
    assert asked == [["谁？"]]
    assert all(text in shown for text in ("谁？", "base says", "tuned says"))
    assert tunesmith("compare", str(tmp_path), "--json") == 0
    assert json.loads(capsys.readouterr().out)["comparisons"][0]["tuned"] == "tuned says"
