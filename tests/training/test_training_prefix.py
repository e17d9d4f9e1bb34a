"""What is kept of the frozen layers: never of other tokens, never half, and never at the cost of a run."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunesmith.engines.base import LoraShape
from tunesmith.engines.fake import WIDTH, FakeEngine
from tunesmith.training import prefix as prefixes
from tunesmith.training.prefix import Plan, Prefix

ROWS = [np.arange(start, start + length) for start, length in ((1, 9), (3, 4), (30, 7), (2, 9))]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prefixes, "FILL", 8)
    return tmp_path / "cache"


def engine() -> FakeEngine:
    made = FakeEngine()
    made.add_adapter(LoraShape(rank=2), 0)
    return made


def opened(model: str = "m", below: int = 1) -> Prefix:
    return Prefix(model, below, WIDTH, engine())


def fill(prefix: Prefix, rows: Any = ROWS) -> list[Any]:
    return list(prefix.fill(engine(), rows, lambda: False))


def carried_out(rows: Any = ROWS, passes: float = 3, stop: bool = False) -> tuple[list[str], Prefix | None]:
    notes: list[str] = []

    def run() -> Iterator[Any]:
        found = yield from Plan("train", "m", 1, WIDTH, rows, passes).carry_out(engine(), lambda: stop)
        kept.append(found)

    kept: list[Prefix | None] = []
    notes = [progress.message for progress in run() if progress.event == "note"]
    return notes, kept[0]


def test_every_row_finds_its_own_states_again_and_in_a_later_run() -> None:
    fill(opened())
    again = opened()
    for ids in ROWS:
        np.testing.assert_array_equal(again.of(ids), engine().prefix([ids])[0])
    assert again.of(ROWS[0][:-1]) is None
    assert again.missing([*ROWS, np.arange(5, 8), np.arange(5, 8)])[0].tolist() == [5, 6, 7]
    assert len(again.missing([*ROWS, np.arange(5, 8), np.arange(5, 8)])) == 1


@pytest.mark.parametrize("other", [{"model": "n"}, {"below": 2}])
def test_another_model_or_another_number_of_layers_begins_anew(other: dict[str, Any]) -> None:
    fill(opened())
    assert opened(**other).of(ROWS[0]) is None


@pytest.mark.parametrize("file", ["states", "index"])
@pytest.mark.parametrize("lost", [1, 33, 200])
def test_what_was_cut_short_is_computed_again(file: str, lost: int) -> None:
    fill(opened())
    path = opened().folder / file
    path.write_bytes(path.read_bytes()[:-lost])
    cut = opened()
    assert cut.missing(ROWS)
    fill(cut)
    for ids in ROWS:
        np.testing.assert_array_equal(opened().of(ids), engine().prefix([ids])[0])


def test_a_full_disk_stops_the_keeping_and_not_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(prefixes.os, "fsync", full)
        (note,), kept = carried_out()
    assert kept is None
    assert "cannot be kept: the disk is full" in note


@pytest.mark.parametrize("room", [100, 700])
def test_a_file_that_may_grow_no_further_is_not_the_end_of_a_run(room: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        (note,), kept = carried_out()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert kept is None
    assert "cannot be kept" in note
    fill(opened())
    np.testing.assert_array_equal(opened().of(ROWS[2]), engine().prefix([ROWS[2]])[0])


def test_a_disk_with_too_little_room_is_seen_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    fill(opened("other"))
    monkeypatch.setattr(prefixes, "SPARE", 1 << 60)
    (note,), kept = carried_out()
    assert kept is None
    assert "GB are free" in note
    assert not opened("other").missing(ROWS)  # it would not have been enough


def test_what_no_run_uses_makes_room_the_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for age, name in ((30, "old"), (20, "older but in use"), (10, "new")):
        fill(opened(name))
        os.utime(opened(name).folder, (time.time() - age, time.time() - age))
    used = opened("older but in use")
    os.utime(used.folder, (0, 0))
    free = prefixes.shutil.disk_usage(used.folder)
    monkeypatch.setattr(prefixes, "SPARE", free.free)
    monkeypatch.setattr(prefixes.shutil, "disk_usage", lambda _: free)
    fill(opened())
    left = [name for name in ("old", "older but in use", "new") if not opened(name).missing(ROWS)]
    assert left == ["older but in use", "new"]


def test_what_is_there_is_used_however_full_the_disk_is(monkeypatch: pytest.MonkeyPatch) -> None:
    fill(opened())
    monkeypatch.setattr(prefixes, "SPARE", 1 << 60)
    assert carried_out()[1] is not None


def test_too_few_passes_keep_nothing() -> None:
    (note,), kept = carried_out(passes=1)
    assert kept is None
    assert "there are too few" in note
    assert "computed once for all passes (0 MB on disk)" in carried_out(passes=2)[0][0]
    assert "from an earlier run" in carried_out(passes=1)[0][0]  # nothing is missing any more


def test_a_stop_leaves_what_was_written() -> None:
    notes, kept = carried_out(stop=True)
    assert (notes, kept) == ([], None)
    prefix = opened()
    filling = prefix.fill(engine(), ROWS, lambda: False)
    next(filling), next(filling)
    filling.close()
    assert len(opened().missing(ROWS)) == len(ROWS) - 1


def test_another_run_that_fills_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = opened(), opened()
    filling = first.fill(engine(), ROWS, lambda: False)
    next(filling)
    monkeypatch.setattr(prefixes.time, "sleep", lambda _: list(filling))
    messages = [progress.message for progress in second.fill(engine(), ROWS, lambda: False)]
    assert messages == ["waiting for another run that computes the lower layers"]
    assert not second.missing(ROWS)
