import json
import struct
import time

import pytest
from fake_trackers import Trackio, Wandb, install
from tensorboardX.proto import event_pb2

from tunesmith.cli.app import call
from tunesmith.cli.edge import exit_status
from tunesmith.errors import TrackerError
from tunesmith.progress import Progress
from tunesmith.run import RunFolder
from tunesmith.settings import make_recipe
from tunesmith.trackers import Feed, track

STEP = {"stage": "train", "steps": 3, "learning_rate": 1e-3, "gradient_norm": 0.5, "tokens_per_second": 90.0,
        "memory": 1000, "epoch": 0.5}  # fmt: skip


def step(number, loss):
    return Progress("step", step=number, loss=loss, **STEP)


TRAINING = [
    Progress("stage", stage="train"),
    Progress("start", stage="train", step=0, steps=3),
    Progress("validation", stage="train", step=0, loss=3.5),
    step(1, 3.0),
    step(2, 2.0),
    Progress("checkpoint", stage="train", step=2, message="step-000002"),
    step(3, 1.0),
    Progress("validation", stage="train", step=3, loss=1.5, best=True),
]
MEASURED = [
    Progress("measured", stage="evaluate", model="base", loss=3.4, score=0.0),
    Progress("measured", stage="evaluate", model="tuned", loss=1.4, score=0.8),
    Progress("measured", stage="export", model="a.gguf", message="proof holds"),
]


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "我的 run")


def recipe(*trackers):
    return make_recipe({"data": {"sources": ["a"]}, "train": {"trackers": list(trackers)}})


def run(folder, events, *trackers):
    """What a person sees of these events, each recorded before it is passed on, as a run does."""
    folder.save_recipe(recipe(*trackers))
    with Feed(folder, recipe(*trackers)) as feed:
        return [seen for event in events for seen in feed.follow(folder.record(event))]


def notes(seen):
    return [event.message for event in seen if event.event == "note"]


def points(folder):
    """tag -> [(step, value)] of the event files in a run folder, as TensorBoard reads them."""
    found = {}
    (path,) = (folder.path / "tensorboard").glob("events.out.tfevents.*")
    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("Q", data[:8])
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, round(value.simple_value, 6)))
            assert abs(event.wall_time - time.time()) < 100
    return found


def test_tensorboard_gets_every_number_at_its_step(folder):
    assert notes(run(folder, TRAINING + MEASURED, "tensorboard")) == []
    found = points(folder)
    assert found["train/loss"] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert found["valid/loss"] == [(0, 3.5), (3, 1.5)]
    assert found["train/learning_rate"] == [(1, 0.001), (2, 0.001), (3, 0.001)]
    assert {name: found[name] for name in found if name.startswith("test/")} == {
        "test/base/loss": [(3, 3.4)], "test/base/score": [(3, 0.0)],
        "test/tuned/loss": [(3, 1.4)], "test/tuned/score": [(3, 0.8)],
    }  # fmt: skip
    assert {name.partition("/")[0] for name in found} == {"train", "valid", "test"}


def test_steps_lost_in_a_crash_are_not_there_twice(folder):
    run(folder, TRAINING[:-1], "tensorboard")
    again = [Progress("start", stage="train", step=2, steps=3, message="continued"), step(3, 0.9)]
    run(folder, again, "tensorboard")
    assert points(folder)["train/loss"] == [(1, 3.0), (2, 2.0), (3, 0.9)]


def test_a_training_begun_afresh_forgets_the_one_before(folder):
    run(folder, TRAINING + MEASURED, "tensorboard")
    run(folder, TRAINING[:4], "tensorboard")
    assert points(folder)["train/loss"] == [(1, 3.0)]
    assert "test/base/loss" not in points(folder)


def test_a_finished_run_is_sent_whole(folder):
    run(folder, TRAINING + MEASURED)
    assert not (folder.path / "tensorboard").exists()
    sent = track(folder, "tensorboard")
    assert (sent.points, sent.place) == (7, f"tensorboard --logdir '{folder.path / 'tensorboard'}'")
    assert points(folder)["train/loss"] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert track(folder, "tensorboard").points == 7, "sent again it is there once"
    assert len(points(folder)["train/loss"]) == 3


def test_trackio_gets_a_run_of_its_own_for_each_training(folder, monkeypatch):
    trackio = install(monkeypatch, Trackio())
    run(folder, TRAINING[:5], "trackio")
    (first,) = trackio.runs
    assert [(number, values.get("train/loss")) for number, values in first.logged] == [(0, None), (1, 3.0), (2, 2.0)]
    assert first.given["project"] == "tunesmith"
    assert first.finished
    run(folder, [Progress("start", stage="train", step=2, steps=3), step(3, 1.0)], "trackio")
    assert trackio.runs[1].given["name"] == first.given["name"], "continued, it adds to the same run"
    assert [number for number, _ in trackio.runs[1].logged] == [3]
    run(folder, TRAINING[:4], "trackio")
    assert trackio.runs[2].given["name"] != first.given["name"], "begun afresh, it is another"


def test_wandb_gets_each_step_once_and_the_scores_as_its_summary(folder, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    wandb = install(monkeypatch, Wandb())
    run(folder, TRAINING[:5], "wandb")
    run(folder, [Progress("start", stage="train", step=2, steps=3), step(3, 1.0), *MEASURED], "wandb")
    track(folder, "wandb")
    (kept,) = wandb.runs.values()
    assert [number for number, _ in kept.logged] == [0, 1, 2, 3]
    assert kept.summary["test/tuned/score"] == 0.8
    assert wandb.given["project"] == "mine"
    assert kept.finished == 3


def test_wandb_is_not_told_where_files_lie(folder, monkeypatch, tmp_path):
    wandb = install(monkeypatch, Wandb())
    named = make_recipe({"data": {"sources": [str(tmp_path / "secret.txt")]}, "model": {"name": str(tmp_path)},
                         "train": {"trackers": ["wandb"]}})  # fmt: skip
    with Feed(folder, named) as feed:
        for event in TRAINING:
            list(feed.follow(folder.record(event)))
    told = json.dumps(wandb.given["config"])
    assert str(tmp_path.parent) not in told
    assert "secret" not in told
    assert wandb.given["config"]["train"]["lora"]["rank"] == 8


def test_a_network_that_goes_stops_no_training_and_is_told_once(folder, monkeypatch):
    install(monkeypatch, Wandb(fails_at=1))
    seen = run(folder, TRAINING + MEASURED, "wandb", "tensorboard")
    (note,) = notes(seen)
    assert note == (
        f"wandb failed: the network is gone; the run goes on without it, `tunesmith track {folder} --to wandb` sends "
        "all of it"
    )
    assert [event.event for event in folder.events()].count("note") == 1
    assert len(points(folder)["train/loss"]) == 3, "the other tracker goes on"


@pytest.mark.parametrize(("fault", "said"), [
    (None, "trackio is not installed; `pip install trackio` into this environment adds it"),
    (Wandb(disabled=True), "wandb did not begin: nobody is logged in; run `wandb login`, or set WANDB_MODE=offline"),
])  # fmt: skip
def test_one_that_cannot_begin_is_a_note(folder, monkeypatch, fault, said):
    name = fault.__name__ if fault else "trackio"
    if fault:
        install(monkeypatch, fault)
    else:
        monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    seen = run(folder, TRAINING, name)
    (note,) = notes(seen)
    assert note.startswith(said)
    assert bool(fault) or seen[1].event == "note", "at the first event, before hours of training"


def test_a_disk_that_cannot_be_written_stops_no_training(folder):
    folder.path.mkdir()
    (folder.path / "tensorboard").write_text("in the way")
    (note,) = notes(run(folder, TRAINING, "tensorboard"))
    assert "tensorboard did not begin" in note


@pytest.mark.usefixtures("fresh_consoles")
def test_the_command_says_where_to_look_and_what_is_missing(folder, monkeypatch, capsys):
    run(folder, TRAINING)
    assert exit_status(lambda: call(["track", str(folder), "--to", "tensorboard"])) == 0
    shown = capsys.readouterr().out.replace("\n", " ")
    assert "5 points" in shown
    assert "tensorboard --logdir" in shown
    assert exit_status(lambda: call(["track", str(folder), "--to", "tensorboard", "--json"])) == 0
    assert json.loads(capsys.readouterr().out)["points"] == 5
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    assert exit_status(lambda: call(["track", str(folder), "--to", "wandb"])) == 1
    assert capsys.readouterr().err.startswith("tunesmith: wandb is not installed; `pip install wandb`")


def test_a_run_without_numbers_is_said(folder):
    run(folder, TRAINING[:2])
    with pytest.raises(TrackerError, match="has measured nothing yet"):
        track(folder, "tensorboard")


def test_other_trackers_are_the_same_training(tmp_path, monkeypatch):
    from tunesmith.stages.fitting import asked
    from tunesmith.stages.work import Work

    monkeypatch.setattr(Work, "_source_hashes", [])
    monkeypatch.setattr(Work, "model", type("Model", (), {"hash": "x"})())
    one, other = (Work(RunFolder(tmp_path), r, lambda: False, print) for r in (recipe(), recipe("wandb")))
    assert one.inputs("train") == other.inputs("train")
    assert asked(recipe()) == asked(recipe("wandb"))
