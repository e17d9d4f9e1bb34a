import json
from html import unescape
from pathlib import Path

import pytest
from html_page import HOSTILE
from projects import client_of, step, write_run

from tunesmith.studio import state

BEGUN = [{"event": "stage", "stage": "train", "time": 1.0}, step(1), step(2)]
ENDED = [*BEGUN, {"event": "end", "stage": "train", "time": 9.0}]
FAILED = [*BEGUN, {"event": "failed", "stage": "train", "message": "the disk is full", "time": 9.0}]
PREPARED = [{"event": "stage", "stage": "prepare"}, {"event": "end", "stage": "prepare"}]
TRAINED = {"stages": {"prepare": "x", "train": "y"}}
RESULTS = [
    {"model": name, "loss": loss, "tasks": {"sql": {"score": score, "n": 200, "interval": [score, score], **more}}}
    for name, loss, score, more in (
        ("base", 2.0, 0.1, {}),
        ("tuned", 0.5, 0.8, {"difference": {"verdict": "better", "mean": 0.7, "n": 200, "interval": [0.6, 0.75]}}),
    )
]

WRONG = [
    (json.dumps({"stage": "train", "step": 1, **event}) + "\n").encode()
    for event in (
        {"event": "step", "loss": "x", "steps": "x", "memory": "x", "epoch": [], "time": "x"},
        {"event": "validation", "loss": "x"},
        {"event": "note", "message": {}, "stage": []},
        {"event": "start", "step": "x"},
    )
]
"""Events with values that are none."""


def names(page):
    return [part.split('"')[0] for part in page.split('href="/run/')[1:]]


@pytest.mark.parametrize(
    ("events", "manifest", "said"),
    [
        ([], {}, "not trained yet"),
        (PREPARED, {"stages": {"prepare": "x"}}, "not trained yet"),
        (BEGUN, TRAINED, "stopped"),
        ([*ENDED, {"event": "stage", "stage": "evaluate"}], TRAINED, "stopped"),
        (ENDED, TRAINED, "finished"),
        ([*ENDED, {"event": "note", "stage": "evaluate", "message": "nothing is measured"}], TRAINED, "finished"),
        ([*ENDED, {"event": "stage", "stage": "evaluate", "message": "nothing has changed"}], TRAINED, "finished"),
        (FAILED, TRAINED, "failed"),
        ([*ENDED, {"event": "failed", "stage": "export", "message": "no Ollama"}], TRAINED, "finished"),
    ],
)  # fmt: skip
def test_the_state_of_a_run_is_told(tmp_path, events, manifest, said):
    write_run(tmp_path, "a", events, manifest)
    client = client_of(tmp_path)
    assert f">{said}</span>" in client.get("/").text
    client.jobs.at_work = {"a"}
    assert ">running</span>" in client.get("/").text


@pytest.mark.parametrize(
    ("events", "said"), [([], "killed"), (BEGUN, "killed"), (ENDED, "finished"), (FAILED, "failed")]
)
def test_a_run_whose_process_was_killed_is_not_called_stopped(tmp_path, events, said):
    write_run(tmp_path, "a", events, TRAINED)
    client = client_of(tmp_path)
    client.jobs.dead = {"a"}
    assert f">{said}</span>" in client.get("/").text
    assert ('class="failure">Its process was ended from outside' in client.get("/run/a").text) == (said == "killed")
    assert client.get("/?sort=state").status_code == 200


def test_a_run_is_a_line_with_its_numbers_and_verdict(tmp_path):
    run = write_run(tmp_path, "客服", ENDED, TRAINED | {"model": {"name": "/models/qwen3"}}, RESULTS)
    (run / "checkpoints" / "step-000002").mkdir(parents=True)
    (run / "checkpoints" / "step-000002" / "state.json").write_text('{"best_loss": 0.4321}')
    page = unescape(client_of(tmp_path).get("/").text)
    for text in (
        "客服",
        "qwen3",
        "0.432",
        "80.0 %",
        "Tuned is better: it answers 80 % of 200 questions right, base 10 %",
    ):
        assert text in page


def test_a_folder_without_runs_says_what_to_do(tmp_path):
    page = client_of(tmp_path, **{"accept-language": "zh"}).get("/").text
    assert "这个文件夹里还没有运行" in page
    assert 'href="/new"' in page


def test_runs_sort_by_every_column_and_back_those_of_a_sweep_too(tmp_path):
    for name, loss in (("b", 0.5), ("a", 0.9), ("sweep/c", 0.1)):
        run = write_run(tmp_path, name, ENDED, TRAINED)
        (run / "checkpoints" / "step-000002").mkdir(parents=True)
        (run / "checkpoints" / "step-000002" / "state.json").write_text(f'{{"best_loss": {loss}}}')
    write_run(tmp_path, "none")
    client = client_of(tmp_path)
    assert names(client.get("/?sort=name").text) == ["a", "b", "none", "sweep/c"]
    assert names(client.get("/?sort=loss").text) == ["sweep/c", "b", "a", "none"]
    assert names(client.get("/?sort=loss&order=back").text)[0] == "none"
    assert client.get("/?sort=nonsense").status_code == 200


def test_of_a_long_run_only_the_end_is_read(tmp_path, monkeypatch):
    run = write_run(tmp_path, "a", [*BEGUN, *(step(n) for n in range(3, 20_000))], TRAINED)
    read = []
    monkeypatch.setattr(state, "parsed", lambda lines, parse=state.parsed: read.append(len(lines)) or parse(lines))
    assert ">stopped</span> <small>19,999/100</small>" in client_of(tmp_path).get("/").text
    assert sum(read) < 200
    with (run / "progress.jsonl").open("ab") as file:
        file.write(b'{"event": "fai')  # killed in the middle of a line
    assert ">stopped</span>" in client_of(tmp_path).get("/").text


def test_what_has_not_changed_is_not_read_again(tmp_path, monkeypatch):
    run, client = write_run(tmp_path, "a", BEGUN, TRAINED), client_of(tmp_path)
    client.get("/")
    monkeypatch.setattr("tunesmith.studio.home.drawn", lambda *_: None)
    monkeypatch.setattr(state, "summarise", lambda *_: pytest.fail("read again"))
    client.get("/")
    monkeypatch.undo()
    with (run / "progress.jsonl").open("a") as file:
        file.write('{"event": "end", "stage": "train"}\n')
    assert ">finished</span>" in client.get("/").text


def test_a_hostile_name_is_shown_and_obeyed_by_nobody(tmp_path):
    texts = [text for text in HOSTILE if "\0" not in text and "/" not in text and "\ud800" not in text]
    for text in texts:
        write_run(
            tmp_path,
            text,
            [{"event": "failed", "message": text}],
            TRAINED,
            model=text.replace('"', "").replace("\\", ""),
        )
    client = client_of(tmp_path)
    page = client.get("/").text
    addresses = {part.split('"')[0] for part in page.split('href="')[1:] if part.startswith("/run/")}
    assert len(addresses) == len(texts)
    for html in (page, *(client.get(address).text for address in addresses)):
        assert not any(tag in html for tag in ("<img", "<svg", "alert(1)>"))
        assert not set(html) & set("\u202e\u2066\u200f\u061c\u200b\ufeff")


@pytest.mark.parametrize("damage", [
    "progress.jsonl", "manifest.json", "recipe.toml", "evaluation/results.json", "dataset/report.json",
    "export/proof.json", ".lock", ".process.json",
])  # fmt: skip
def test_a_damaged_file_breaks_no_page(tmp_path, damage):
    """Home shows the run; a page that cannot do without says which file it is."""
    run = write_run(tmp_path, "a", ENDED, TRAINED, RESULTS)
    for folder in ("adapter", "dataset", "export"):
        (run / folder).mkdir()
    for content in (b"\xff\x00{", b"[]", b"{}", b"[1]\n", b"[{}]\n", b"null", *WRONG):
        (run / damage).write_bytes(content)
        client = client_of(tmp_path)
        assert client.get("/").status_code == 200
        for page in ("run", "points", "data", "evaluation", "compare", "export"):
            answer = client.get(f"/{page}/a")
            assert answer.status_code == 200 or Path(damage).name in answer.text


def test_settings_of_other_programs_are_no_recipes(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "data"\n')
    (tmp_path / "mine.toml").write_text('[data]\nsources = ["rows.jsonl"]\n')
    page = client_of(tmp_path).get("/").text
    assert "mine.toml" in page
    assert "pyproject.toml" not in page
