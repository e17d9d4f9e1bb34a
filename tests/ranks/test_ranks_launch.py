"""Real processes: torchrun and MLX's ring on this machine, one of them killed, and hosts that do not fit together."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file
from tiny_chat import write_recipe, write_rows

from tunesmith import stages
from tunesmith.errors import EngineError, RecipeError, RunError, TrainingError
from tunesmith.progress import Progress
from tunesmith.run import RunFolder
from tunesmith.stages import fitting, launch
from tunesmith.stages.hosts import Hosts, on_this_machine, read_hosts
from tunesmith.stages.rank import check_same, facts_of
from tunesmith.stages.work import Work

RECIPE = """
[train]
epochs = 3
batch = 4
learning_rate = 1e-3
validate_every = 20
save_minutes = 0.0005
layers = 1
fit = "off"
lora = {rank = 4}
"""


@pytest.fixture
def recipe(tmp_path: Path, tiny_model: Path) -> Path:
    write_rows(tmp_path / "rows.jsonl", 60)
    return write_recipe(tmp_path / "sums.toml", tiny_model, RECIPE)


def test_several_processes_each_need_memory_for_their_share_of_a_batch(recipe):
    folder, made = stages.open_run(recipe, recipe.parent / "run")
    list(stages.run(folder, made, stages=("prepare",)))
    for processes, rows in ((1, 4), (2, 2), (3, 2)):
        work = Work(folder, made, lambda: False, lambda _: None, on_this_machine(processes))
        job = fitting.job_of(work, folder.dataset)
        assert (len(job.rows), job.processes) == (rows, processes)


def train(recipe: Path, run: str, processes: int = 1, kill_at: int = 0, **overrides: object) -> list[Progress]:
    """Prepare and train; the last of the ranks is killed once that step is taken."""
    given = {name.replace("__", "."): value for name, value in overrides.items()}
    folder, made = stages.open_run(recipe, recipe.parent / run, given)
    events = []
    for event in stages.run(folder, made, stages=("prepare", "train"), hosts=on_this_machine(processes)):
        events.append(event)
        if event.event == "step" and event.step == kill_at:
            ranks = [p for p in psutil.Process().children(recursive=True) if "tunesmith.stages.rank" in p.cmdline()]
            max((p for p in ranks if "RANK" in p.environ()), key=lambda p: p.environ()["RANK"]).send_signal(
                signal.SIGKILL
            )
    return events


def same(a: Path, b: Path) -> None:
    one, other = (load_file(run / "adapter" / "adapter_model.safetensors") for run in (a, b))
    for name, array in one.items():
        np.testing.assert_allclose(array, other[name], atol=1e-4, rtol=0)


def losses(run: Path) -> list[float]:
    return [e.loss for e in RunFolder(run).events() if e.event in ("step", "validation") and e.loss is not None]


def test_a_killed_rank_ends_all_and_the_same_command_goes_on_to_the_same_result(recipe):
    train(recipe, "alone")
    with pytest.raises(TrainingError, match=r"ended from outside.*the same command continues"):
        train(recipe, "two", processes=2, kill_at=5)
    events = train(recipe, "two", processes=2)
    assert any(e.event == "start" and e.step for e in events)
    np.testing.assert_allclose(losses(recipe.parent / "alone"), losses(recipe.parent / "two"), atol=1e-5, rtol=0)
    same(recipe.parent / "alone", recipe.parent / "two")


def test_two_processes_of_the_ring_of_mlx_train_as_one(recipe):
    pytest.importorskip("mlx.core")
    for run, processes in (("alone", 1), ("two", 2)):
        train(recipe, run, processes, model__engine="mlx", train__steps=8)
    np.testing.assert_allclose(losses(recipe.parent / "alone"), losses(recipe.parent / "two"), atol=1e-5, rtol=0)
    same(recipe.parent / "alone", recipe.parent / "two")


def test_hosts_that_do_not_begin_in_time_are_said_in_one_sentence(recipe, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setattr(launch, "PORT", port)
    monkeypatch.setattr(launch, "MEETING", 1)
    folder, made = stages.open_run(recipe, recipe.parent / "run")
    list(stages.run(folder, made, stages=("prepare",)))
    with pytest.raises(EngineError, match=f"did not meet at 127.0.0.1:{port}"):
        list(stages.run(folder, made, stages=("train",), hosts=Hosts({"127.0.0.1": 1, "node2": 1}, "127.0.0.1")))


def test_a_port_that_another_program_has_is_said_before_anything_starts(recipe, monkeypatch):
    folder, made = stages.open_run(recipe, recipe.parent / "run")
    with socket.create_server(("", 0)) as taken:
        monkeypatch.setattr(launch, "PORT", taken.getsockname()[1])
        with pytest.raises(EngineError, match="cannot be used"):
            next(launch.carry_out(Hosts({"node1": 1, "node2": 1}, "node1"), folder, made.model, lambda: False))


FACTS = {"host": "node1", "recipe": "1a", "dataset": "2b", "model starter": "3c", "torch": "2.9"}


@pytest.mark.parametrize("what", ["recipe", "dataset", "model starter", "torch"])
def test_hosts_that_differ_are_told_what_differs(what):
    with pytest.raises(RunError, match=f"rank 1 on node2 has another {what} \\(other\\) than node1"):
        check_same([FACTS, {**FACTS, "host": "node2", what: "other"}])
    check_same([FACTS, {**FACTS, "host": "node2"}])


def test_a_host_without_the_model_is_named():
    with pytest.raises(RunError, match="node2 cannot take part: there is no model starter"):
        check_same([FACTS, {"host": "node2", "error": "there is no model starter"}])


def test_a_file_of_hosts_is_read_or_refused_by_its_line(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("# ours\nnode1 slots=2\n\nnode2\n")
    assert read_hosts(path, None) == Hosts({"node1": 2, "node2": 1}, "node1")
    assert not read_hosts(path, "node2").first
    with pytest.raises(RecipeError, match="names no host node3; it names node1, node2"):
        read_hosts(path, "node3")
    for text, said in (("node1 slots=0", "line 1"), ("a\na", "line 2.*twice"), ("", "names no host")):
        path.write_text(text)
        with pytest.raises(RecipeError, match=said):
            read_hosts(path, None)


def test_every_row_and_setting_of_the_training_is_compared(recipe):
    def facts(**overrides: object) -> dict[str, str]:
        given = {name.replace("__", "."): value for name, value in overrides.items()}
        folder, made = stages.open_run(recipe, recipe.parent / "run", given)
        if not folder.dataset.exists():
            with pytest.raises(RunError, match="has no rows; copy"):
                facts_of(Work(folder, made, lambda: False, lambda _: None))
            list(stages.run(folder, made, stages=("prepare",)))
        return facts_of(Work(folder, made, lambda: False, lambda _: None))

    first = facts()
    assert {name for name, value in facts(train__seed=1).items() if first[name] != value} == {"recipe"}
    with next((recipe.parent / "run" / "dataset").rglob("valid.tokens")).open("r+b") as file:
        file.write(b"\xff")
    assert {name for name, value in facts().items() if first[name] != value} == {"dataset"}
