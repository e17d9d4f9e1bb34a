"""Whether a training fits: what is estimated, what is tried, what is proposed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))
import tiny

from tunesmith.dataset.store import Tokens
from tunesmith.dataset.tokens import Sequence
from tunesmith.engines import choose
from tunesmith.engines.base import LORA_MODULES, LoraShape
from tunesmith.engines.needs import Needs, Training, needs
from tunesmith.machine import Machine
from tunesmith.models.architecture import parse_architecture, read_architecture
from tunesmith.settings import ModelSettings, TrainSettings
from tunesmith.sources.example import Example, Origin
from tunesmith.training import fit as fitting
from tunesmith.training.fit import Fit, Job, Trial, estimate, examine

GB = 10**9
SEVEN_B = parse_architecture(
    {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "vocab_size": 32000, "tie_word_embeddings": False,
    },
    "config.json",
)  # fmt: skip
AIR = Machine(memory=8 * GB, available=5 * GB, swapped=0, disk_free=50 * GB)


def tokens(*lengths: int) -> Tokens:
    nothing = Example((), Origin(""))
    return Tokens.of(Sequence([5] * n, [i >= n // 2 for i in range(n)], nothing) for n in lengths)


def job(
    model: Path = Path("none"), arch: Any = SEVEN_B, lengths: tuple[int, ...] = (512,) * 40, **settings: Any
) -> Job:
    train = TrainSettings(**{"batch": 4, "epochs": 2, **settings})
    layers = None if train.layers == "all" else train.layers
    shape = LoraShape(8, 16.0, 0.0, train.lora.modules, layers)
    precision = ModelSettings(engine="torch", precision="bf16")
    return Job.of(model, arch, precision, shape, train, tokens(*lengths), tokens(10, 20), Path())


def training(**changes: Any) -> Training:
    made = Training("torch", "bf16", LoraShape(8, layers=4), [512] * 4, 1024, True, 2)
    return replace(made, **changes)


def test_the_top_layers_of_a_7b_need_what_was_measured() -> None:
    needed = needs(SEVEN_B, training(shape=LoraShape(8, 16.0, 0.0, ("q_proj", "v_proj"), 4), lengths=[512]))
    assert 0.85 < needed.total / 3.18e9 < 1.15  # benchmarks/large.py
    assert needed.largest == ("the embedding", 2 * 4096 * 32000)
    assert needs(SEVEN_B, training(streamed=False)).weights > 13 * GB


def test_processes_share_the_memory_of_a_machine_and_have_cards_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "device_limits", lambda name: (None, None))
    one = job()
    two = replace(one, processes=2)
    assert estimate(two, AIR).limit == AIR.available // 2
    monkeypatch.setattr(choose, "device_limits", lambda name: (24 * GB, None))
    assert estimate(two, AIR).limit == 24 * GB, "each process has a card of its own"


@pytest.mark.parametrize("engine", ["torch", "mlx"])
@pytest.mark.parametrize(
    "less",
    [
        {"shape": LoraShape(8, layers=2)},
        {"shape": LoraShape(2, layers=4)},
        {"shape": LoraShape(8, 16.0, 0.0, ("q_proj",), 4)},
        {"lengths": [128] * 4},
        {"learned": 8},
    ],
)
def test_less_of_anything_needs_less(engine: str, less: dict[str, Any]) -> None:
    whole = needs(SEVEN_B, training(engine=engine))
    part = needs(SEVEN_B, training(engine=engine, **less))
    assert part.total <= whole.total
    if engine == "torch" or "shape" not in less or less["shape"].modules == LORA_MODULES:
        steps = [n.adapter + n.activations + n.head for n in (part, whole)]
        assert steps[0] < steps[1]


def test_rows_at_once_cost_memory_on_a_gpu_and_none_on_cores() -> None:
    rows = [[512] * n for n in (4, 16)]
    assert len({needs(SEVEN_B, training(lengths=r)).activations for r in rows}) == 1
    few, many = (needs(SEVEN_B, training(engine="mlx", lengths=r)).activations for r in rows)
    assert many == pytest.approx(4 * few)


def test_what_fits_needs_no_change() -> None:
    found = estimate(job(layers=4), AIR)
    assert not found.lacking
    assert not found.changes
    assert found.states == (40 * 512 + 30) * 4096 * 2


def test_what_does_not_fit_is_proposed_with_what_it_costs() -> None:
    found = estimate(job(layers="all"), AIR)
    assert found.lacking.endswith("of memory are needed and 5.0 GB can be had")
    assert set(found.changes) == {"train.layers"}
    kept = found.changes["train.layers"]
    assert f"tunesmith run --fit` takes train.layers = {kept} (only the top {kept} of 32 layers learn)" in found.advice
    assert not estimate(job(layers=kept), AIR).lacking
    assert estimate(job(layers=fitting.LAYERS[fitting.LAYERS.index(kept) - 1]), AIR).lacking


def test_fewer_rows_at_once_come_first_for_they_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "settled", lambda *_: ("bf16", 1))
    monkeypatch.setattr(fitting, "settled", lambda *_: ("bf16", 1))
    whole = needs(SEVEN_B, training(shape=LoraShape(8, layers=4), lengths=[512] * 4, learned=1024, cores=1)).total
    found = estimate(job(layers=4), replace(AIR, available=whole - 1))
    assert found.changes == {"train.micro_batch": 2}
    assert found.advice == "`tunesmith run --fit` takes train.micro_batch = 2 (the same result)"


def test_rows_are_cut_only_when_nothing_else_helps() -> None:
    lengths = (4000, 4000, 300, 300)
    least = needs(SEVEN_B, training(shape=LoraShape(8, layers=1), lengths=[4000], learned=2000))
    found = estimate(job(layers=1, lengths=lengths), replace(AIR, available=least.total - 1))
    assert "data.max_tokens" in found.changes
    assert "2 of 6 rows are longer" in found.advice
    assert estimate(job(), replace(AIR, available=GB // 10)).advice == "choose a smaller model"


def test_a_buffer_larger_than_the_machine_allows_is_named() -> None:
    found = Fit(Needs(0, 0, 0, 0, 0, 0, ("the logits", 9 * GB)), GB, 8 * GB, 0, 0, 0, {})
    assert found.lacking == "the logits needs 9.0 GB in one piece, and this machine gives at most 8.0 GB"


def drained(steps: Iterator[Any]) -> tuple[list[Any], Any]:
    events = []
    while True:
        try:
            events.append(next(steps))
        except StopIteration as end:
            return events, end.value


@pytest.fixture
def tiny_job() -> Job:
    folder = tiny.tiny("llama")
    return job(folder, read_architecture(folder), (9, 12, 30, 30, 5), layers=1, lora={"rank": 2})


@pytest.mark.tries_a_step
def test_one_real_step_is_tried_in_a_process_of_its_own(tiny_job: Job) -> None:
    (event,), found = drained(examine(tiny_job, lambda: False, "train"))
    assert event.message == "trying one real step on the longest rows"
    assert found.trial.tokens == 30 + 30 + 12 + 9  # all four: they do not fill the cores
    assert 50e6 < found.trial.memory < found.needs.total
    assert found.seconds > 0


@pytest.mark.tries_a_step
def test_a_trial_ends_when_the_person_says_so(tiny_job: Job) -> None:
    assert drained(examine(tiny_job, lambda: True, "train"))[1] is None


def _killed(job: Job, answer: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _died(job: Job, answer: Any) -> None:
    os._exit(1)


@pytest.mark.tries_a_step
def test_a_trial_that_the_system_kills_did_not_fit(tiny_job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "_attempt", _killed)
    found = drained(examine(tiny_job, lambda: False, "train"))[1]
    assert found.lacking
    monkeypatch.setattr(fitting, "_attempt", _died)  # for another reason: nothing is known of its memory
    found = drained(examine(tiny_job, lambda: False, "train"))[1]
    assert not found.lacking
    assert found.trial is None


@pytest.mark.tries_a_step
def test_what_the_estimate_forbids_is_not_tried(tiny_job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting.machine, "read_machine", lambda _: replace(AIR, available=1000))
    events, found = drained(examine(tiny_job, lambda: False, "train"))
    assert not events
    assert found.lacking


def test_the_time_of_a_training_is_that_of_its_tokens() -> None:
    made = job(layers=4, lengths=(100,) * 40)
    trial = Trial(memory=1, seconds=2.0, filling=1.0, tokens=400)
    trained, validated = made.passed
    assert trained == 2 * 40 * 100
    assert validated == 30 * (1 + 20 // 2)
    expected = 4030 / 400 + 2.0 / 400 * (trained + validated / 3)
    assert fitting._seconds(made, trial) == pytest.approx(expected)
    assert fitting._seconds(replace(made, below=0), trial) == pytest.approx(expected - 4030 / 400)


def test_frozen_layers_stay_in_memory_where_their_states_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert job(layers=4).below == 28
    assert job(layers=4, prefix="off").below == 0
    assert job(layers=4, epochs=1).below == 0  # one pass would not pay
    monkeypatch.setattr(fitting.machine, "read_machine", lambda _: replace(AIR, disk_free=10**9))
    _, found = drained(examine(job(layers=4), lambda: False, "train"))
    assert float(found.lacking.split()[0]) > 13


def test_a_disk_too_small_for_the_checkpoints_is_told() -> None:
    found = estimate(job(layers=4), replace(AIR, disk_free=10**6))
    assert "of the disk, of which 0.0 GB are free" in found.lacking
    assert found.advice == "free some"


def test_a_trial_that_took_more_than_there_is_does_not_fit() -> None:
    found = replace(estimate(job(layers=4), AIR), trial=Trial(6 * GB, 1.0, 1.0, 10))
    assert found.lacking == "one step took 6.0 GB of memory and 5.0 GB can be had"


def test_the_longest_rows_are_the_ones_that_are_tried() -> None:
    lengths = tuple(np.random.default_rng(0).permutation(np.arange(5, 60)).tolist())
    assert sorted(len(ids) for ids, _ in job(lengths=lengths, micro_batch=3).rows) == [57, 58, 59]


def test_a_time_that_other_programs_had_a_part_of_is_told_as_such() -> None:
    found = estimate(job(layers=4), AIR)
    alone, beside = (replace(found, trial=Trial(1, 1.0, 1.0, 10, share), seconds=60.0) for share in (0.9, 0.4))
    assert (found.shared, alone.shared, beside.shared) == (False, False, True)
