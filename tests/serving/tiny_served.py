"""A tiny run behind the API: random weights, and an adapter that changes what they say."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from tunesmith.engines.base import LoraShape
from tunesmith.engines.choose import open_engine
from tunesmith.engines.fake import FakeEngine, FakeSlots
from tunesmith.models.architecture import read_architecture
from tunesmith.models.chat import ChatFormat
from tunesmith.serving.answers import Answerer
from tunesmith.serving.scheduler import Scheduler
from tunesmith.serving.writers import Writers

CONTEXT = 400


def tiny_run(folder: Path) -> Answerer:
    """Named "mine"; its system message is "Be brief."."""
    engine = open_engine(folder, read_architecture(folder), "torch", "fp32")
    engine.add_adapter(LoraShape(), seed=0)
    rng = np.random.default_rng(1)
    arrays = {name: rng.normal(size=a.shape, scale=0.2) for name, a in engine.adapter_arrays().items()}
    engine.load_adapter_arrays({name: a.astype(np.float32) for name, a in arrays.items()})
    return Answerer("mine", engine, ChatFormat(folder), system="Be brief.", adapter=True)


def writers(answerer: Answerer, *, at_once: int = 8, waiting: int = 8) -> Writers:
    decode = answerer.chat.decode
    scheduler = Scheduler(answerer.engine, decode, at_once=at_once, waiting=waiting, most_tokens=100_000)
    return Writers(answerer, scheduler, context=CONTEXT)


class Script(FakeEngine):
    """Writes one text whatever it is asked, to one prompt at a time; a token takes ``pace`` seconds."""

    lanes = 1

    def __init__(self, ids: list[int], vocabulary: int, pace: float) -> None:
        super().__init__(vocabulary)
        self._ids, self._pace = ids, pace

    def slots(self, *, adapter: bool = True) -> FakeSlots:
        left, pause = iter(self._ids), threading.Event()

        def logits(last: list[int]) -> np.ndarray:
            pause.wait(self._pace)
            return np.eye(self.arch.vocabulary, dtype=np.float32)[[next(left)] * len(last)]

        return FakeSlots(logits)


def scripted(folder: Path, text: str, *, pace: float = 0.0, calls: bool = False) -> Answerer:
    chat = ChatFormat(folder)
    ids = [*chat.encode(text), *chat.encode("<|im_end|>")]
    return Answerer("said", Script(ids, chat.tokenizer.get_vocab_size(), pace), chat, calls=calls)
