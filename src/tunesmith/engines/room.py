"""Whether a whole model fits into memory, and how many texts it can write at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tunesmith import machine
from tunesmith.engines.choose import Precision, engine_name, memory_limits, settled
from tunesmith.engines.needs import writing
from tunesmith.models.architecture import Architecture


@dataclass(frozen=True)
class Room:
    """Bytes that the model takes with one text, that this process may have, and that the weights leave of it;
    ``texts``: so many may be written at once, 0 where the model does not fit."""

    needed: int
    limit: int
    left: int
    texts: int

    @property
    def lacking(self) -> str:
        """What does not fit, in words; empty when all does."""
        if self.texts:
            return ""
        needed, limit = machine.size(self.needed), machine.size(self.limit)
        return f"to answer, the whole model takes {needed} of memory, and {limit} can be had"


def room_for(arch: Architecture, wanted: Literal["auto", "torch", "mlx"], precision: Precision, tokens: int) -> Room:
    """What there is for texts of so many ``tokens`` each, the prompt included. What this process holds already counts
    as room: it is the model itself, or what an earlier stage has left."""
    name = engine_name(wanted)
    limit, _ = memory_limits(name, machine.within_reach())
    needs = writing(arch, name, settled(name, precision)[0], tokens)
    left = max(0, limit - needs.whole)
    return Room(needs.whole + needs.text, limit, left, left // needs.text)
