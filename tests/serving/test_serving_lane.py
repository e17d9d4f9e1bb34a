"""Texts that begin and end at different times are what each engine writes to them alone."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from tunesmith.engines.choose import open_engine
from tunesmith.engines.writing import Sampler
from tunesmith.models.architecture import read_architecture
from tunesmith.serving import lane as room
from tunesmith.serving.lane import Ask, Lane, Text


def letters(ids) -> str:
    return "".join(chr(0x4E00 + i) for i in ids)


@pytest.mark.parametrize("name", ["torch", "mlx"])
def test_texts_that_come_and_go_are_written_as_alone(
    name: Literal["torch", "mlx"], tiny_model: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip(name)
    monkeypatch.setattr(room, "PIECE", 16)
    engine = open_engine(tiny_model, read_architecture(tiny_model), name, "fp32")
    asked = [([*range(60, 70)], 9), ([*range(100, 150)], 6), ([70, 71, 72], 12), ([80], 3), ([*range(40, 57)], 4)]
    expected = [
        letters(engine.generate([prompt], max_new_tokens=limit, stop=frozenset(), adapter=False)[0].ids)
        for prompt, limit in asked
    ]
    lane, waiting, written = Lane(lambda: engine.slots(adapter=False)), list[Text](), dict[Text, str]()
    for prompt, limit in asked:
        waiting.append(Text(Ask(prompt, limit, frozenset(), Sampler(0, 0)), letters, print))
    texts = list(waiting)
    while waiting or lane.texts:
        if waiting and lane.takes(waiting[0], 10_000):  # one a round; two of them are read in pieces
            lane.add(waiting.pop(0))
        lane.round()
        for text in texts:
            if piece := text.taken_news():
                assert not piece.fault
                written[text] = written.get(text, "") + piece.text
    assert [written[text] for text in texts] == expected
