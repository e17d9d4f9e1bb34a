"""Texts that begin and end at different times are what each engine writes to them alone."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Literal

import pytest

from tunesmith.engines.base import LoraShape
from tunesmith.engines.choose import open_engine
from tunesmith.engines.writing import Sampler
from tunesmith.models.architecture import read_architecture
from tunesmith.serving import lane as room
from tunesmith.serving.lane import Ask, Lane, Piece, Text
from tunesmith.serving.scheduler import Scheduler


def letters(ids) -> str:
    return "".join(chr(0x4E00 + i) for i in ids)


def text_of(prompt: int, limit: int) -> Text:
    return Text(Ask([1] * prompt, limit, frozenset(), Sampler(0, 0)), letters, print)


@pytest.mark.parametrize("name", ["torch", "mlx"])
def test_texts_that_come_and_go_at_random_are_written_as_alone(
    name: Literal["torch", "mlx"], tiny_model: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip(name)
    monkeypatch.setattr(room, "PIECE", 16)  # so that most are read in pieces
    engine, draw = open_engine(tiny_model, read_architecture(tiny_model), name, "fp32"), random.Random(7)
    engine.add_adapter(LoraShape(), seed=0)
    engine.load_adapter_arrays({name: array + 0.02 for name, array in engine.adapter_arrays().items()})
    asked = [
        (draw.choice([range(40), range(50, 50 + draw.randint(1, 160))]), draw.randint(1, 30), draw.random() < 0.6)
        for _ in range(24)
    ]
    asked = [([*begun, draw.randrange(200)], limit, adapter) for begun, limit, adapter in asked]

    async def one(scheduler: Scheduler, prompt: list[int], limit: int, adapter: bool) -> str:
        pieces, leaves_at = asyncio.Queue[Piece](), draw.choice([limit, limit, draw.randint(0, limit)])
        text = scheduler.submit(Ask(prompt, limit, frozenset(), Sampler(0, 0), adapter), pieces.put_nowait)
        written = ""
        while True:
            piece = await pieces.get()
            assert not piece.fault
            written += piece.text
            if piece.finish:
                return written
            if len(written) > leaves_at:
                scheduler.leave(text)
                return written

    async def all_of_them() -> list[str]:
        scheduler = Scheduler(engine, letters, at_once=8, waiting=24, most_tokens=100_000)
        scheduler.start(asyncio.get_running_loop())
        try:
            return await asyncio.wait_for(asyncio.gather(*(one(scheduler, *each) for each in asked)), 200)
        finally:
            await asyncio.to_thread(scheduler.close)

    for (prompt, limit, adapter), written in zip(asked, asyncio.run(all_of_them()), strict=True):
        [alone] = engine.generate([prompt], max_new_tokens=limit, stop=frozenset(), adapter=adapter)
        assert letters(alone.ids[: len(written)]) == written


def test_a_cache_that_was_wide_is_counted_so_until_it_is_empty(tiny_model: Path):
    engine = open_engine(tiny_model, read_architecture(tiny_model), "torch", "fp32")
    lane, wide, narrow = Lane(engine.slots), text_of(10, 190), text_of(10, 5)
    for text in (wide, narrow):
        assert lane.takes(text, 400)
        lane.add(text)
    lane.round()
    wide.ended = True
    lane.round()
    assert lane.texts == [narrow]
    assert not lane.takes(text_of(10, 140), 299)  # two rows of 200 are there
    assert lane.claim() == 400
    narrow.ended = True
    lane.round()
    assert lane.claim() == 0
    assert lane.takes(text_of(10, 10**6), 1)  # one alone always can
