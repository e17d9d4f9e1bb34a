"""How `tunesmith serve` does with many clients: the starter as a run (torch, an adapter on it) and as a GGUF (q4_k_m).

    python benchmarks/serving.py [--seconds 60] [--clients 50] [--requests 1000] [--what run gguf]

Each client asks again and again to continue a row of its own number, as a stream of 64 tokens: even a small model goes
on with it, so an answer with another client's number in it was mixed up with that client's. One client alone, eight,
and all of them are measured; then how memory grows with requests, and how soon a place is free when its client has
vanished. Clients and server share the machine; run it on one that does nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

TOKENS = 64
"""Tokens of an answer."""


@dataclass
class Seen:
    """What clients saw. ``first``: seconds to the first token; ``mixed``: answers with another client's number."""

    seconds: float = 0.0
    tokens: int = 0
    answers: int = 0
    errors: int = 0
    mixed: int = 0
    first: list[float] = field(default_factory=list)

    @property
    def speed(self) -> float:
        return self.tokens / self.seconds

    @property
    def usual_first(self) -> float:
        return statistics.median(self.first) if self.first else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description="tunesmith serve with many clients")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--requests", type=int, default=1000, help="for which memory is watched; 0: none")
    parser.add_argument("--what", nargs="+", choices=["run", "gguf"], default=["run", "gguf"])
    asked = parser.parse_args()
    print("| served | clients | tokens/s | times alone | first token, median | answers | errors | mixed |")
    print("|---|---|---|---|---|---|---|---|")
    behind = list[str]()
    for what in asked.what:
        with TemporaryDirectory() as name, serving(subject(what, Path(name))) as server:
            alone = show(what, 1, None, server, min(asked.seconds, 20.0))
            show(what, 8, alone, server, min(asked.seconds, 20.0))
            show(what, asked.clients, alone, server, asked.seconds)
            behind += [f"{what}: {said}" for said in afterwards(server, asked.requests)]
    print("\n" + "\n".join(behind))


def show(what: str, clients: int, alone: Seen | None, server: Server, seconds: float) -> Seen:
    seen = asyncio.run(crowd(server, clients, seconds))
    times = "" if alone is None else f"{seen.speed / alone.speed:.1f}"
    print(f"| {what} | {clients} | {seen.speed:,.0f} | {times} | {seen.usual_first:.2f} s | {seen.answers} | "
          f"{seen.errors} | {seen.mixed} |", flush=True)  # fmt: skip
    return seen


def afterwards(server: Server, requests: int) -> Iterator[str]:
    if requests:
        asyncio.run(many(server, 100))
        before = server.memory()
        asyncio.run(many(server, requests))
        grown = (server.memory() - before) / 2**20
        yield f"memory {before / 2**20:,.0f} MiB after 100 requests, {grown:+,.0f} MiB after {requests:,} more"
    yield f"a place was free {asyncio.run(vanished(server)):.2f} s after its client had vanished"


# -- the server ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    host: str
    port: int
    model: str
    process: psutil.Process

    def memory(self) -> int:
        """Bytes that it and its children hold."""
        return sum(one.memory_info().rss for one in [self.process, *self.process.children(recursive=True)])


@contextmanager
def serving(name: str) -> Iterator[Server]:
    command = [sys.executable, "-m", "tunesmith", "serve", name, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "NO_COLOR": "1"}) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.search(r"http://([\d.]+):(\d+)/v1 .*models: ([^,\n]+)", said)
        if not found:
            raise SystemExit(f"the server did not start: {said}")
        try:
            yield Server(found[1], int(found[2]), found[3], psutil.Process(process.pid))
        finally:
            process.terminate()


def subject(what: str, folder: Path) -> str:
    """A run on the starter, whose adapter changes nothing yet and costs what any does; or the file made of it."""
    from safetensors.numpy import save_file

    from tunesmith.engines.adapter import fresh
    from tunesmith.engines.base import LoraShape
    from tunesmith.export.gguf_write import write_gguf
    from tunesmith.export.weights import Weights
    from tunesmith.models.architecture import read_architecture
    from tunesmith.models.find import find
    from tunesmith.run import RunFolder
    from tunesmith.settings import make_recipe
    from tunesmith.training.checkpoints import adapter_config

    base = find("starter").folder
    run, arch, shape = RunFolder(folder / "run"), read_architecture(base), LoraShape(rank=16)
    run.save_recipe(make_recipe({"model": {"name": "starter"}, "data": {"sources": ["none.jsonl"]}}))
    for place in (run.adapter, run.dataset):
        place.mkdir(parents=True)
    (run.dataset / "train.jsonl").write_text("")
    save_file(fresh(arch, shape, seed=0), run.adapter / "adapter_model.safetensors")
    config = adapter_config(shape, arch.layers, "starter")
    (run.adapter / "adapter_config.json").write_text(json.dumps(config))
    if what == "run":
        return str(run.path)
    write_gguf(Weights(base, run.adapter), base, folder / "starter.gguf", "q4_k_m", provenance={})
    return str(folder / "starter.gguf")


# -- clients ---------------------------------------------------------------------------------------


async def crowd(server: Server, clients: int, seconds: float) -> Seen:
    """All clients, each with the next request as soon as the last is answered."""
    seen, began = Seen(), time.monotonic()

    async def client(number: int) -> None:
        while time.monotonic() < began + seconds:
            await asked(server, number, TOKENS, seen, began + seconds, others=numbers)

    numbers = [number_of(i) for i in range(clients)]
    await asyncio.gather(*(client(number) for number in numbers))
    seen.seconds = seconds
    return seen


async def many(server: Server, requests: int) -> None:
    left, seen = iter(range(requests)), Seen()

    async def client() -> None:
        for i in left:
            await asked(server, number_of(i), 4, seen, float("inf"))

    await asyncio.gather(*(client() for _ in range(16)))
    if seen.errors:
        print(f"{seen.errors} errors while memory was watched", file=sys.stderr)


def number_of(client: int) -> int:
    """Of six digits, so that a model which slips by a digit hardly writes another client's number, and no neighbour's,
    as it may count on by itself."""
    return 100_000 + client * 377_377 % 900_000


async def asked(server: Server, number: int, tokens: int, seen: Seen, until: float, others: Sequence[int] = ()) -> None:
    """One request; tokens that come after ``until`` are not counted, nor is an answer that ends then."""
    body = {"model": server.model, "prompt": f"{number} " * 12, "max_tokens": tokens, "stream": True}
    began, text, ended = time.monotonic(), "", False
    reader, writer = await post(server, "/v1/completions", body)
    try:
        while line := await reader.readline():
            if line.startswith(b"data: [DONE]"):
                ended = True
                break
            if not line.startswith(b"data: {"):
                continue
            chunk: dict[str, Any] = json.loads(line[6:])
            for choice in chunk.get("choices", []):
                if choice["text"] and not text:
                    seen.first.append(time.monotonic() - began)
                text += choice["text"]
        now = time.monotonic()
        share = 1.0 if now <= until else max(0.0, (until - began) / (now - began))
        seen.tokens += round(tokens * share)
        seen.errors += not ended
        seen.answers += ended
        if any(int(found) != number and int(found) in others for found in re.findall(r"\d+", text)[:-1]):
            seen.mixed += 1
            print(f"the client of {number} got {text!r}", file=sys.stderr)
    except OSError:
        seen.errors += 1
    finally:
        writer.close()


async def post(server: Server, path: str, body: dict[str, Any]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(server.host, server.port)
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {server.host}\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    return reader, writer


async def vanished(server: Server) -> float:
    """Seconds until nobody is written to any more."""
    body = {"model": server.model, "prompt": "1 " * 12, "max_tokens": 2000, "stream": True}
    reader, writer = await post(server, "/v1/completions", body)
    await reader.readuntil(b"data: ")
    writer.close()
    gone = time.monotonic()
    while await writing(server):
        await asyncio.sleep(0.02)
    return time.monotonic() - gone


async def writing(server: Server) -> int:
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(f"GET /health HTTP/1.1\r\nHost: {server.host}\r\nConnection: close\r\n\r\n".encode())
    said = await reader.read()
    writer.close()
    return json.loads(said[said.index(b"{") :])["writing"]


if __name__ == "__main__":
    main()
