import io
import math
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from tunesmith.cli.plot import Validation, loss_plot, resample
from tunesmith.cli.state import ProgressState
from tunesmith.cli.view import View
from tunesmith.progress import Progress


def training(steps=100, first=0):
    """What a run says, as stages yield it."""
    yield Progress("stage", stage="train")
    yield Progress(
        "start",
        stage="train",
        step=first,
        steps=steps,
        message=f"continued after step {first}" if first else "",
    )
    for step in range(first + 1, steps + 1):
        yield Progress(
            "step", stage="train", step=step, steps=steps, loss=0.5 + 2 * math.exp(-step / 20),
            epoch=step / 50, learning_rate=2e-4, gradient_norm=0.9, tokens=800, tokens_per_second=1234.0,
            memory=2_100_000_000, seconds_left=(steps - step) * 1.0,
        )  # fmt: skip
        if step % 20 == 0:
            yield Progress("validation", stage="train", step=step, steps=steps, loss=0.6 + 60 / (step + 20), best=True)
            yield Progress("checkpoint", stage="train", step=step, steps=steps, message=f"step-{step:06d}")
    yield Progress("end", stage="train")


def whole_run():
    yield Progress("stage", stage="prepare")
    yield Progress("working", stage="prepare", message="reading 客户订单.jsonl", done=1, total=2)
    yield Progress(
        "note",
        stage="prepare",
        message="12 rows of 很长的文件名称而且还要更长一些才能换行.jsonl were put aside: see quarantine",
    )
    yield Progress("end", stage="prepare")
    yield from training()
    yield Progress("stage", stage="evaluate")
    yield Progress("measured", stage="evaluate", model="base", loss=2.3)
    yield Progress("measured", stage="evaluate", model="tuned", loss=0.7, score=0.86)
    yield Progress("end", stage="evaluate")


def drawn(events, width=100, height=40):
    """What stays on a terminal, and the last moving frame before training ended."""
    file = io.StringIO()
    console = Console(width=width, height=height, force_terminal=True, file=file)
    frame = ""
    with View(console, clock=lambda: 5.0) as view:
        for event in events:
            if event.event == "end" and event.stage == "train":
                frame = "\n".join(
                    "".join(s.text for s in line) for line in console.render_lines(view.__rich__(), pad=False)
                )
            view.show(event)
    # Every drawing over begins with a carriage return.
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue()).replace("\r", "\n"), frame


@pytest.mark.parametrize("width", [60, 80, 100])
def test_nothing_is_wider_than_the_terminal(width):
    stays, frame = drawn(whole_run(), width=width)
    assert max(cell_len(line) for line in (stays + "\n" + frame).splitlines()) <= width


@pytest.mark.parametrize("width", [60, 100])
def test_the_live_frame_shows_progress_and_all_readings(width):
    _, frame = drawn(whole_run(), width=width)
    for shown in (
        "100/100",
        "100 %",
        "left",
        "loss",
        "validation",
        "1,234",
        "2.0e-4",
        "0.90",
        "2.1 GB",
        "step-000100",
        "█",
    ):
        assert shown in frame


def test_what_happened_stays_on_the_screen():
    stays, _ = drawn(whole_run())
    for shown in (
        "prepare",
        "12 rows of",
        "best: 1.100 at step 100",
        "train done",
        "tuned  loss 0.700  score 86 %",
    ):
        assert shown in stays


def test_training_that_was_cut_short_leaves_its_plot():
    stays, _ = drawn(list(training())[:60])
    assert "validation" in stays
    assert "█" in stays


def test_without_a_terminal_there_are_few_plain_lines_and_no_escape_codes():
    file = io.StringIO()
    with View(Console(file=file, width=80), clock=lambda: 5.0) as view:
        for event in whole_run():
            view.show(event)
    written = file.getvalue()
    assert "\x1b" not in written
    lines = written.splitlines()
    assert sum("step " in line and "tokens/s" in line for line in lines) == 11
    assert "train: step 40: validation loss 1.600, the best so far" in lines
    assert "evaluate: tuned  loss 0.700  score 86 %" in lines
    assert any("很长的文件名称而且还要更长一些才能换行.jsonl were put aside" in line for line in lines)
    assert len(lines) < 30


def test_lines_say_no_work_twice_and_ctrl_c_is_answered_by_what_is_true_of_the_stage(monkeypatch):
    file, written, now = io.StringIO(), list[bytes](), iter(range(0, 1000, 11))
    monkeypatch.setattr("os.write", lambda _, said: written.append(said))
    with View(Console(file=file, width=80), clock=lambda: float(next(now))) as view:
        view.show(Progress("stage", stage="compare"))
        for _ in range(3):
            view.show(Progress("working", stage="compare", message="question 1 of 3: base"))
        view.stop_soon()
        for stage in ("evaluate", "train"):
            view.show(Progress("stage", stage=stage))
            view.stop_soon()
    assert file.getvalue().count("question 1 of 3: base") == 1
    assert written == [
        b"stopping ...\n",
        b"stopping; the answers so far are kept ...\n",
        b"stopping after this step ...\n",
    ]


def test_a_dumb_terminal_gets_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    file = io.StringIO()
    with View(Console(file=file, force_terminal=True, color_system=None)) as view:
        view.show(Progress("stage", stage="train"))
    assert file.getvalue() == "train: begins\n"


def test_no_color_is_respected():
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=40, no_color=True)
    with View(console, clock=lambda: 5.0) as view:
        for event in training():
            view.show(event)
    assert "\x1b[3" not in console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_a_continued_run_keeps_the_curve_of_its_first_part_and_drops_lost_steps():
    state = ProgressState()
    state.recall(list(training())[:70])
    assert state.latest is None
    for event in training(first=40):
        state.take(event)
    assert [step for step, _ in state.losses] == list(range(1, 101))
    assert [v.step for v in state.validations] == [20, 40, 60, 80, 100]


def test_a_run_from_the_start_forgets_the_curve_before_it():
    state = ProgressState()
    state.recall(training())
    state.take(Progress("start", stage="train", step=0, steps=10))
    assert state.losses == []


def test_time_left_counts_down_between_steps():
    now = [0.0]
    state = ProgressState(clock=lambda: now[0])
    state.take(Progress("step", stage="train", step=1, steps=9, loss=1.0, seconds_left=60.0))
    now[0] = 15.0
    assert state.seconds_left == 45.0


def test_the_plot_has_the_size_that_was_asked_for():
    losses = [(step, 3.0 - step / 50) for step in range(1, 101)]
    for width in (20, 60, 100):
        lines = loss_plot(losses, [], 100, width, 6).plain.splitlines()
        assert len(lines) == 6
        assert all(cell_len(line) == width for line in lines)


def test_a_falling_loss_falls_in_the_plot_and_the_future_is_blank():
    losses = [(step, 3.0 - step / 50) for step in range(1, 51)]
    rows = loss_plot(losses, [], 100, 46, 4).plain.splitlines()
    bottom = rows[-1].partition("┤")[2]
    assert bottom[:15] == "█" * 15
    assert bottom[25:].strip() == ""
    assert len(rows[0].rstrip()) < len(rows[-1].rstrip())


def test_validation_marks_lie_on_the_scale_and_only_the_newest_best_is_a_diamond():
    marks = [Validation(20, 2.0, True), Validation(60, 1.0, True), Validation(90, 1.2, False)]
    plot = loss_plot([(1, 2.0), (100, 1.0)], marks, 100, 60, 5).plain
    assert plot.count("●") == 2
    assert plot.count("◆") == 1


def test_a_wild_first_step_does_not_flatten_the_rest():
    losses = [(1, 90.0), *((step, 2.0 - step / 100) for step in range(2, 101))]
    assert loss_plot(losses, [], 100, 107, 5).plain.splitlines()[0].split()[0] == "1.96"


def test_plots_of_one_point_of_one_value_and_of_nothing_are_drawn():
    for losses in ([], [(1, 1.0)], [(1, 1.0), (2, 1.0)]):
        assert len(loss_plot(losses, [], 10, 40, 3).plain.splitlines()) == 3


def test_columns_between_steps_lie_on_the_line_between_them():
    assert resample([(1, 0.0), (2, 4.0)], 2, 8)[:5] == [0.0, 1.0, 2.0, 3.0, 4.0]
