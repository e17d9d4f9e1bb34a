"""What gets scarce is said once; before it is gone the run saves, waits, and ends if it must."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tunesmith import machine
from tunesmith.errors import TrainingError
from tunesmith.machine import Machine, read_machine
from tunesmith.training.guard import EVERY, PATIENCE, Guard

GB = 1 << 30
PLENTY = Machine(memory=16 * GB, available=8 * GB, swapped=0, disk_free=100 * GB)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


def guarded(tmp_path: Path, *readings: Machine) -> tuple[Guard, Clock]:
    """A guard that reads these in turn, and the last for ever."""
    clock, left = Clock(), list(readings)
    guard = Guard(tmp_path, lambda _: left.pop(0) if len(left) > 1 else left[0], clock, clock.wait)
    return guard, clock


@pytest.mark.parametrize(
    ("scarce", "words", "pauses"),
    [
        ({"available": GB}, "of 17.2 GB of memory are left; other programs", False),
        ({"available": GB // 8}, "close other programs", True),
        ({"pressure": "warning"}, "of memory are left", False),
        ({"pressure": "critical"}, "close other programs", True),
        ({"disk_free": 3 * GB}, "3.2 GB are free on the disk of", False),
        ({"disk_free": GB // 2}, "free some", True),
        ({"battery": 0.6}, "on battery, with 60% left; it pauses at 10%", False),
        ({"battery": 0.08}, "plug it in", True),
    ],
)
def test_each_kind_of_scarcity_is_told(tmp_path: Path, scarce: dict[str, Any], words: str, pauses: bool) -> None:
    guard, _ = guarded(tmp_path, replace(PLENTY, **scarce))
    (finding,) = guard.look()
    assert words in finding.message
    assert finding.pause == pauses
    assert bool(guard.lacking()) == pauses


def test_swap_counts_from_where_it_stood(tmp_path: Path) -> None:
    guard, clock = guarded(tmp_path, replace(PLENTY, swapped=5 * GB), replace(PLENTY, swapped=6 * GB))
    assert guard.look() == []
    clock.wait(EVERY)
    (finding,) = guard.look()
    assert "1.1 GB were swapped out since this began" in finding.message


def test_a_thing_is_said_once_until_it_went_away(tmp_path: Path) -> None:
    low = replace(PLENTY, disk_free=3 * GB)
    guard, clock = guarded(tmp_path, low, low, PLENTY, low)
    said = []
    for _ in range(4):
        said.append(len(guard.look()))
        assert guard.look() == []  # a moment later it does not even look
        clock.wait(EVERY)
    assert said == [1, 0, 0, 1]


def test_a_training_pauses_with_a_checkpoint_and_goes_on(tmp_path: Path) -> None:
    from test_training_loop import loop

    full = replace(PLENTY, disk_free=GB // 2)
    trained = loop(tmp_path / "checkpoints", validate_every=100)
    trained.guard, _ = guarded(tmp_path, PLENTY, *[full] * 5, PLENTY)
    trained.guard.clock = iter(range(0, 10**6, 5)).__next__  # a look at every step
    events = list(trained.run())
    told = [(e.event, e.step, e.message) for e in events if e.event in ("note", "working", "checkpoint")]
    at = next(i for i, (event, *_) in enumerate(told) if event == "note")
    step = told[at][1]
    assert [event for event, *_ in told[at : at + 3]] == ["note", "checkpoint", "working"]
    assert told[at + 1] == ("checkpoint", step, f"step-{step:06d}")
    assert told[at + 2][2].startswith("paused, and saved: ")
    assert ("note", step, "it goes on") in told
    assert trained.finished


def test_a_pause_without_end_ends_the_run_with_everything_saved(tmp_path: Path) -> None:
    from test_training_loop import loop

    trained = loop(tmp_path / "checkpoints", validate_every=100)
    guard, clock = guarded(tmp_path, replace(PLENTY, available=GB // 8))
    trained.guard = guard
    with pytest.raises(TrainingError, match="stopped after step 1, with everything saved: "):
        list(trained.run())
    assert clock.now >= PATIENCE
    assert trained.checkpoints.latest() == 1


def test_ctrl_c_ends_a_pause(tmp_path: Path) -> None:
    from test_training_loop import loop

    trained = loop(tmp_path / "checkpoints", validate_every=100)
    trained.guard, _ = guarded(tmp_path, replace(PLENTY, available=GB // 8))
    trained.stop = lambda: trained.state.step == 1
    events = list(trained.run())
    assert not trained.finished
    assert not [e for e in events if e.event == "working" and e.message.startswith("paused")]


def test_this_machine_can_be_read(tmp_path: Path) -> None:
    now = read_machine(tmp_path / "not" / "made")
    assert 0 < now.available <= now.memory
    assert now.disk_free > 0
    assert now.battery is None or 0 <= now.battery <= 1


@pytest.mark.parametrize(
    ("said", "pressure"), [("1\n", "normal"), ("2\n", "warning"), ("4\n", "critical"), ("", "normal")]
)
def test_macos_is_asked_for_its_own_judgment(monkeypatch: pytest.MonkeyPatch, said: str, pressure: str) -> None:
    class Answer:
        stdout = said

    asked = []
    monkeypatch.setattr(machine.subprocess, "run", lambda command, **_: asked.append(command) or Answer)
    assert machine._pressure("darwin") == pressure
    assert machine._pressure("linux") == "normal"
    assert asked == [["sysctl", "-n", "kern.memorystatus_vm_pressure_level"]]


def test_a_battery_counts_only_while_nothing_else_feeds_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    class Battery:
        percent, power_plugged = 42, False

    monkeypatch.setattr(machine.psutil, "sensors_battery", lambda: Battery, raising=False)
    assert machine._battery() == 0.42
    Battery.power_plugged = True
    assert machine._battery() is None
    monkeypatch.delattr(machine.psutil, "sensors_battery", raising=False)
    assert machine._battery() is None
