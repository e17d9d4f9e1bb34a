"""The one place where an engine is chosen."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from tunesmith.engines import base
from tunesmith.engines.base import Engine
from tunesmith.engines.ranks import ALONE, Ranks
from tunesmith.errors import EngineError
from tunesmith.models.architecture import Architecture

Precision = Literal["auto", "bf16", "fp32"]


def engine_name(wanted: Literal["auto", "torch", "mlx"]) -> Literal["torch", "mlx"]:
    """mlx on Apple silicon, torch elsewhere, unless one is named."""
    if wanted != "auto":
        return wanted
    return "mlx" if sys.platform == "darwin" and platform.machine() == "arm64" else "torch"


@contextmanager
def _installed(name: str) -> Iterator[None]:
    """Raises `EngineError` when the engine cannot be imported."""
    try:
        yield
    except ImportError as error:
        package = "mlx-lm" if name == "mlx" else "torch"
        raise EngineError(
            f"the engine {name} cannot be loaded ({error}); install it with: pip install {package}"
        ) from None


def open_engine(
    folder: Path, arch: Architecture, wanted: Literal["auto", "torch", "mlx"], precision: Precision, above: int = 0,
    ranks: Ranks = ALONE,
) -> Engine:  # fmt: skip
    """The base model in ``folder``, loaded into an engine; layers below ``above`` are read when they are needed
    instead of being kept in memory. Raises `EngineError` when the engine is not installed."""
    name = engine_name(wanted)
    with _installed(name):
        if name == "mlx":
            from tunesmith.engines.mlx_engine import MlxEngine

            return MlxEngine(folder, arch, precision, above, ranks)
        from tunesmith.engines.torch_engine import TorchEngine

        return TorchEngine(folder, arch, precision, above, ranks)


def join_ranks(name: Literal["torch", "mlx"]) -> Ranks:
    """Meet the processes that the engine's launcher has started with this one."""
    with _installed(name):
        if name == "mlx":
            from tunesmith.engines.mlx_ranks import MlxRanks

            return MlxRanks()
        from tunesmith.engines.torch_ranks import TorchRanks

        return TorchRanks()


def device_limits(name: Literal["torch", "mlx"]) -> tuple[int | None, int | None]:
    """Bytes that a graphics processor may use, and that one buffer of it may have; None without one."""
    with _installed(name):
        if name == "mlx":
            from tunesmith.engines import mlx_engine

            return mlx_engine.device_limits()
        import torch

        if not torch.cuda.is_available():
            return None, None
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved(), None  # what this process has, it may use


def memory_limits(name: Literal["torch", "mlx"], available: int, processes: int = 1) -> tuple[int, int | None]:
    """Bytes that an engine may use of those ``available``, which ``processes`` share, and that one buffer may have,
    where that is limited."""
    memory, largest = device_limits(name)
    shared = (available if memory is None else min(available, memory)) // processes
    return memory if name == "torch" and memory is not None else shared, largest  # a card of its own has its own memory


def settled(name: Literal["torch", "mlx"], wanted: Precision) -> tuple[base.Precision, int]:
    """The precision that "auto" means on this machine, and how many cores take rows of their own."""
    with _installed(name):
        if name == "mlx":
            from tunesmith.engines import mlx_engine

            return mlx_engine.settled(wanted), 1
        from tunesmith.engines import torch_engine

        device = torch_engine.best_device()
        return torch_engine.fastest_dtype(device) if wanted == "auto" else wanted, torch_engine.core_count(device)
