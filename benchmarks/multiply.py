"""How fast this machine multiplies matrices, and how much of that a training needs.

    python benchmarks/multiply.py [--engine torch] [--precision bf16]

The matrices are those of the starter's MLP, at 1,024 tokens: once with all cores on each product, and once with a
core on products of its own, as the torch engine works. Run by speed.py beside every measurement.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tunesmith.engines.adapter import widths
from tunesmith.models.architecture import Architecture

TOKENS, WIDTH, MLP = 1024, 576, 1536
SECONDS = 1.0
"""For each of the two ways."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Matrix products a second, in GFLOP/s")
    parser.add_argument("--engine", choices=["torch", "mlx"], default="torch")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    options = parser.parse_args()
    measure = {"torch": with_torch, "mlx": with_mlx}[options.engine]
    print(json.dumps(measure(options.precision)))


def with_torch(precision: str) -> dict[str, float]:
    import torch

    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    cores = torch.get_num_threads()

    def products(tokens: int) -> Callable[[], object]:
        x, up = torch.randn(tokens, WIDTH).to(dtype), torch.randn(MLP, WIDTH).to(dtype)
        down = torch.randn(WIDTH, MLP).to(dtype)
        return lambda: torch.nn.functional.linear(torch.nn.functional.linear(x, up), down)

    shared = rate(products(TOKENS), TOKENS)
    with ThreadPoolExecutor(cores, "core", torch.set_num_threads, (1,)) as pool:
        each = TOKENS // cores
        apart = sum(pool.map(lambda multiply: rate(multiply, each), [products(each) for _ in range(cores)]))
    return {"shared": shared, "apart": apart}


def with_mlx(precision: str) -> dict[str, float]:
    import mlx.core as mx

    dtype = {"bf16": mx.bfloat16, "fp32": mx.float32}[precision]
    x, up, down = (mx.random.normal(shape).astype(dtype) for shape in ((TOKENS, WIDTH), (WIDTH, MLP), (MLP, WIDTH)))
    return {"shared": rate(lambda: mx.eval(x @ up @ down), TOKENS)}


def rate(multiply: Callable[[], object], tokens: int) -> float:
    """GFLOP/s of two products of ``tokens`` rows: the best tenth of `SECONDS`, for other work only slows."""
    multiply()
    best, end = 0.0, time.monotonic() + SECONDS
    while time.monotonic() < end:
        began, done = time.monotonic(), 0
        while (passed := time.monotonic() - began) < SECONDS / 10:
            multiply()
            done += 1
        best = max(best, done * 4 * tokens * WIDTH * MLP / passed)
    return best / 1e9


@dataclass(frozen=True)
class Arithmetic:
    """Operations that a LoRA training cannot do without, 2 for each multiply-add; see `of`."""

    arch: Architecture
    modules: Sequence[str]
    rank: int
    trained: int
    """How many of the top layers learn."""

    def below(self, length: int) -> float:
        """One row of ``length`` tokens through the layers that do not learn."""
        return (self.arch.layers - self.trained) * self._forward(length)

    def above(self, length: int, learned: int) -> float:
        """One row through the layers that learn and the head, forward and back.

        Back, frozen weights need the gradient of their input alone, as many operations as forward; attention needs
        twice as many, the adapter too. The lowest learning layer needs none for its own input. The head only counts
        where a token is learned, and so does the last layer's part behind attention.
        """
        arch = self.arch
        qkv, behind = (
            sum(a * b for a, b in (widths(arch, m) for m in modules))
            for modules in (("q_proj", "k_proj", "v_proj"), ("o_proj", "gate_proj", "up_proj", "down_proj"))
        )
        layers = self.trained * (2 * self._forward(length) + self._attention(length)) - 2 * length * qkv
        layers -= 2 * 2 * (length - learned) * behind
        lora = self.trained * 3 * 2 * length * sum(self.rank * sum(widths(arch, m)) for m in self.modules)
        return layers + lora + 2 * 2 * learned * arch.vocabulary * arch.width

    def _forward(self, length: int) -> float:
        arch, modules = self.arch, ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
        weights = sum(a * b for a, b in (widths(arch, m) for m in modules))
        return 2 * length * weights + self._attention(length)

    def _attention(self, length: int) -> float:
        """Scores and their sums over values; a token looks at half of the row on average."""
        return 2 * 2 * length * (length + 1) / 2 * self.arch.heads * self.arch.head_dim


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
