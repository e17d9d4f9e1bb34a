"""What a person sees while a teacher is asked, and the recipe that they begin with."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from fake_teacher import serving
from rich.cells import cell_len
from rich.console import Console
from taught import documents, teach

from tunesmith.cli.app import call
from tunesmith.cli.edge import exit_status
from tunesmith.cli.view import View
from tunesmith.progress import Progress
from tunesmith.settings import read_recipe

QUESTION = "How many read-only nodes may a cluster of the second generation have at most, and who says so?"
ASKED = Progress(
    "asked", stage="teach", done=120, total=480, failed=7, tokens_per_second=345.6, seconds_left=95.0, spent=0.0421,
    money_left=1.5, question=QUESTION, answer="最多可以有 15 个只读节点，\n它们共享同一份存储。",
)  # fmt: skip


def frame(width: int, progress: Progress = ASKED) -> str:
    """The moving part, as it is drawn on a terminal."""
    console = Console(width=width, height=40, force_terminal=True, file=io.StringIO())
    with View(console, clock=lambda: 5.0) as view:
        view.show(Progress("stage", stage="teach"))
        view.show(progress)
        return "\n".join("".join(s.text for s in line) for line in console.render_lines(view.__rich__(), pad=False))


@pytest.mark.parametrize("width", [50, 80, 120])
def test_the_live_view_shows_how_far_it_is_what_it_costs_and_what_was_written_last(width):
    shown = frame(width)
    assert max(cell_len(line) for line in shown.splitlines()) <= width
    readings = " ".join(shown.split())
    for reading in ("120/480", "25 %", "120 of about 480 replies", "7 without use", "346 tokens/s",
                    "about 1 min 35 s left", "0.0421 spent", "about 1.50 to come"):  # fmt: skip
        assert reading in readings, readings
    assert f"? {QUESTION[:40]}" in shown
    assert "= 最多可以有 15 个只读节点， 它们共享同一份存储。"[: width // 3] in shown


def test_before_the_first_reply_it_shows_what_is_known():
    shown = frame(80, Progress("asked", stage="teach", done=0, total=480))
    assert "0 of about 480 replies" in shown
    assert "spent" not in shown


def test_what_a_teacher_writes_cannot_move_the_cursor():
    assert "\x1b" not in frame(80, Progress("asked", stage="teach", done=1, total=2, question="\x1b[2Jhello?"))


def test_a_log_gets_a_line_now_and_then():
    now, file = [0.0], io.StringIO()
    with View(Console(file=file, width=80), clock=lambda: now[0]) as view:
        view.show(Progress("stage", stage="teach"))
        for _ in range(30):
            now[0] += 1.0
            view.show(ASKED)
    lines = file.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[1].startswith("teach: 120 of about 480 replies, 7 without use, 346 tokens/s, about 1 min 35 s left")
    assert lines[1].endswith("0.0421 spent, about 1.50 to come")


def test_the_stage_says_all_of_it_while_it_asks(tmp_path):
    documents(tmp_path, 6)
    price = {"input": 10.0, "output": 100.0}

    def events(into: str, **values) -> list[Progress]:
        made = teach(tmp_path, fake.url, into, parallel=1, price=price, held_out=0.0, **values)
        return [event for event in made if event.event == "asked"]

    with serving(seconds=0.05) as fake, pytest.MonkeyPatch.context() as patch:
        patch.setattr("tunesmith.teacher.teach.EVERY", 0.0)
        told = events("plain")
        middle = told[len(told) // 2]
        assert 0 < (middle.done or 0) < (middle.total or 0)
        assert (middle.tokens_per_second or 0) > 0
        assert (middle.seconds_left or 0) > 0
        assert middle.spent == pytest.approx((middle.done or 0) * (100 * 10 + 20 * 100) / 1e6, rel=0.3)
        assert 0 < (middle.money_left or 0) <= 36 * 0.003
        assert (middle.question, middle.answer) != ("", "")
        assert (told[-1].done, told[-1].total, told[-1].money_left) == (30, 30, 0)
        short = events("short", most_money=0.05, max_tokens=40)
        assert all((e.spent or 0) + (e.money_left or 0) <= 0.05 + 1e-9 for e in short)


@pytest.mark.usefixtures("fresh_consoles")
def test_init_writes_a_recipe_of_a_teacher_that_can_be_tried_at_once(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["tunesmith"])  # hints name the program as it was called
    assert exit_status(lambda: call(["init", "我的 helper", "--like", "teacher"])) == 0
    shown = " ".join(capsys.readouterr().out.split())
    steps = [shown.index(f"tunesmith {step} '我的 helper/recipe.toml'") for step in ("teach", "check", "run")]
    assert steps == sorted(steps)
    assert "tunesmith teach '我的 helper/recipe.toml' --dry-run" in Path("我的 helper/recipe.toml").read_text()
    recipe = read_recipe(Path("我的 helper/recipe.toml"))
    assert recipe.teacher.is_set
    assert recipe.teacher.most_requests, "a first try costs no fortune"
    documents(tmp_path / "我的 helper")
    (tmp_path / "我的 helper" / "docs").rename(tmp_path / "我的 helper" / "documents")
    assert exit_status(lambda: call(["teach", "我的 helper/recipe.toml", "--dry-run", "--json"])) == 0
    assert json.loads(capsys.readouterr().out)["units"] == 3


@pytest.mark.usefixtures("fresh_consoles")
def test_the_other_ways_in_that_recipe_are_right_once_their_marks_are_taken_off(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert exit_status(lambda: call(["init", "helper", "--like", "teacher"])) == 0
    path = tmp_path / "helper" / "recipe.toml"
    text = re.sub(r'^(way = "documents"|sources = \["documents"\]|phrasings = 2).*\n', "", path.read_text(), flags=re.M)
    text = re.sub(r"^# (way|sources|start|follow_up|judge|price)( = )", r"\1\2", text, flags=re.M)
    path.write_text(text)
    teacher = read_recipe(path).teacher
    assert (teacher.way, teacher.follow_up, len(teacher.start)) == ("topics", True, 3)
    assert teacher.judge
    assert teacher.price.output > teacher.price.input > 0
