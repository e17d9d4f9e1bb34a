"""A tiny run behind the API: random weights, and an adapter that changes what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tunesmith.engines.base import LoraShape
from tunesmith.engines.choose import open_engine
from tunesmith.models.architecture import read_architecture
from tunesmith.models.chat import ChatFormat
from tunesmith.serving.answers import Answerer
from tunesmith.serving.scheduler import Scheduler
from tunesmith.serving.writers import Writers

CONTEXT = 400


def tiny_run(folder: Path, **told: object) -> Answerer:
    """Named "mine"; its system message is "Be brief."."""
    engine = open_engine(folder, read_architecture(folder), "torch", "fp32")
    engine.add_adapter(LoraShape(), seed=0)
    rng = np.random.default_rng(1)
    arrays = {name: rng.normal(size=a.shape, scale=0.2) for name, a in engine.adapter_arrays().items()}
    engine.load_adapter_arrays({name: a.astype(np.float32) for name, a in arrays.items()})
    return Answerer("mine", engine, ChatFormat(folder), system="Be brief.", adapter=True, **told)


def writers(answerer: Answerer, *, at_once: int = 8, waiting: int = 8) -> Writers:
    decode = answerer.chat.decode
    scheduler = Scheduler(answerer.engine, decode, at_once=at_once, waiting=waiting, most_tokens=100_000)
    return Writers(answerer, scheduler, context=CONTEXT)
