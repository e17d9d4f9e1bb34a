"""One process of several that train together: ``python -m tunesmith.stages.rank RUN ENGINE PID``, as `launch` has a
launcher start it. PID is the process whose pipes these are: on its machine nobody else would stop the training."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from select import select
from typing import Any

from tunesmith import files
from tunesmith.engines.choose import engine_name, join_ranks, settled
from tunesmith.engines.ranks import Ranks
from tunesmith.errors import RunError, TunesmithError
from tunesmith.run import RunFolder, versions
from tunesmith.stages.child import BUG, SAID
from tunesmith.stages.launch import MET
from tunesmith.stages.training import learn
from tunesmith.stages.work import Work


def main(run: str, engine: Any, parent: str) -> int:
    """Train; 0 when it is finished or was stopped with everything saved."""
    out = os.dup(1)
    os.dup2(2, 1)  # what libraries print must not come between our lines
    asked = list[int]()
    signal.signal(signal.SIGINT, lambda number, _: asked.append(number))
    try:
        ranks = join_ranks(engine)
        print(f"{MET}; this is {ranks.rank} of {ranks.size}", file=sys.stderr, flush=True)
        # On each host one of them hears its terminal; what one wants, all do.
        hears = ranks.rank == 0 or os.environ.get("LOCAL_RANK") == "0"
        stop = _Stop(int(parent), asked) if hears else lambda: bool(asked)
        work = _meet(ranks, RunFolder(Path(run)), stop)
        inputs = ranks.share(work.folder.manifest().get("training", "").encode())  # the first host knows the sources
        for progress in learn(work, inputs.decode()):
            if ranks.rank == 0:
                _send(out, work.folder.record(progress).to_json())  # here: whoever reads it may be killed
        ranks.leave()
        if ranks.rank == 0 and not work.stopped:
            _send(out, json.dumps({"event": "end", "stage": "train"}))
    except TunesmithError as error:
        return _fail(str(error))
    except Exception:
        traceback.print_exc()
        return _fail(f"{BUG}: please report it with the lines of the log")
    return 0


class _Stop:
    """Whether the process that started this training asks for its end, or is gone."""

    def __init__(self, parent: int, asked: list[int]) -> None:
        self._parent, self._asked = parent, asked

    def __call__(self) -> bool:
        return bool(self._asked or select([0], [], [], 0)[0]) or not _lives(self._parent)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _send(out: int, line: str) -> None:
    """In ASCII, which no launcher cuts in the middle of a letter. Nobody may be there to read it any more."""
    data = (json.dumps(json.loads(line)) + "\n").encode()
    try:
        while data:
            data = data[os.write(out, data) :]
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), out)


def _fail(sentence: str) -> int:
    print(f"{SAID}{sentence}", file=sys.stderr, flush=True)
    os._exit(1)  # not waiting for others, which may wait for this one


def _meet(ranks: Ranks, folder: RunFolder, stop: Any) -> Work:
    """What this rank trains, when all of them train the same. Raises `RunError` when they do not."""
    work, facts = None, {"host": socket.gethostname()}
    try:
        work = Work(folder, folder.recipe(), stop, lambda _: None, ranks=ranks)
        facts |= facts_of(work)
    except (TunesmithError, OSError) as error:
        facts["error"] = str(error)
    everyone = [json.loads(data) for data in ranks.gather(json.dumps(facts).encode())]
    check_same(everyone)
    assert work is not None
    return work


def facts_of(work: Work) -> dict[str, str]:
    """What must be the same on all hosts, and in which words to say that it is not."""
    recipe, dataset = work.recipe, work.folder.dataset
    paths = sorted(p for p in dataset.rglob("*") if p.suffix in (".tokens", ".places"))
    if not paths:
        raise RunError(f"{dataset} has no rows; copy {work.folder} there from the first host")
    asked = [recipe.train.model_dump(mode="json"), recipe.model.model_dump(mode="json", exclude={"name"})]
    return {
        "recipe": files.value_hash(asked)[:12],
        "dataset": files.value_hash([[p.name, files.file_hash(p)] for p in paths])[:12],
        "model": work.model.hash[:12],
        "precision": settled(engine_name(recipe.model.engine), recipe.model.precision)[0],  # "auto" differs by machine
        **{name: version for name, version in versions().items() if name in ("tunesmith", "torch", "mlx", "numpy")},
    }


def check_same(everyone: list[dict[str, str]]) -> None:
    """Raises `RunError` for the first rank that lacks something, or has another thing than the first rank has."""
    first = everyone[0]
    for facts in everyone:
        if "error" in facts:
            raise RunError(f"{facts['host']} cannot take part: {facts['error']}")
    for rank, facts in enumerate(everyone):
        for what in first.keys() | facts.keys():
            mine, its = first.get(what, "none"), facts.get(what, "none")
            if what != "host" and mine != its:
                raise RunError(
                    f"rank {rank} on {facts['host']} has another {what} ({its}) than {first['host']} ({mine}); "
                    "give all hosts the same, then start again"
                )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
