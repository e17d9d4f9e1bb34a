"""The same files come out of a cluster, whatever happens to its nodes; what is wrong with one is said at the start."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from cluster_nodes import slow, square, three_nodes

from tunesmith import cluster
from tunesmith.cluster import Cluster
from tunesmith.dataset.prepare import prepare
from tunesmith.errors import ClusterError
from tunesmith.settings import make_recipe

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
ray_warnings = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def nodes():
    """(address, what kills a node)"""
    with three_nodes() as made:
        yield made


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@needs_ray
@ray_warnings
def test_a_cluster_gives_the_same_files_whatever_happens_to_its_nodes(nodes, tmp_path, tiny_model, monkeypatch):
    address, kills = nodes
    rows = [{"prompt": f"问题 {i}", "completion": f"答案 {i} " * 20} for i in range(3000)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    (tmp_path / "docs").mkdir()
    for i in range(20):
        (tmp_path / "docs" / f"{i}.md").write_text(f"# Title {i}\n\n" + f"A sentence of document {i}. " * 100)
    data = make_recipe({"data": {"sources": ["rows.jsonl", "docs"]}}, folder=tmp_path).data
    for _ in prepare(data, tiny_model, tmp_path / "alone"):
        pass
    for number, _ in enumerate(prepare(data, tiny_model, tmp_path / "together", cluster=address)):
        if number == 2:
            kills[0]()
    assert files_of(tmp_path / "together") == files_of(tmp_path / "alone")

    with Cluster(address) as made:  # one node fewer
        done = list(made.map(square, range(13)))
        assert [number for number, _ in done] == [n * n for n in range(13)]
        with pytest.raises(ValueError, match="thirteen"):
            list(made.map(square, [12, 13, 14]))
        jobs = [(str(tmp_path), number) for number in range(120)]
        for at, number in enumerate(made.map(slow, jobs)):
            assert number == at
            if at == 20:
                kills[1]()
    assert {int(line) for line in (tmp_path / "done").read_text().split()} == set(range(120))

    gone, here = tmp_path / "gone.md", cluster._look([])
    monkeypatch.setattr(cluster, "_look", lambda needs: here | {"files": {str(gone): 5}})  # this machine has it
    with pytest.raises(ClusterError, match=r"node \S+ of the cluster has no .*gone.md; copy"), Cluster(address, [gone]):
        pass


HERE = {"versions": {"tunesmith": "1", "Python": "3.11.9"}, "files": {"/m/model.safetensors": 5, "/d/a.pdf": None}}


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (HERE, ""),
        ({"lacks": "tunesmith"}, "has no tunesmith; install"),
        (HERE | {"versions": {"tunesmith": "2", "Python": "3.11.9"}}, "has tunesmith 2, and this machine 1"),
        (HERE | {"files": {"/m/model.safetensors": None, "/d/a.pdf": None}}, "has no /m/model.safetensors; copy it"),
        (HERE | {"files": {"/m/model.safetensors": 6, "/d/a.pdf": None}}, "has another /m/model.safetensors"),
    ],
)
def test_a_node_that_is_not_as_this_machine_is_is_told(there, said):
    found = cluster._differs(HERE, there)
    assert found.startswith(said)
    assert bool(found) == bool(said)


def test_what_cannot_be_reached_is_said_at_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]  # nobody listens there
        began = time.monotonic()
        with pytest.raises(ClusterError, match=f"no cluster answers at 127.0.0.1:{port}"), Cluster(f"127.0.0.1:{port}"):
            pass
    assert time.monotonic() - began < 60
    with pytest.raises(ClusterError, match="'somewhere' is no address"), Cluster("somewhere"):
        pass


def test_a_cluster_without_processors_is_refused_and_not_waited_for(monkeypatch):
    left = []
    fake = SimpleNamespace(
        nodes=list, cluster_resources=dict, shutdown=lambda: left.append(True),
        exceptions=SimpleNamespace(TaskUnschedulableError=KeyError, NodeDiedError=KeyError),
    )  # fmt: skip
    monkeypatch.setattr(cluster, "_connected", lambda address: fake)
    monkeypatch.setattr(Cluster, "_looks", lambda self: iter(()))
    with pytest.raises(ClusterError, match="no processor to work with"), Cluster("local"):
        pass
    assert left


def test_a_machine_without_ray_is_told_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError, match=r'pip install "tunesmith\[cluster\]"'), Cluster("local"):
        pass


def test_without_a_cluster_nothing_of_ray_is_read():
    said = "import sys, tunesmith.dataset.prepare, tunesmith.stages.work; print('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", said], capture_output=True, text=True).stdout == "False\n"
