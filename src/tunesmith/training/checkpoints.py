"""Checkpoints: complete or not there. The adapter in PEFT's layout, the optimizer, and where the loop stood."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, load_file, save

from tunesmith import files
from tunesmith.engines.base import Engine, LoraShape
from tunesmith.errors import RunError

WEIGHTS, CONFIG, OPTIMIZER, STATE = (
    "adapter_model.safetensors", "adapter_config.json", "optimizer.safetensors", "state.json")  # fmt: skip


@dataclass
class State:
    """Where the loop stands after ``step`` updates: all it needs to go on as if never interrupted."""

    step: int = 0
    best_step: int = 0
    best_loss: float | None = None
    since_best: int = 0
    smooth_loss: float | None = None
    lowest_smooth: float | None = None
    losses: dict[int, float] = field(default_factory=dict)
    """Validation loss by step."""
    milestone: bool = True
    """Written at a validation, so it is kept and evaluated; others only guard against a crash."""


class Checkpoints:
    """The folder ``checkpoints/`` of a run. ``inputs`` is the hash of what the training depends on:
    a checkpoint of another one is never continued."""

    def __init__(self, folder: Path, inputs: str = "") -> None:
        self.folder, self.inputs = folder, inputs

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, complete as its name only appears when it is."""
        if not self.folder.exists():
            return []
        found = (re.fullmatch(r"step-(\d{6,})", p.name) for p in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def milestones(self) -> list[int]:
        """Steps whose checkpoint was written at a validation."""
        return [step for step in self.steps() if self._state(step).get("milestone")]

    def save(self, engine: Engine, state: State, config: dict[str, Any]) -> Path:
        """Write one checkpoint, then drop what it makes needless: earlier optimizer states but the
        last, and earlier checkpoints that only guarded against a crash."""
        target = self.path(state.step)
        with files.atomic_folder(target) as folder:
            blobs = {
                WEIGHTS: save(engine.adapter_arrays(), {"format": "pt"}),
                OPTIMIZER: save(engine.optimizer_arrays()),
            }
            hashes = {}
            for name, blob in blobs.items():
                (folder / name).write_bytes(blob)
                hashes[name] = files.file_hash(folder / name)
            (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
            (folder / STATE).write_text(
                json.dumps({**asdict(state), "inputs": self.inputs, "sha256": hashes}, indent=2) + "\n"
            )
        self._prune(state.step)
        return target

    def _prune(self, current: int) -> None:
        earlier = [step for step in self.steps() if step < current]
        for step in earlier[:-1]:
            (self.path(step) / OPTIMIZER).unlink(missing_ok=True)
            if not self._state(step).get("milestone"):
                shutil.rmtree(self.path(step), ignore_errors=True)

    def latest(self) -> int | None:
        """The last step to continue from: whole, and with the optimizer. A damaged one is passed over."""
        for step in reversed(self.steps()):
            if (self.path(step) / OPTIMIZER).exists() and self._whole(step):
                return step
        return None

    def _whole(self, step: int) -> bool:
        expected = self._state(step).get("sha256", {})
        try:
            return bool(expected) and all(files.file_hash(self.path(step) / n) == h for n, h in expected.items())
        except OSError:
            return False

    def resume(self, engine: Engine) -> State | None:
        """Put the last adapter and optimizer back into the engine; the state they belong to, or None where there is
        none. The first rank reads them for all: they may be on its disk alone."""
        ranks = engine.ranks
        state, weights, optimizer = (ranks.share(blob) for blob in (self._read() if ranks.rank == 0 else (b"",) * 3))
        if not state:
            return None
        values = json.loads(state)
        if values["inputs"] != self.inputs:
            raise RunError(
                f"{self.path(values['step'])} belongs to a training with other settings or rows; "
                "give --fresh to replace it"
            )
        engine.load_adapter_arrays(load(weights))
        engine.load_optimizer_arrays(load(optimizer), values["step"])
        values["losses"] = {int(k): v for k, v in values["losses"].items()}
        return State(**{k: v for k, v in values.items() if k not in ("sha256", "inputs")})

    def _read(self) -> tuple[bytes, bytes, bytes]:
        """State, adapter and optimizer of the last checkpoint; empty where there is none. Damaged ones behind it are
        removed: the run now writes them again."""
        step = self.latest()
        self._drop_after(step or 0)
        if step is None:
            return b"", b"", b""
        state, weights, optimizer = ((self.path(step) / name).read_bytes() for name in (STATE, WEIGHTS, OPTIMIZER))
        return state, weights, optimizer

    def _state(self, step: int) -> dict[str, Any]:
        try:
            return json.loads((self.path(step) / STATE).read_text())
        except (OSError, ValueError):
            return {}

    def _drop_after(self, step: int) -> None:
        for later in self.steps():
            if later > step:
                shutil.rmtree(self.path(later))

    def publish(self, step: int, adapter: Path) -> None:
        """Make ``adapter/`` the adapter of one checkpoint."""
        if not (self.path(step) / WEIGHTS).exists():
            raise RunError(f"{self.path(step)}, the best checkpoint, is gone; give --fresh to train again")
        with files.atomic_folder(adapter) as folder:
            for name in (WEIGHTS, CONFIG):
                shutil.copyfile(self.path(step) / name, folder / name)


def adapter_config(shape: LoraShape, layers: int, base: str) -> dict[str, Any]:
    """PEFT's adapter_config.json. ``layers_to_transform`` is left out where all layers learn."""
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": shape.rank,
        "lora_alpha": shape.alpha,
        "lora_dropout": shape.dropout,
        "target_modules": list(shape.modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    if shape.layers is not None and shape.layers < layers:
        config["layers_to_transform"] = list(range(layers - shape.layers, layers))
    return config


def read_adapter(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and config of an adapter folder. Raises `RunError` when there is none yet."""
    try:
        return load_file(folder / WEIGHTS), json.loads((folder / CONFIG).read_text())
    except FileNotFoundError:
        raise RunError(f"{folder} holds no adapter yet; train first, with `tunesmith run`") from None
    except (SafetensorError, ValueError, OSError) as error:
        raise RunError(f"{folder} cannot be read ({error}); train again with --fresh") from None


def shape_of(config: dict[str, Any]) -> LoraShape:
    """The `LoraShape` that an adapter_config.json describes."""
    layers = config.get("layers_to_transform")
    return LoraShape(
        rank=config["r"],
        alpha=config["lora_alpha"],
        dropout=config.get("lora_dropout", 0.0),
        modules=tuple(config["target_modules"]),
        layers=len(layers) if layers else None,
    )
