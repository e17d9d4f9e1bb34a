"""A cluster of three nodes on this machine, and what its tests have done there."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS_TO_START = 60


@contextmanager
def three_nodes() -> Iterator[tuple[str, list]]:
    """The address of the first, and what kills each of the other two. Each has processes of its own."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # what is done here is found there
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        others = [cluster.add_node(num_cpus=1, wait=False) for _ in range(2)]
        cluster.wait_for_nodes(SECONDS_TO_START)
        yield (
            str(cluster.address),
            [lambda node=node: cluster.remove_node(node, allow_graceful=False) for node in others],
        )
    finally:
        del os.environ["PYTHONPATH"]
        cluster.shutdown()


def square(number: int) -> tuple[int, str]:
    """With the node that did it."""
    import ray

    if number == 13:
        raise ValueError("thirteen")
    return number * number, ray.get_runtime_context().get_node_id()


def slow(job: tuple[str, int]) -> int:
    """Leaves a line where it was done."""
    folder, number = job
    with (Path(folder) / "done").open("a") as file:
        file.write(f"{number}\n")
    time.sleep(0.02)
    return number
