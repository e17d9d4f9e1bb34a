"""A sweep as a person uses it: which runs there are, what they share, what goes wrong in one of them, what is shown."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from rich.cells import cell_len
from rich.console import Console
from tiny_chat import write_recipe, write_rows

from tunesmith import stages
from tunesmith.cli.app import call
from tunesmith.cli.edge import UsageError, exit_status
from tunesmith.cli.sweep import SweepView, swept_settings
from tunesmith.cli.sweep_plot import panels, strips, sweep_svg
from tunesmith.cli.sweep_table import HONEST, NO_CHOICE, sweep_table
from tunesmith.errors import OutOfMemory, RecipeError, RunError, SourceError, TunesmithError
from tunesmith.machine import Machine
from tunesmith.progress import Progress
from tunesmith.run import RunFolder
from tunesmith.stages import child, comparing, sweeping
from tunesmith.stages.grid import Grid, short_names

sys.path.insert(0, str(Path(__file__).parent / "teacher"))

from fake_teacher import serving
from taught import documents

pytestmark = pytest.mark.usefixtures("fresh_consoles")

RECIPE = """
[train]
steps = 4
batch = 8
validate_every = 2
learning_rate = 1e-2
fit = "off"
[evaluate]
checkpoints = false
forgetting = false
[export]
formats = ["ollama:mine"]
"""
RANKS = {"train.lora.rank": [2, 4]}


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "LOOK", 0.01)


@pytest.fixture
def recipe(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl", 40)
    path = tmp_path / "求和.toml"
    write_recipe(path, tiny_model, RECIPE)
    return path


class Here:
    """A run in this process instead of one of its own: torch is loaded already."""

    broken: tuple[str, ...] = ()
    started: ClassVar[list[str]] = []

    def __init__(self, folder: RunFolder, threads: int | None = None) -> None:
        self.started.append(folder.path.name)
        self._said, self._news = "", []
        try:
            if folder.path.name in self.broken:
                raise RunError("the loss became nan at step 5; try a lower rate")
            self._news = list(stages.run(folder, folder.recipe()))
        except TunesmithError as error:
            self._said = str(error)

    def news(self) -> Iterator[Progress]:
        news, self._news = self._news, []
        return iter(news)

    def status(self) -> int:
        return 1 if self._said else 0

    def sentence(self) -> str:
        return self._said


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> type[Here]:
    monkeypatch.setattr(Here, "started", [])
    monkeypatch.setattr(Here, "broken", ())
    monkeypatch.setattr(sweeping, "Child", Here)
    return Here


def prepared(recipe: Path, settings: dict[str, list[Any]]) -> sweeping.Sweep:
    sweep = sweeping.open_sweep(recipe, None, settings)
    list(sweep.prepare(lambda: False, lambda _: None))
    return sweep


def tunesmith(*tokens: str) -> int:
    return exit_status(lambda: call(tokens))


# -- what is asked for ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "values"),
    [
        ("train.lora.rank", "4,8,16", [4, 8, 16]),
        ("train.lora.rank", "[4, 8]", [4, 8]),
        ("train.layers", "4,8,all", [4, 8, "all"]),
        ("train.learning_rate", "1e-4, 2e-4", [1e-4, 2e-4]),
        ("train.epochs", "3", [3]),
        ("data.seed", "-1,2", [-1, 2]),
        ("data.system", '["Hello, you", "Hi"]', ["Hello, you", "Hi"]),
        ("data.system", '"Hello, you"', ["Hello, you"]),
        ("data.system", "你好，世界", ["你好，世界"]),
        ("data.system", "", [""]),
        ("train.lora.modules", '["q_proj", "v_proj"]', [["q_proj", "v_proj"]]),
        ("train.lora.modules", '[["q_proj"], ["q_proj", "v_proj"]]', [["q_proj"], ["q_proj", "v_proj"]]),
        ("evaluate.checkpoints", "true,false", [True, False]),
    ],
)
def test_values_have_commas_between_them_or_are_a_list(name, text, values):
    assert swept_settings([f"--{name}", text]) == swept_settings([f"--{name}={text}"]) == {name: values}


def test_a_setting_is_given_once_and_no_value_is_forgotten():
    with pytest.raises(UsageError, match=r"--train\.epochs is given twice; write its values together"):
        swept_settings(["--train.epochs", "2", "--train.epochs", "3"])
    with pytest.raises(UsageError, match="a value is missing beside a comma"):
        swept_settings(["--train.lora.rank", "4,,8"])
    with pytest.raises(UsageError, match="the command sweep takes no --fresh; it takes --run, --parallel"):
        swept_settings(["--fresh"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"train.lora.rnk": [4, 8]}, r"^--train\.lora\.rnk is not a setting; did you mean --train\.lora\.rank\?$"),
        ({"train.lora.rank": [4, 0]}, r"--train\.lora\.rank: input should be greater.*\(with rank = 0\)"),
        ({"train.epochs": [3]}, "nothing varies: give a setting several values"),
        ({"train.lora.rank": [4, 8, 4]}, r"--train\.lora\.rank has the value 4 twice"),
        ({"train.seed": list(range(65))}, "these are 65 runs, and a sweep has at most 64"),
        ({"export.formats": [["lora"]], **RANKS}, "a sweep exports nothing"),
        ({"train.seed": [], **RANKS}, r"--train\.seed has no value"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_done(recipe, settings, said):
    with pytest.raises(RecipeError, match=said):
        sweeping.open_sweep(recipe, None, settings)
    assert not Path("runs").exists()


def test_folders_are_named_after_the_values_as_every_file_system_can():
    def names(**settings: list[Any]) -> list[str]:
        return [name for name, _ in Grid.of({k.replace("__", "."): v for k, v in settings.items()}).combinations()]

    assert names(train__lora__rank=[4, 8], train__layers=[8, "all"]) == [
        "rank-4_layers-8", "rank-4_layers-all", "rank-8_layers-8", "rank-8_layers-all",
    ]  # fmt: skip
    assert names(data__seed=[0, 1], train__seed=[0, -1])[1] == "data.seed-0_train.seed--1"
    assert names(train__lora__alpha=[16, 32.0], train__learning_rate=[1e-5, 2e-4])[2] == "alpha-32_learning_rate-1e-05"
    assert names(data__system=["用一句话回答。", 'a/b:c*?"<>|']) == ["system-用一句话回答", "system-a-b-c"]
    one, other = names(data__system=["Answer", "answer"])
    assert one.casefold() != other.casefold()
    assert names(train__lora__modules=[["q_proj"], ["q_proj", "v_proj"]])[1] == "modules-q_proj-v_proj"
    endless = {f"data.{'很长' * 40}{i}": ["a", "b"] for i in range(3)}
    assert all(len(name.encode()) < 200 for name, _ in Grid.of(endless).combinations())
    assert short_names(["a.x.seed", "b.x.seed", "c.rank"]) == {
        "a.x.seed": "a.x.seed", "b.x.seed": "b.x.seed", "c.rank": "rank",
    }  # fmt: skip


# -- what it does --------------------------------------------------------------------------------


def test_every_combination_is_a_whole_run_and_the_rows_are_prepared_once(recipe, here, capsys):
    assert tunesmith("sweep", str(recipe), "--train.lora.rank", "2,4", "--train.layers", "1,all", "--json") == 0
    comparison = json.loads(capsys.readouterr().out)
    place = Path("runs/求和-sweep")
    names = ["rank-2_layers-1", "rank-2_layers-all", "rank-4_layers-1", "rank-4_layers-all"]
    assert here.started == names
    rows = [place / name / "dataset" / "train.jsonl" for name in names]
    assert len({path.stat().st_ino for path in rows}) == 1
    configs = [json.loads((place / name / "adapter" / "adapter_config.json").read_text()) for name in names]
    assert [(c["r"], c.get("layers_to_transform")) for c in configs] == [(2, [1]), (2, None), (4, [1]), (4, None)]

    losses = [run["valid_loss"] for run in comparison["runs"]]
    assert losses == sorted(losses)
    assert comparison["best"] == comparison["runs"][0]["run"]
    for run in comparison["runs"]:
        kept = RunFolder(Path(run["folder"]))
        validations = [e for e in kept.events() if e.event == "validation" and e.step]
        assert run["valid_loss"] == min(e.loss for e in validations if e.loss is not None)
        assert run["test_loss"] == stages.results(kept)[-1]["loss"]
        assert run["seconds"] > 0
    sizes = {run["run"]: run["parameters"] for run in comparison["runs"]}
    assert sizes["rank-4_layers-all"] == 4 * sizes["rank-2_layers-1"]
    assert json.loads((place / "sweep.json").read_text()) == comparison
    assert len((place / "sweep.csv").read_text().splitlines()) == 5
    ElementTree.parse(place / "sweep.svg")

    for name in names[:3]:
        shutil.rmtree(place / name)
    folder, made = stages.open_run(place / names[3])
    assert {e.message for e in stages.run(folder, made) if e.event == "stage"} == {"unchanged"}


def test_started_again_it_continues_and_does_nothing_twice(recipe, here, capsys, monkeypatch):
    here.broken = ("rank-4",)
    assert tunesmith("sweep", str(recipe), "--train.lora.rank", "2,4") == 1
    shown = capsys.readouterr()
    assert "✗ rank-4: the loss became nan at step 5; try a lower rate" in shown.out
    assert "1 of 2 runs did not finish, marked ✗ above" in shown.err
    assert HONEST[:40] in shown.out
    monkeypatch.setattr(sweeping, "Child", child.Child)  # what is missing is now done by a process of its own
    assert tunesmith("sweep", str(recipe), "--train.lora.rank", "2,4") == 0
    shown = capsys.readouterr().out
    assert "✓ rank-2: unchanged" in shown
    assert "✓ rank-4: done, validation loss" in shown
    assert "◆" in shown
    assert " export 'runs/求和-sweep/rank-" in shown
    assert here.started == ["rank-2", "rank-4"]
    assert '"results"' in (Path("runs/求和-sweep/rank-4") / child.LOG).read_text()


def test_a_setting_that_changes_the_rows_has_them_prepared_for_each_value(recipe):
    sweep = prepared(recipe, {"data.seed": [0, 1], **RANKS})
    files = [(m.folder.dataset / "tokens" / "train.tokens").stat().st_ino for m in sweep.members]
    assert files[0] == files[1] != files[2] == files[3]


def test_rows_that_cannot_be_prepared_fail_the_runs_that_ask_for_them(recipe):
    Path("bad.jsonl").write_text('{"a": 1}\n')
    sweep = prepared(recipe, {"data.sources": ["bad.jsonl", "rows.jsonl"], **RANKS})
    assert [(m.state, bool(m.error)) for m in sweep.members] == [("failed", True)] * 2 + [("waiting", False)] * 2
    with pytest.raises(SourceError, match=r"cannot be trained on, bad\.jsonl:1"):
        prepared(recipe, {"data.sources": ["bad.jsonl"], "train.seed": [0, 1]})


def test_another_training_in_the_folder_is_never_overwritten(recipe):
    sweep = prepared(recipe, RANKS)
    first = sweep.members[0].work
    first.folder.update_manifest(training=first.inputs("train"))
    prepared(recipe, RANKS)
    with pytest.raises(RunError, match="rank-2 holds a training with other settings or rows; give --run FOLDER"):
        prepared(recipe, {"train.epochs": [2], **RANKS})
    with sweep.lock(), pytest.raises(RunError, match="another tunesmith is working"), sweep.lock():
        pass


def test_a_teacher_is_asked_once_for_all_runs(tmp_path, tiny_model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    documents(tmp_path, 4)
    with serving() as fake:
        Path("helper.toml").write_text(
            f'[teacher]\nurl = "{fake.url}"\nmodel = "teacher-1"\nsources = ["docs"]\n'
            f'[model]\nname = "{tiny_model}"\nengine = "torch"\n'
        )
        sweep = sweeping.open_sweep(Path("helper.toml"), None, RANKS)
        list(sweep.prepare(lambda: False, lambda _: None))
        asked = len(fake.seen)
        first, second = (member.folder for member in sweep.members)
        assert (first.teacher / "journal.jsonl").stat().st_ino != (second.teacher / "journal.jsonl").stat().st_ino
        assert (first.dataset / "train.jsonl").stat().st_ino == (second.dataset / "train.jsonl").stat().st_ino
        shutil.rmtree(first.path)
        events = list(stages.run(*stages.open_run(second.path), stages=("teach", "prepare")))
        assert [e.message for e in events if e.event == "stage"] == ["unchanged"] * 2
        assert len(fake.seen) == asked


def test_more_at_once_than_fit_into_memory_are_refused(recipe, monkeypatch):
    sweep = prepared(recipe, {"train.lora.rank": [2, 4, 6], "train.fit": ["check"]})
    monkeypatch.setattr(sweeping.machine, "read_machine", lambda _: Machine(10**10, 13 * 10**8, 0, 10**12))
    sweep.refuse_too_many(2)
    with pytest.raises(OutOfMemory, match=r"3 of these trainings at once need 1\.\d GB.*give --parallel 2"):
        sweep.refuse_too_many(3)


# -- processes -----------------------------------------------------------------------------------

WORKER = """
import json, os, pathlib, signal, sys, time
folder, other = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
def say(**event):
    with open(folder / "progress.jsonl", "a") as file:
        file.write(json.dumps(event) + "\\n")
def until(there):
    end = time.monotonic() + 20
    while not there() and time.monotonic() < end:
        time.sleep(0.01)
heard = []
signal.signal(signal.SIGINT, lambda *_: heard.append(1))
say(event="step", stage="train", step=3, steps=9, loss=1.5, seconds_left=7.0)
"""


def children(monkeypatch, script: str, other: Path = Path()) -> None:
    """Every run is this script, which knows its folder and another one."""
    monkeypatch.setattr(
        child, "command", lambda folder: [sys.executable, "-I", "-S", "-c", WORKER + script, str(folder), str(other)]
    )


def test_ctrl_c_lets_what_works_save_and_begins_no_other(recipe, monkeypatch):
    children(monkeypatch, "until(lambda: heard)\nsys.exit(130 if len(heard) == 1 else 1)")
    sweep = prepared(recipe, {"train.lora.rank": [2, 4, 6]})
    list(sweep.carry_out(1, lambda: any(member.step == 3 for member in sweep.members)))
    assert [member.state for member in sweep.members] == ["stopped", "waiting", "waiting"]
    assert (sweep.members[0].loss, sweep.members[0].steps) == (1.5, 9)


def test_parallel_runs_work_at_the_same_time(recipe, monkeypatch, tmp_path):
    meeting = "(other / folder.name).touch()\nuntil(lambda: len(list(other.iterdir())) == 2)\n"
    (tmp_path / "meeting").mkdir()
    children(monkeypatch, meeting + "sys.exit(len(list(other.iterdir())) != 2)", tmp_path / "meeting")
    sweep = prepared(recipe, RANKS)
    list(sweep.carry_out(2, lambda: False))
    assert [member.state for member in sweep.members] == ["done", "done"]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ('print("much"); sys.exit("tunesmith: the disk is full: free some space")', "the disk is full: free some"),
        ("os.kill(os.getpid(), signal.SIGKILL)", r"ended from outside \(signal 9\); most likely memory ran out"),
        ('print("tunesmith: this is a bug in tunesmith", file=sys.stderr); 1 / 0', "ZeroDivisionError.*this is a bug"),
    ],
)
def test_a_run_that_fails_says_why_and_the_others_go_on(recipe, monkeypatch, script, said):
    children(monkeypatch, f"if folder.name == 'rank-2':\n    {script}")
    sweep = prepared(recipe, RANKS)
    list(sweep.carry_out(1, lambda: False))
    assert [member.state for member in sweep.members] == ["failed", "done"]
    assert re.search(said, sweep.members[0].error)


def test_no_process_is_left_when_a_sweep_is_broken_off(recipe, monkeypatch, tmp_path):
    children(monkeypatch, "(other / 'pid').write_text(str(os.getpid()))\nuntil(lambda: False)", tmp_path)
    sweep = prepared(recipe, RANKS)
    changes = sweep.carry_out(1, lambda: False)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        next(changes)
    changes.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_run_in_which_another_process_works_is_waited_for(recipe, monkeypatch):
    children(monkeypatch, "")
    sweep = prepared(recipe, RANKS)
    file = io.StringIO()
    with contextlib.closing(sweep.carry_out(1, lambda: False)) as changes:
        with sweep.members[0].folder.lock(), SweepView(sweep.members, Console(file=file, width=100)) as view:
            view.show(next(changes))
            view.show(next(changes))
            assert [member.state for member in sweep.members] == ["waiting", "waiting"]
        list(changes)
    assert file.getvalue() == "rank-2: another tunesmith works in it\n"
    assert [member.state for member in sweep.members] == ["done", "done"]


# -- what it shows -------------------------------------------------------------------------------


def run_of(name: str, values: dict[str, Any], loss: float | None, **more: Any) -> dict[str, Any]:
    task = {"sql": {"score": 0.86, "interval": [0.82, 0.9], "n": 300}}
    made = {"run": name, "folder": name, "settings": values, "state": "done", "error": "", **comparing.NOTHING}
    made |= {"valid_loss": loss, "test_loss": loss, "tasks": task, "parameters": 1_200_000, "seconds": 75.0}
    return {**made, "memory": 2_100_000_000, **more}


def compared(losses: list[float | None], first: Any = 4) -> dict[str, Any]:
    """Runs with two ranks and two numbers of layers, in this order."""
    values = [(first, "all"), (first, 8), ("中文 <b>&", "all"), ("中文 <b>&", 8)]
    runs = [run_of(f"run-{i}", {"train.lora.rank": r, "train.layers": k}, losses[i]) for i, (r, k) in enumerate(values)]
    runs = comparing.in_order(runs)
    return {
        "sweep": "s", "settings": {"train.lora.rank": [first, "中文 <b>&"], "train.layers": ["all", 8]},
        "best": runs[0]["run"] if runs[0]["valid_loss"] is not None else None, "runs": runs,
    }  # fmt: skip


def text(renderable: Any, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    shown = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert max(cell_len(line) for line in shown.splitlines()) <= width
    return shown


@pytest.mark.parametrize(("width", "interval", "costs"), [(110, True, True), (80, False, True), (50, False, False)])
def test_the_best_comes_first_and_detail_goes_where_it_is_narrow(width, interval, costs):
    shown = text(sweep_table(compared([2.0, 1.5, 1.8, 3.0]), width), width)
    lines = [line for line in shown.splitlines() if "86 %" in line]
    assert "1.500 ◆" in lines[0]
    assert [line.count("◆") for line in lines] == [1, 0, 0, 0]
    assert ("82–90" in shown, "1 min 15 s" in shown) == (interval, costs)
    assert "chosen by the loss on the validation rows" in " ".join(shown.split())


def test_without_validation_rows_none_is_called_the_best():
    shown = " ".join(text(sweep_table(compared([None] * 4), 100), 100).split())
    assert "◆" not in shown
    assert NO_CHOICE in shown


def test_a_run_that_failed_stands_last_with_its_sentence_and_changes_are_told():
    comparison = compared([2.0, 1.5, 1.8, 3.0])
    comparison["runs"][0]["changes"] = {"train.micro_batch": 2}
    comparison["runs"][3].update(comparing.NOTHING, error="it does not fit", state="failed")
    shown = text(sweep_table(comparison, 100), 100)
    assert "✗ run-3: it does not fit" in shown
    assert "run-1 took train.micro_batch = 2, so that it fits" in shown
    assert comparing.in_order(list(reversed(comparison["runs"])))[-1]["run"] == "run-3"


def test_the_plot_has_a_line_for_each_value_and_the_best_at_the_left():
    plot = strips(panels(compared([2.0, 1.5, 1.8, 3.0])), 60).plain.splitlines()
    assert len(plot) == 5
    assert plot[1].split()[:2] == ["rank", "4"]
    assert plot[4].split()[0] == "8"
    assert plot[1].index("◆") == plot[4].index("◆") < plot[1].index("●")


def test_the_image_is_whole_and_takes_no_text_for_markup():
    root = ElementTree.fromstring(sweep_svg(compared([2.0, 1.5, 1.8, 3.0])))
    names = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert "b" not in names
    dots = [element for element in root.iter() if element.tag.endswith("circle")]
    assert len(dots) == 8
    assert sum(element.get("class") == "best" for element in dots) == 2
    assert any("中文 <b>&" in (element.text or "") for element in root.iter())
    assert "no two runs to compare" in sweep_svg(compared([2.0, None, None, None]))


def test_the_time_of_a_training_counts_all_its_starts_and_no_pause():
    def at(time: float, event: Any, **more: Any) -> Progress:
        return Progress(event, stage="train", time=time, **more)

    events = [at(10, "stage"), at(12, "start", step=0), at(15, "step", step=1),
              at(100, "stage"), at(101, "start", step=1), at(104, "end", step=2),
              at(900, "stage", message="unchanged")]  # fmt: skip
    assert comparing._seconds(events) == 9
    assert comparing._seconds([*events[:3], at(50, "stage"), at(51, "start", step=0), at(53, "end")]) == 3
