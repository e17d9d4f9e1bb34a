"""Compare: two answers side by side, a vote for an answer and not for a name, and a model that is there when asked."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import anyio
import psutil
import pytest
from projects import client_of, write_run
from test_studio_jobs import until

from tunesmith.cli.studio import studio
from tunesmith.errors import RunError
from tunesmith.machine import living_process, record_of
from tunesmith.run import RunFolder
from tunesmith.studio import answering, jobs
from tunesmith.studio.answering import Answering
from tunesmith.studio.votes import Tally, Vote, keep_vote, read_votes, tally

SERVE = [sys.executable, str(Path(__file__).with_name("fake_serve.py"))]


@pytest.fixture
def client(tmp_path, monkeypatch):
    """A studio over one trained run, whose models are the fake server's."""
    monkeypatch.setattr(jobs, "PROGRAM", SERVE)
    for name in ("one", "broken"):
        (write_run(tmp_path, name) / "adapter").mkdir()
        (tmp_path / "runs" / name / "adapter" / "adapter_model.safetensors").touch()
    write_run(tmp_path, "untrained")
    with client_of(tmp_path) as client:
        yield client
    client.app.state.project.stop()


def asked(client, question: str, run: str = "one") -> list[dict]:
    answer = client.post(f"/compare-ask/{run}", json={"question": question})
    return [json.loads(line) for line in answer.text.splitlines()]


def voted(client, name: str, side: str):
    return client.post("/compare-vote/one", json={"id": name, "side": side})


def test_both_answer_and_nobody_is_told_which_is_which_before_the_vote(client, tmp_path):
    lines = asked(client, "<script>alert(1)</script>")
    answers = {side: "".join(line["text"] for line in lines if line.get("side") == side) for side in ("left", "right")}
    assert lines[0] == {"loading": True}
    assert {answer.split()[0] for answer in answers.values()} == {"BASE", "TUNED"}
    assert all("<script>" in answer and answer.endswith("你好") for answer in answers.values())
    assert set(lines[-1]) == {"done"}
    assert not read_votes(RunFolder(tmp_path / "runs" / "one"))

    told = voted(client, lines[-1]["done"], "left").json()
    assert {side: name.upper() for side, name in told.items() if side in answers} == {
        side: answer.split()[0] for side, answer in answers.items()
    }
    (vote,) = read_votes(RunFolder(tmp_path / "runs" / "one"))
    assert (vote.question, vote.base, vote.tuned) == (
        "<script>alert(1)</script>", *(a for _, a in sorted((a.split()[0], a) for a in answers.values())),
    )  # fmt: skip
    assert vote.vote == vote.left == ("base" if answers["left"].startswith("BASE") else "tuned")


def test_sides_are_drawn_anew(client, monkeypatch):
    lefts = set()
    for drawn in (lambda models: None, lambda models: models.reverse()):
        monkeypatch.setattr("random.shuffle", drawn)
        lefts.add(next(line["text"] for line in asked(client, "hi") if line.get("side") == "left"))
    assert lefts == {"BASE says ", "TUNED says "}


def test_answers_are_voted_on_once_and_only_as_they_were_given(client):
    name = asked(client, "hi")[-1]["done"]
    assert voted(client, name, "both").status_code == 400
    assert voted(client, name, "same").status_code == 200
    again = voted(client, name, "left")
    assert (again.status_code, "voted on already" in again.text) == (404, True)
    assert voted(client, "invented", "left").status_code == 404


@pytest.mark.parametrize(("question", "run", "sentence"), [
    ("break", "one", "the model ran out of memory"),
    ("refuse", "one", "the question is too long for this model"),
    ("hi", "broken", "broken has no adapter; train it again"),
])  # fmt: skip
def test_what_goes_wrong_is_a_sentence_at_the_end(client, question, run, sentence):
    lines = asked(client, question, run)
    assert lines[-1] == {"error": sentence}
    assert not any("done" in line for line in lines)


def test_what_cannot_be_asked_is_refused_before_a_model_is_loaded(client, tmp_path):
    assert client.post("/compare-ask/untrained", json={"question": "hi"}).status_code == 400
    for body in ({"question": " "}, {"question": "x" * 30_000}, []):
        assert client.post("/compare-ask/one", json=body).status_code == 400
    assert client.post("/compare-ask/one", content="no JSON").status_code == 400
    assert client.post("/compare-ask/..%2fother", json={"question": "hi"}).status_code == 404
    assert not (tmp_path / ".studio").exists()
    assert "not trained yet" in client.get("/compare/untrained").text


def test_the_model_ends_with_the_studio_and_its_key_is_on_no_command_line(client, tmp_path):
    asked(client, "hi")
    process = psutil.Process(json.loads((tmp_path / ".studio" / "answering.json").read_text())["pid"])
    key = process.environ()[answering.KEY]
    assert len(key) >= 32
    assert not any(key in part for part in process.cmdline())
    client.app.state.project.stop()
    until(lambda: not process.is_running())


def test_the_model_ends_when_nobody_asks(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "PROGRAM", SERVE)
    other_pages, waited, end = threading.Event(), [], answering._end
    monkeypatch.setattr(answering, "_end", lambda process: waited.append(other_pages.wait(10)) or end(process))

    async def ask_once() -> subprocess.Popen:
        models = Answering(tmp_path, idle=0.01)
        async with models.models(tmp_path / "one") as child:
            await asyncio.sleep(0.05)
            assert child.process.poll() is None  # not while somebody does
        while models.is_up(tmp_path / "one"):
            await asyncio.sleep(0.01)
        other_pages.set()
        return child.process

    assert asyncio.run(asyncio.wait_for(ask_once(), 60)).poll() is not None
    assert waited == [True]  # other pages are answered while it ends


def test_a_model_whose_person_leaves_while_it_is_loaded_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "PROGRAM", [sys.executable, "-c", "import signal; signal.pause()"])
    record = tmp_path / "answering.json"

    async def leave() -> None:
        async with anyio.create_task_group() as person:
            person.start_soon(Answering(tmp_path).models(tmp_path / "one").__aenter__)
            while not record.exists():
                await asyncio.sleep(0.01)
            person.cancel_scope.cancel()

    asyncio.run(leave())
    assert living_process(json.loads(record.read_text())) is None


@pytest.mark.usefixtures("fresh_consoles")
def test_a_model_that_a_killed_studio_left_behind_is_ended_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr("tunesmith.serving.running.serve_app", lambda *_, on_ready, **__: on_ready("http://studio"))
    record = tmp_path / ".studio" / "answering.json"
    record.parent.mkdir()
    left = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    record.write_text(json.dumps(record_of(left.pid)))
    studio(tmp_path, 8765, browser=False)
    assert left.wait(timeout=30) == -9
    record.write_text(json.dumps({"pid": os.getpid(), "created": 1.0}))
    studio(tmp_path, 8765, browser=False)  # and no other program that was given its number


def test_a_server_that_ends_at_once_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "PROGRAM", SERVE)

    async def start() -> None:
        async with Answering(tmp_path).models(tmp_path / "broken"):
            pass

    with pytest.raises(RunError, match="broken has no adapter; train it again"):
        asyncio.run(start())


def vote(preferred, question="q") -> Vote:
    return Vote(question, "a", "b", "base", preferred, 0.0)


def test_the_tally_counts_same_as_half_and_knows_how_little_few_votes_say():
    assert tally([]) == Tally()
    some = tally([vote("tuned", "1"), vote("same", "2"), vote("base", "3"), vote("tuned", "4")])
    assert (some.tuned, some.base, some.same, some.share, some.verdict) == (2, 1, 1, 0.625, "open")
    assert tally([vote("tuned", str(n)) for n in range(20)]).verdict == "tuned"
    assert tally([vote("base", str(n)) for n in range(20)]).verdict == "base"
    assert tally([vote("tuned", "one question")] * 20).verdict == "open"


def test_votes_are_added_and_half_a_line_is_passed_over(tmp_path):
    run = RunFolder(tmp_path)
    keep_vote(run, "你好?", {"base": "a", "tuned": "b"}, "tuned", "right")
    with (run.evaluation / "votes.jsonl").open("a") as file:
        file.write('{"question": "cut o')
    keep_vote(run, "again", {"base": "a", "tuned": "b"}, "tuned", "left")
    assert [(vote.question, vote.vote) for vote in read_votes(run)] == [("你好?", "base"), ("again", "tuned")]
