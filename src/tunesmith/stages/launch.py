"""The processes of one training, started by the engine's own launcher: torchrun, or mlx.launch.

They are told to stop through a pipe. What the first rank says comes back on another, a `Progress` in each line; what
all of them and the launcher say beside it is in a log, from which the sentence of an error is taken.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from select import select
from typing import Literal

from tunesmith.engines.choose import engine_name, settled
from tunesmith.engines.ranks import LOST
from tunesmith.errors import EngineError, RecipeError, TrainingError, TunesmithError
from tunesmith.progress import Progress
from tunesmith.run import RunFolder
from tunesmith.settings import ModelSettings
from tunesmith.stages.child import BUG, SAID
from tunesmith.stages.hosts import Hosts

LOG = "ranks.log"
"""In the run's folder: what the processes said, over all starts."""
PORT = 29500
"""torchrun's own, where hosts meet."""
MLX_PORT = 32323
"""mlx.launch's own, from which on each process has one."""
MEETING = 600
"""Seconds in which every host must have begun: each is started by a person."""
MET = "all ranks are here"
"""What a rank says when it met the others."""


def carry_out(
    hosts: Hosts, folder: RunFolder, model: ModelSettings, stop: Callable[[], bool]
) -> Generator[Progress, None, bool]:
    """Start the processes of this machine and yield what the first rank says; whether the training is finished.

    Raises `TrainingError` with the sentence of the rank that failed, and `EngineError` when they do not meet.
    """
    engine = engine_name(model.engine)
    line = command(hosts, folder, engine)
    if hosts.first and len(hosts.slots) > 1 and engine == "torch":
        _refuse_taken_port(hosts)
        others = "; ".join(f"on {name}: --here {name}" for name in hosts.names[1:])
        yield Progress(
            "note",
            stage="train",
            message=f"waiting for the other hosts: start the same command there, where {folder} must be too, with its "
            f"name behind it ({others})",
        )
    launched = _Launched(line, folder, _environment(hosts, engine, model))
    try:
        yield from launched.progress(stop)
    finally:
        launched.end()
    if not launched.finished and launched.status and (not launched.told or launched.sentences()):
        raise _failure(launched, hosts)
    if hosts.first and not launched.finished and not launched.told:
        raise TrainingError(
            "stopped from another host; what was learned is kept, and the same command goes on from there"
        )
    return launched.finished


def command(hosts: Hosts, folder: RunFolder, engine: Literal["torch", "mlx"]) -> list[str]:
    """The launcher's command line on this machine."""
    rank = ["tunesmith.stages.rank", str(folder.path.absolute()), engine, str(os.getpid())]
    if engine == "mlx":
        return [*_mlx_launcher(hosts), "--", sys.executable, "-m", *rank]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(hosts.processes)]
    if len(hosts.slots) == 1:
        return [*launcher, "--standalone", "-m", *rank]
    where = ["--nnodes", str(len(hosts.slots)), "--node-rank", str(hosts.names.index(hosts.here)), "--master-addr",
             hosts.names[0], "--master-port", str(PORT), "--rdzv-conf", f"timeout={MEETING}"]  # fmt: skip
    return [*launcher, *where, "-m", *rank]


def _mlx_launcher(hosts: Hosts) -> list[str]:
    """It starts the processes of all hosts from the first one, by ssh."""
    if not hosts.first:
        raise RecipeError(f"mlx.launch starts every host itself; give the command on {hosts.names[0]} alone")
    addresses = ["127.0.0.1" if name == "localhost" else name for name in hosts.names]
    for address in addresses:
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(address)
            continue
        raise RecipeError(f"{address} is no IP address, and mlx.launch takes nothing else; name the hosts by them")
    every = [address for address, name in zip(addresses, hosts.names, strict=True) for _ in range(hosts.slots[name])]
    port = _free_ports(len(every))
    launcher = Path(sys.executable).with_name("mlx.launch")
    if not launcher.exists():
        raise EngineError(f"there is no {launcher}; install mlx again, which brings it")
    return [str(launcher), "--backend", "ring", "--hosts", ",".join(every), "--starting-port", str(port)]


def _free_ports(count: int) -> int:
    """The first of so many ports in a row that nothing listens on."""
    for first in range(MLX_PORT, 60000, count):
        with contextlib.suppress(OSError), contextlib.ExitStack() as taken:
            for port in range(first, first + count):
                taken.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
    raise EngineError("no port of this machine is free; end programs that listen on them")


def _refuse_taken_port(hosts: Hosts) -> None:
    try:
        socket.create_server(("", PORT)).close()
    except OSError as error:
        raise EngineError(
            f"port {PORT} of {hosts.here}, where the hosts meet, cannot be used ({error.strerror}); "
            "end the program that listens there"
        ) from None


def _environment(hosts: Hosts, engine: Literal["torch", "mlx"], model: ModelSettings) -> dict[str, str]:
    """Each process gets its share of the cores: with all of them in each, they wait for each other."""
    count = settled(engine, model.precision)[1]
    return {**os.environ, "OMP_NUM_THREADS": str(max(1, count // hosts.processes))} if count > 1 else {**os.environ}


class _Launched:
    """A launcher and its processes. ``told``: they were asked to stop; ``status``: of the launcher, when it ended."""

    def __init__(self, line: list[str], folder: RunFolder, environment: dict[str, str]) -> None:
        self.log, self.finished, self.told, self.status = folder.path / LOG, False, False, None
        # Where we are killed they still save what they have: until then nobody else may begin.
        lock = () if folder.lock_handle is None else (folder.lock_handle,)
        with self.log.open("ab") as said:
            self._start = said.tell()
            # Ctrl-C in a terminal goes to a whole group: in one of its own they hear it once, from us.
            self._process = subprocess.Popen(
                line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, env=environment, process_group=0,
                pass_fds=lock,
            )  # fmt: skip

    def progress(self, stop: Callable[[], bool]) -> Iterator[Progress]:
        """What the first rank says, until all have ended."""
        out, rest = self._process.stdout, b""
        assert out is not None
        while True:
            if stop() and not self.told:
                self._tell()
            if not select([out], [], [], 0.2)[0]:
                continue
            data = os.read(out.fileno(), 1 << 16)
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            yield from self._read(lines)
        self.status = self._process.wait()

    def _read(self, lines: list[bytes]) -> Iterator[Progress]:
        for line in lines:
            try:
                progress = Progress.from_json(json.loads(line))
            except (ValueError, TypeError, AttributeError):
                continue  # a library's
            if progress.event == "end":
                self.finished = True
            else:
                yield progress

    def _tell(self) -> None:
        self.told = True
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(b"stop\n")
            self._process.stdin.flush()

    def end(self) -> None:
        """At once, if they still work; what they saved is kept."""
        if self._process.poll() is None:
            self._process.terminate()
            self.status = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def sentences(self) -> list[str]:
        """What the ranks said when they failed, in their order."""
        return [line.partition(SAID)[2].strip() for line in self._lines() if line.startswith(SAID)]

    @property
    def met(self) -> bool:
        """Whether a rank of this machine met the others."""
        return any(line.startswith(MET) for line in self._lines())

    def _lines(self) -> list[str]:
        with self.log.open("rb") as log:
            log.seek(self._start)
            return log.read().decode("utf-8", "replace").splitlines()


def _failure(launched: _Launched, hosts: Hosts) -> TunesmithError:
    """Why it failed, in one sentence: that of the first rank that says more than that another one ended."""
    sentences = launched.sentences()
    own = [sentence for sentence in sentences if not sentence.startswith(LOST)]
    if own:
        return TrainingError(own[0] if not own[0].startswith(BUG) else f"{own[0]} ({launched.log} has them)")
    if not launched.met and len(hosts.slots) > 1:
        return EngineError(
            f"the hosts did not meet at {hosts.names[0]}:{PORT} within {MEETING // 60} minutes; see that the same "
            f"command runs on each of them and that they reach this port ({launched.log} has what was said)"
        )
    return TrainingError(
        "a process of this training was ended from outside, most likely because memory ran out; the same command "
        f"continues from the last checkpoint ({launched.log} has what was said)"
    )
