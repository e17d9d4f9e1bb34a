"""Work on rows on many machines: tasks on Ray, which schedules them, moves what they need and takes lost ones again.

Tasks and not Ray Data: results come back in the order of their tasks, so that the same files come out whatever runs
where. Only bytes of rows go to and fro; every node reads models and documents from its own disk or a shared one, which
is looked at before anything begins.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from tunesmith.errors import ClusterError, OutOfMemory, first_line
from tunesmith.machine import cores

Task = TypeVar("Task")
Result = TypeVar("Result")

LOCAL = "local"
SECONDS_TO_ANSWER = 10.0
"""A port that nobody listens to, and one that a firewall swallows, are told apart from a slow network by then."""
RETRIES = 20
"""A task that was lost with its node is taken again so often; one that fails is not taken again."""
Look = dict[str, Any]
"""What a node has: versions, and the sizes of the files that the work needs."""


class Cluster(AbstractContextManager["Cluster"]):
    """`dataset.pool.Pool` on Ray. ``address``: "local" starts one on this machine, which ends with it, HOST:PORT is one
    that runs; ``needs``: files that every node must have, as this machine has them."""

    def __init__(self, address: str, needs: Sequence[Path] = ()) -> None:
        self._address, self._needs = address, [path.absolute() for path in needs]

    def __enter__(self) -> Cluster:
        """Raises `ClusterError` when it does not answer, or a node is not as this machine is."""
        self._ray = _connected(self._address)
        try:
            here = _look(self._needs)
            for name, look in self._looks():
                if fault := _differs(here, look):
                    raise ClusterError(f"node {name} of the cluster {fault}")
            processors = int(self._ray.cluster_resources().get("CPU", 0))
            if not processors:  # its tasks would wait for ever
                raise ClusterError("the cluster has no processor to work with; start a node with --num-cpus 1 or more")
            self._at_once = 2 * processors
        except BaseException:
            self._ray.shutdown()
            raise
        return self

    def begin(self) -> None:
        """Its processes run already."""

    def map(self, do: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """``do`` of every task, results in order; few tasks are under way at a time, so memory is bounded.

        Raises what ``do`` raises, `OutOfMemory` when a node has too little of it, and `ClusterError` when a task was
        lost again and again, or the cluster has gone.
        """
        remote = self._ray.remote(num_cpus=1, max_retries=RETRIES)(do)
        waiting = deque[Any]()
        for task in tasks:
            waiting.append(remote.remote(task))
            if len(waiting) > self._at_once:
                yield self._result(waiting.popleft())
        while waiting:
            yield self._result(waiting.popleft())

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()

    def _result(self, reference: Any) -> Any:
        faults = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except faults.OutOfMemoryError:
            raise OutOfMemory(
                "a node of the cluster has too little memory for this; give it more, or fewer CPUs"
            ) from None
        except faults.RayTaskError as error:  # what the task itself raised
            raise error.cause from None
        except (faults.RayError, ConnectionError) as error:
            raise ClusterError(
                f"the cluster lost this work ({first_line(error)}); run it again once its nodes are there"
            ) from None

    def _looks(self) -> Iterator[tuple[str, Look]]:
        """What each living node has, looked at there."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        needs = self._needs

        def look() -> Look:
            """Sent as code, not by name: the node may have no tunesmith."""
            try:
                from tunesmith.cluster import _look as at
            except ImportError:
                return {"lacks": "tunesmith"}
            return at(needs)

        faults = self._ray.exceptions
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        asked = [
            self._ray.remote(num_cpus=0)(look).options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote()
            for node in nodes
        ]  # fmt: skip
        for node, one in zip(nodes, asked, strict=True):
            # Of one that is dead, only not yet known to be, nothing is asked.
            with contextlib.suppress(faults.TaskUnschedulableError, faults.NodeDiedError):
                yield node["NodeManagerAddress"], self._ray.get(one)


def _connected(address: str) -> Any:
    """The module `ray`, with a cluster behind it."""
    # It would else tell its makers that it was used, and what of.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise ClusterError('Ray is not installed here; install it with: pip install "tunesmith[cluster]"') from None
    # When a node is lost, Ray prints the last lines of its log into whatever a command prints, and has no setting
    # against it; what that means for the work is told by a sentence of ours.
    vars(importlib.import_module("ray._private.worker"))["print_to_stdstream"] = _unheard
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    try:
        if address == LOCAL:
            ray.init("local", num_cpus=cores(), include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
        else:
            _refuse_silent(address)
            ray.init(address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(f"the cluster {address} cannot be used ({first_line(error)})") from None
    return ray


def _unheard(*_: Any, **__: Any) -> None:
    pass


def _refuse_silent(address: str) -> None:
    """Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise ClusterError(
            f'cluster.address {address!r} is no address; give "local", or HOST:PORT as `ray start` told it'
        )
    try:
        with contextlib.closing(socket.create_connection((host, int(port)), SECONDS_TO_ANSWER)):
            pass
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"no cluster answers at {address} ({error}); start one there with `ray start --head`, or open the port"
        ) from None


def _look(needs: Sequence[Path]) -> Look:
    versions = {name: version(name) for name in ("tunesmith", "tokenizers", "numpy")}
    versions["Python"] = platform.python_version()
    return {"versions": versions, "files": {str(path): _size(path) for path in needs}}


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _differs(here: Look, there: Look) -> str:
    """How a node is not as this machine is; empty where it is."""
    if "lacks" in there:
        return f"has no {there['lacks']}; install the same there"
    for name, own in here["versions"].items():
        if there["versions"][name] != own:
            return f"has {name} {there['versions'][name]}, and this machine {own}; install the same there"
    for path, own in here["files"].items():
        other = there["files"][path]
        if own is not None and other is None:
            return f"has no {path}; copy it there, or keep it on a disk that all nodes share"
        if other != own:
            return f"has another {path} than this machine; copy it there again"
    return ""
