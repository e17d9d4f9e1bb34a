import asyncio
import json

import numpy as np
import pytest
from projects import FakeJobs, client_of, step, write_run

from tunesmith.studio import live
from tunesmith.studio.context import Project
from tunesmith.studio.curves import Curves, Tail, thinned
from tunesmith.studio.loglines import log_line
from tunesmith.studio.words import words_of

START = {"event": "start", "stage": "train", "step": 0, "steps": 100}


def validation(number, loss, **values):
    return {"event": "validation", "stage": "train", "step": number, "steps": 100, "loss": loss, **values}


def append(path, *events):
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path, "a", [START, validation(0, 2.0), *(step(n) for n in range(1, 11)), validation(10, 1.5)])


def test_curves_are_what_was_written_and_only_what_is_new_is_read(run):
    curves = Curves(run / "progress.jsonl")
    curves.update()
    drawn, offset = curves.to_json(), curves.offset
    assert drawn["loss"] == [list(range(1, 11)), [round(2 - n / 100, 4) for n in range(1, 11)]]
    assert drawn["validation"] == [[0, 10], [2.0, 1.5]]
    assert drawn["memory"][1] == [1.3e9] * 10
    append(run / "progress.jsonl", step(11))
    with (run / "progress.jsonl").open("a") as file:
        file.write('{"event": "step", "st')  # half a line
    news = Tail(run / "progress.jsonl", offset).read()
    assert [point[0] for point in news.points] == [11]
    curves.update()
    with (run / "progress.jsonl").open("a") as file:
        file.write('age": "train", "step": 12, "loss": 1.0}\n')
    curves.update()
    assert curves.to_json()["loss"][0][-2:] == [11, 12]


def test_steps_that_a_crash_has_lost_are_drawn_once(run):
    again = [START | {"step": 6, "message": "continues at step 6"}, step(7, loss=9.0), validation(10, 1.0)]
    append(run / "progress.jsonl", *again)
    curves = Curves(run / "progress.jsonl")
    curves.update()
    assert curves.to_json()["loss"][0] == list(range(1, 8))
    assert curves.to_json()["loss"][1][-1] == 9.0
    assert curves.to_json()["validation"] == [[0, 10], [2.0, 1.0]]
    told = Tail(run / "progress.jsonl", 0).read()
    assert (told.forget, len(told.points)) == (0, 7)


def test_a_file_that_began_anew_is_read_anew(run):
    curves, tail = Curves(run / "progress.jsonl"), Tail(run / "progress.jsonl", 1_000_000)
    curves.update()
    (run / "progress.jsonl").write_text(json.dumps(step(1)) + "\n")
    curves.update()
    assert curves.to_json()["loss"][0] == [1]
    assert tail.read() is None


def test_a_damaged_line_is_passed_over(run):
    with (run / "progress.jsonl").open("ab") as file:
        file.write(b'\xff\xfe\n[1]\nnull\n{"event": "step", "stage": "train", "step": "x"}\n{"event": "step", "st\n')
    append(run / "progress.jsonl", step(11, loss=None), step(12))
    curves = Curves(run / "progress.jsonl")
    curves.update()
    assert curves.to_json()["loss"][0][-2:] == [10, 12]


def test_few_points_are_drawn_and_no_peak_is_lost():
    rng = np.random.default_rng(0)
    losses = rng.random(100_001)
    losses[[0, 777, 100_000]] = 50.0, -50.0, 60.0
    steps, values = thinned(np.arange(100_001.0), losses, 2000)
    assert len(steps) == len(values) <= 2000
    assert {0: 50.0, 777: -50.0, 100_000: 60.0}.items() <= dict(zip(steps, values, strict=True)).items()
    assert steps == sorted(set(steps))


@pytest.mark.parametrize("count", [0, 1, 2000, 2001, 4001])
def test_any_number_of_points_can_be_thinned(count):
    steps, values = thinned(np.arange(float(count)), np.ones(count), 2000)
    assert len(steps) == len(values) == count if count <= 2000 else len(steps) <= 2000


def test_the_page_says_where_the_run_is_before_any_script_runs(run, tmp_path):
    client = client_of(tmp_path, **{"accept-language": "zh"})
    client.jobs.at_work = {"a"}
    page = client.get("/run/a").text
    for text in (
        "进行中",
        "<dt>训练损失</dt><dd>1.900</dd>",
        "<dt>最佳验证损失</dt><dd>1.500</dd>",
        'value="10"',
        "1.3 GB",
    ):
        assert text in page


def test_a_run_is_stopped_and_continued_by_a_form(run, tmp_path):
    client = client_of(tmp_path)
    client.jobs.at_work = {"a"}
    page = client.post("/stop/a").text
    assert client.jobs.stopped == [run]
    assert "stopping" in page
    client.jobs.at_work = set()
    client.post("/continue/a")
    assert client.jobs.started == [(run, None)]
    assert client.get("/stop/a").status_code == 405


def test_why_a_run_failed_stands_on_its_page(run, tmp_path):
    append(run / "progress.jsonl", {"event": "failed", "stage": "train", "message": "<b>the loss is NaN"})
    page = client_of(tmp_path).get("/run/a").text
    assert "&lt;b&gt;the loss is NaN" in page
    assert "failed" in page


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_event_that_is_no_step_is_a_line_of_the_log(language):
    events = [
        {"event": "stage", "stage": "train"}, {"event": "stage", "stage": "train", "message": "nothing has changed"},
        START, START | {"message": "continues"}, validation(3, 1.25, best=True),
        {"event": "checkpoint", "message": "step-000003"},
        {"event": "fits", "memory": 1_300_000_000, "total": 8_000_000_000, "seconds_left": 75.0},
        {"event": "measured", "model": "base", "loss": 2.0, "score": 0.5, "message": "sql"},
        {"event": "note", "message": "x"}, {"event": "end", "stage": "train"}, {"event": "failed", "message": "y"},
    ]  # fmt: skip
    lines = [log_line(event, words_of(language)) for event in events]
    assert all(line["text"] for line in lines)
    assert "1.250" in lines[4]["text"]
    assert "step-000003" in lines[5]["text"]


def test_a_failure_is_in_the_progress_file_for_whoever_looks_later(tmp_path, tiny_model, monkeypatch):
    from tunesmith.errors import SourceError
    from tunesmith.run import RunFolder
    from tunesmith.settings import make_recipe
    from tunesmith.stages import run as run_stages

    folder = RunFolder(tmp_path / "runs" / "a")
    recipe = make_recipe(
        {"model": {"name": str(tiny_model)}, "data": {"sources": ["gone.jsonl"], "folder": str(tmp_path)}}
    )
    with pytest.raises(SourceError) as raised:
        list(run_stages(folder, recipe, stages=("prepare",)))
    last = list(folder.events())[-1]
    assert (last.event, last.stage, last.message) == ("failed", "prepare", str(raised.value))
    (tmp_path / "gone.jsonl").write_text("{}\n")
    monkeypatch.setattr("tunesmith.stages.work.Work._prepare", lambda work: {}["gone"])
    with pytest.raises(KeyError):
        list(run_stages(folder, recipe, stages=("prepare",)))
    last = list(folder.events())[-1]
    assert (last.event, last.message) == ("failed", "this is a bug in tunesmith: KeyError: 'gone'")


def test_what_is_written_is_told_as_it_comes_until_the_studio_ends(run, tmp_path, monkeypatch):
    monkeypatch.setattr(live, "LOOKS", 0.001)
    project = Project(tmp_path, FakeJobs())
    tail = Tail(run / "progress.jsonl", (run / "progress.jsonl").stat().st_size)

    async def told():
        stream = live._stream(project, project.run("a"), tail, words_of("en"))
        states = [await anext(stream)]
        append(run / "progress.jsonl", step(11), {"event": "note", "message": "look"})
        told = [await anext(stream), await anext(stream)]
        project.stop()
        return states + told + [event async for event in stream]

    state, news, after = asyncio.run(told())
    assert state.startswith("event: state\n")
    assert news.startswith(f"event: news\nid: {tail.offset}\n")
    data = json.loads(news.split("data: ")[1])
    assert (data["points"][0][:2], data["log"][0]["text"]) == ([11, 1.89], "look")
    assert '"step": 11' in after
