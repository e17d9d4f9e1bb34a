"""Several texts at once: each as if it were alone, in the order they came, and none in another's way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from tunesmith.engines.fake import FakeEngine
from tunesmith.engines.writing import Sampler
from tunesmith.serving import lane as lanes
from tunesmith.serving import scheduler as room
from tunesmith.serving.lane import Ask, Piece
from tunesmith.serving.scheduler import Broken, Full, Scheduler, Stopping


def decode(ids):
    return "".join(chr(ord("0") + i) for i in ids)


def ask(first: int, *, limit: int = 20, seed: int = 0, temperature: float = 4.0, length: int = 1, **told) -> Ask:
    return Ask([1] * (length - 1) + [first], limit, frozenset(), Sampler(temperature, seed), **told)


async def written(scheduler: Scheduler, asked: Ask) -> tuple[str, Piece]:
    pieces = asyncio.Queue[Piece]()
    scheduler.submit(asked, pieces.put_nowait)
    text = ""
    while True:
        piece = await pieces.get()
        text += piece.text
        if piece.finish or piece.fault:
            return text, piece


def in_loop(work: Callable[[Scheduler], Awaitable[None]], engine: FakeEngine | None = None, **limits: int) -> None:
    async def main() -> None:
        taken = {"at_once": 8, "waiting": 8, "most_tokens": 100_000, **limits}
        scheduler = Scheduler(engine or FakeEngine(), decode, **taken)
        scheduler.start(asyncio.get_running_loop())
        try:
            await asyncio.wait_for(work(scheduler), 20)
        finally:
            await asyncio.to_thread(scheduler.close)

    asyncio.run(main())


def test_the_same_seed_gives_the_same_text_whatever_others_do():
    async def work(scheduler: Scheduler) -> None:
        alone, _ = await written(scheduler, ask(5, seed=3))
        among = await asyncio.gather(*(written(scheduler, ask(5 + i, seed=3 + i)) for i in range(12)))
        assert among[0][0] == alone
        assert len({text for text, _ in among}) == 12

    in_loop(work, waiting=20)


def test_more_than_may_wait_are_refused_and_those_that_wait_are_written():
    async def work(scheduler: Scheduler) -> None:
        started = [asyncio.create_task(written(scheduler, ask(1, limit=50))) for _ in range(5)]
        await asyncio.sleep(0)
        with pytest.raises(Full):
            scheduler.submit(ask(1), print)
        assert [len(text) for text, _ in await asyncio.gather(*started)] == [50] * 5
        assert scheduler.counts == (0, 0)

    in_loop(work, at_once=2, waiting=3)


def test_whoever_goes_frees_the_place_for_the_next():
    async def work(scheduler: Scheduler) -> None:
        first = asyncio.Event()
        endless = scheduler.submit(ask(1, limit=10**9), lambda _: first.set())
        await first.wait()
        waiting = asyncio.create_task(written(scheduler, ask(2)))
        scheduler.leave(endless)
        assert (await waiting)[1].finish == "length"

    in_loop(work, at_once=1)


def test_a_long_prompt_is_read_in_pieces_between_the_tokens_of_others(monkeypatch):
    monkeypatch.setattr(lanes, "PIECE", 10)
    order = list[str]()

    class OneLane(FakeEngine):
        lanes = 1

    async def work(scheduler: Scheduler) -> None:
        first, ended = asyncio.Event(), asyncio.Event()

        def tell(name: str, piece: Piece) -> None:
            order.extend([name] * piece.tokens)
            (first if name == "short" else ended).set()

        going = scheduler.submit(ask(1, limit=9000), lambda piece: tell("short", piece))
        await first.wait()
        order.clear()
        scheduler.submit(ask(2, limit=1, length=95), lambda piece: tell("long", piece))
        await ended.wait()
        scheduler.leave(going)
        assert order.index("long") >= 9  # ten pieces, and a token of the other between two of them

    in_loop(work, OneLane())


def test_a_text_that_fails_is_told_so_and_the_others_go_on():
    class Broken(FakeEngine):
        def slots(self, *, adapter: bool = True):
            if adapter:
                raise MemoryError("no room")
            return super().slots(adapter=False)

    async def work(scheduler: Scheduler) -> None:
        bad, good = await asyncio.gather(
            written(scheduler, ask(1)), written(scheduler, ask(1, adapter=False, temperature=0))
        )
        assert bad[1].fault == "writing failed (MemoryError: no room)"
        assert good[1].finish == "length"
        assert (await written(scheduler, ask(1, adapter=False)))[1].finish == "length"

    in_loop(work, Broken())


def test_a_server_that_stops_ends_its_texts_and_takes_no_more(monkeypatch):
    monkeypatch.setattr(room, "STOPPING_SECONDS", 0.0)

    async def work(scheduler: Scheduler) -> None:
        endless = [asyncio.create_task(written(scheduler, ask(i, limit=10**9))) for i in range(3)]
        await asyncio.sleep(0)
        scheduler.stop()
        with pytest.raises(Stopping):
            scheduler.submit(ask(1), print)
        assert [piece.finish for _, piece in await asyncio.gather(*endless)] == ["length"] * 3

    in_loop(work, at_once=2)


def test_nobody_keeps_a_place_for_ever(monkeypatch):
    monkeypatch.setattr(room, "LONGEST_SECONDS", 0.05)

    async def work(scheduler: Scheduler) -> None:
        assert (await written(scheduler, ask(1, limit=10**9)))[1].finish == "length"

    in_loop(work)


class Counting(FakeEngine):
    """Notes how many texts are under way in each round."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def side_by_side(self, do, jobs):
        self.most = max(self.most, sum(len(lane.texts) for lane in jobs))
        return super().side_by_side(do, jobs)


def test_texts_that_together_need_too_much_memory_wait_for_each_other():
    engine = Counting()

    async def work(scheduler: Scheduler) -> None:
        await asyncio.gather(*(written(scheduler, ask(1, length=100)) for _ in range(6)))

    in_loop(work, engine=engine, most_tokens=2 * 120)
    assert engine.most == 2


def test_base_and_tuned_share_the_memory():
    engine = Counting()

    async def work(scheduler: Scheduler) -> None:
        asked = (ask(1, length=100, adapter=i % 2 > 0, temperature=0) for i in range(8))
        await asyncio.gather(*(written(scheduler, one) for one in asked))

    in_loop(work, engine=engine, most_tokens=4 * 120)
    assert engine.most <= 4


def test_when_the_thread_itself_breaks_down_nobody_waits_for_ever():
    class Threadless(FakeEngine):
        def side_by_side(self, do, jobs):
            raise RuntimeError("no threads")

    async def work(scheduler: Scheduler) -> None:
        told = await asyncio.gather(*(written(scheduler, ask(1)) for _ in range(3)))  # one place: two of them wait
        assert {piece.fault for _, piece in told} == {scheduler.fault}
        assert scheduler.fault.startswith("the server cannot write any more (RuntimeError: no threads)")
        with pytest.raises(Broken):
            scheduler.submit(ask(1), print)
        assert scheduler.counts == (0, 0)

    in_loop(work, Threadless(), at_once=1)


def test_from_the_likeliest_tokens_only_those_are_drawn_that_have_top_p_together():
    logits = np.log(np.array([0.05, 0.5, 0.15, 0.3], np.float32))
    drawn = {Sampler(1.0, seed, 0.75)(logits) for seed in range(200)}
    assert drawn == {1, 3}
    assert {Sampler(1.0, seed, 1.0)(logits) for seed in range(200)} == {0, 1, 2, 3}
    assert {Sampler(1.0, seed, 0.0)(logits) for seed in range(20)} == {1}
    assert {Sampler(1e-50, seed)(logits) for seed in range(20)} == {1}
    many = np.zeros(5000, np.float32)  # all alike: half of them are 2,500
    assert len({Sampler(1.0, seed, 0.5)(many) for seed in range(500)}) > 300
