"""Which answer people prefer, base or tuned: asked without saying which is which, and kept line by line."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from tunesmith import files
from tunesmith.run import RunFolder

Model = Literal["base", "tuned"]
Side = Literal["left", "right", "same"]
_SCORES = {"tuned": 1.0, "same": 0.5, "base": 0.0}


@dataclass(frozen=True)
class Vote:
    """One line of votes.jsonl. ``left`` is the model that stood on the left; ``vote`` the one that was preferred."""

    question: str
    base: str
    tuned: str
    left: Model
    vote: Literal["base", "tuned", "same"]
    time: float


@dataclass(frozen=True)
class Tally:
    """``share``: how often tuned is preferred, a "same" counting half for each, with its 95 % interval; None and (0, 1)
    before the first vote."""

    tuned: int = 0
    base: int = 0
    same: int = 0
    share: float | None = None
    interval: tuple[float, float] = (0.0, 1.0)

    @property
    def verdict(self) -> Literal["tuned", "base", "open"]:
        """Which is preferred, as far as these votes can tell."""
        low, high = self.interval
        return "tuned" if low > 0.5 else "base" if high < 0.5 else "open"


def votes_path(folder: RunFolder) -> Path:
    return folder.evaluation / "votes.jsonl"


def keep_vote(folder: RunFolder, question: str, answers: dict[Model, str], left: Model, side: Side) -> Vote:
    """Append a vote for what stood on that side; nothing that was kept before is touched."""
    right: Model = "base" if left == "tuned" else "tuned"
    preferred = left if side == "left" else right if side == "right" else "same"
    vote = Vote(question, answers["base"], answers["tuned"], left, preferred, round(time.time(), 3))
    path = votes_path(folder)
    with files.storage_errors(path):
        path.parent.mkdir(exist_ok=True)
        with path.open("ab+", buffering=0) as file:
            whole = not file.seek(0, os.SEEK_END) or os.pread(file.fileno(), 1, file.tell() - 1) == b"\n"
            file.write((b"" if whole else b"\n") + files.json_line(asdict(vote)))  # a crash may have left half a line
    return vote


def read_votes(folder: RunFolder) -> list[Vote]:
    """Every vote so far; a line that was cut off by a crash is passed over."""
    votes = []
    try:
        with votes_path(folder).open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    votes.append(Vote(**json.loads(line)))
                except (ValueError, TypeError):
                    continue
    except FileNotFoundError:
        pass
    return votes


def tally(votes: Sequence[Vote]) -> Tally:
    """Votes on one question are not independent of each other, and the interval knows it."""
    if not votes:
        return Tally()
    from tunesmith.evaluation.statistics import mean_interval

    counts = {name: sum(vote.vote == name for vote in votes) for name in ("tuned", "base", "same")}
    scores = [_SCORES[vote.vote] for vote in votes]
    interval = mean_interval(scores, [vote.question for vote in votes])
    return Tally(**counts, share=sum(scores) / len(scores), interval=interval)
