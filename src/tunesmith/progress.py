"""`Progress`: what just happened. Stages yield it, the run folder keeps it, people see it drawn."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any, Literal

Event = Literal[
    "stage",  # a stage begins or is skipped; message says which
    "start",  # training begins or continues at `step`
    "step",  # one optimizer step was taken
    "validation",  # held-out loss was measured
    "checkpoint",  # a checkpoint is complete on disk
    "measured",  # evaluation: one model's loss or score is known
    "asked",  # a teacher: `done` of about `total` replies are there, the last question and answer with them
    "working",  # something long goes on: `done` of `total`
    "note",  # something the person should know
    "fits",  # memory and time of the training are known
    "end",  # a stage is finished
    "failed",  # a stage cannot go on; message says why
]


@dataclass(frozen=True)
class Progress:
    """One line of ``progress.jsonl``; only what applies is set.

    loss is nats per learned token; tokens_per_second counts no padding; memory and seconds
    (seconds left) are bytes and seconds. Of a teacher: failed are questions that became no row; spent, and
    money_left (what is still to be spent), are in the currency of the recipe's price.
    """

    event: Event
    stage: str = ""
    message: str = ""
    step: int | None = None
    steps: int | None = None
    epoch: float | None = None
    loss: float | None = None
    learning_rate: float | None = None
    gradient_norm: float | None = None
    tokens: int | None = None
    tokens_per_second: float | None = None
    memory: int | None = None
    seconds_left: float | None = None
    best: bool | None = None
    done: int | None = None
    total: int | None = None
    model: str | None = None
    score: float | None = None
    failed: int | None = None
    spent: float | None = None
    money_left: float | None = None
    question: str = ""
    answer: str = ""
    time: float | None = None

    def to_json(self) -> str:
        """One line, unset fields left out."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return json.dumps({k: v for k, v in values.items() if v is not None and v != ""}, ensure_ascii=False)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Progress:
        """The inverse of `to_json`; fields of a newer version are passed over. Raises `TypeError` for a damaged one."""
        known = {k: v for k, v in values.items() if k in _KINDS and v is not None}
        for name, value in known.items():
            if type(value) not in _KINDS[name]:
                raise TypeError(f"{name} of an event cannot be {value!r}")
        return cls(**known)


_KINDS: dict[str, tuple[type, ...]] = {
    f.name: {"Event": (str,), "str": (str,), "bool": (bool,)}.get(str(f.type).split(" ")[0], (int, float))
    for f in fields(Progress)
}
"""What each field is in JSON."""
