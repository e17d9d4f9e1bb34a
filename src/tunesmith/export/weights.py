"""The trained model as one set of weights: W + (alpha / rank) B A, a slice of rows at a time.

`Weights` is what every kind of export reads from. Nothing holds more than a few slices, so a model of any
size can be merged.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from tunesmith.errors import ModelError
from tunesmith.export.hf_folder import decoder_config
from tunesmith.machine import cores
from tunesmith.models.ggml import widen
from tunesmith.models.safetensors_file import InSafetensors, read_header
from tunesmith.models.safety import refuse_unsafe
from tunesmith.models.stored import Stored, scratch
from tunesmith.models.weights import canonical_name, tensor_index
from tunesmith.training.checkpoints import CONFIG as ADAPTER_CONFIG
from tunesmith.training.checkpoints import WEIGHTS as ADAPTER_WEIGHTS

SLICE_ITEMS = 1 << 19
"""Weights that one worker computes at once: 2 MB of float32. With a quarter of it Python's own work shows, with twice
as much the pages of fresh arrays: a GGUF in f16 of 2.1 GB took 5.0, 3.8 and 4.4 s of processor."""
_MERGED = ("BF16", "F16", "F32")
_LORA = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight")
_NOT_SUPPORTED = (
    "use_dora", "lora_bias", "fan_in_fan_out", "modules_to_save", "rank_pattern", "alpha_pattern", "use_qalora",
    "use_bdlora", "trainable_token_indices", "layer_replication", "target_parameters", "alora_invocation_tokens",
    "velora_config", "monteclora_config", "kasa_config", "arrow_config",
)  # fmt: skip
"""Settings of peft's LoraConfig with which the merged weight is another one than W + scale B A."""
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Initialisations (``init_lora_weights``) that leave the base weights as they are; PiSSA, LoftQ and others do not."""
Job = TypeVar("Job")
Result = TypeVar("Result")


def _floats(stored: Stored, start: int, stop: int) -> np.ndarray:
    """Slice of the first axis in float32, exactly."""
    return widen(stored.rows(start, stop, scratch=stored.dtype != "F32"))


class Update(NamedTuple):
    """What one module learned: ``scale`` B A, with a [rank, in] and b [out, rank]."""

    a: Stored
    b: Stored
    scale: float

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    def whole(self) -> tuple[np.ndarray, np.ndarray]:
        """a and b in float32."""
        return _floats(self.a, 0, self.rank), _floats(self.b, 0, self.b.shape[0])

    def scaled_a(self) -> np.ndarray:
        return _floats(self.a, 0, self.rank) * np.float32(self.scale)


def _product(b: np.ndarray, a: np.ndarray) -> np.ndarray:
    """b @ a in pieces that OpenBLAS computes on the calling thread (it does up to 2^18 multiplications), in a buffer
    that the thread's next call writes over.

    On a busy machine its own threads wait for each other, 16 ms a call: 60 times as long.
    """
    rows, (rank, width) = len(b), a.shape
    b = np.pad(b, ((0, -rows % 8), (0, 0))).reshape(-1, 8, rank)
    out = scratch.array("product", (len(b), 8, width), np.dtype(np.float32))
    step = max(1, (1 << 18) // (8 * rank))
    for left in range(0, width, step):
        np.matmul(b, a[:, left : left + step], out=out[:, :, left : left + step])
    return out.reshape(-1, width)[:rows]


class Weights:
    """The tensors of a model folder under their canonical names, the adapter's updates added in float32.

    A stored head that config.json says is tied is left out: the engines do not read it either.
    Raises `ModelError` for a folder that is not safe, cannot be read or is quantized, and for an
    adapter of another base or of a kind that is not supported.
    """

    def __init__(self, base: Path, adapter: Path | None = None) -> None:
        refuse_unsafe(base)
        config = decoder_config(base)
        tensors = dict(tensor_index(base))
        if config.get("tie_word_embeddings", str(config.get("model_type")).startswith("gemma")):
            tensors.pop("lm_head.weight", None)
        for name, stored in tensors.items():
            _check_stored(name, stored)
        self._tensors = {name: tensors[name] for name in sorted(tensors, key=_place)}
        self.updates = _read_updates(adapter, self._tensors, base) if adapter else {}
        self._scaled_a = functools.lru_cache(maxsize=4)(Update.scaled_a)  # kept from one slice to the next

    def names(self) -> list[str]:
        """The embedding, the layers from bottom to top, the last norm, the head."""
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def dtype(self, name: str) -> str:
        """As it is stored in the base: "BF16", "F16" or "F32"."""
        return self._tensors[name].dtype

    def is_changed(self, name: str) -> bool:
        """Whether the adapter has an update for this tensor."""
        return name in self.updates

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """float32 slice of the first axis, merged; only this slice is in memory."""
        values = _floats(self._tensors[name], start, stop)
        if update := self.updates.get(name):
            values += _product(_floats(update.b, start, stop), self._scaled_a(update))
        return values

    def read(self, name: str) -> np.ndarray:
        """The whole tensor, float32."""
        return self.rows(name, 0, self.shape(name)[0])

    def stored(self, name: str, start: int, stop: int) -> np.ndarray:
        """A slice of the base as its file has it (BF16 as uint16), without the adapter."""
        return self._tensors[name].rows(start, stop)

    def main_dtype(self) -> str:
        """The dtype that most weights are stored in."""
        sizes: dict[str, int] = {}
        for stored in self._tensors.values():
            sizes[stored.dtype] = sizes.get(stored.dtype, 0) + math.prod(stored.shape)
        return max(sizes, key=lambda dtype: sizes[dtype])


def _check_stored(name: str, stored: Stored) -> None:
    if stored.dtype not in _MERGED:
        raise ModelError(
            f"{stored.path}: {name} is stored as {stored.dtype}, which cannot be merged; "
            f"use the model's 16-bit folder or a GGUF of it"
        )
    if not stored.shape:
        raise ModelError(f"{stored.path}: {name} is a single number, which no supported model has")


def _place(name: str) -> tuple[int, int, str]:
    """Layers are counted as numbers: 2 comes before 10."""
    parts = name.split(".")
    layer = int(parts[2]) if parts[1] == "layers" else 0
    return ["embed_tokens", "layers", "norm"].index(parts[1]) if parts[0] == "model" else 3, layer, name


# -- the adapter -------------------------------------------------------------------------------------


def _read_updates(adapter: Path, base: dict[str, Stored], folder: Path) -> dict[str, Update]:
    """The adapter's updates by the base tensor they belong to; every array of it is used, or it is refused."""
    rank, scale = _rank_and_scale(adapter)
    path = adapter / ADAPTER_WEIGHTS
    if not path.is_file():
        raise ModelError(
            f"{adapter} holds no {ADAPTER_WEIGHTS}; train first, or give an adapter folder in PEFT's layout"
        )
    pairs: dict[str, dict[str, Stored]] = {}
    for name, info in read_header(path).items():
        match = _LORA.fullmatch(name)
        if match is None or info.dtype not in _MERGED or len(info.shape) != 2:
            raise ModelError(f"{path} holds {name} ({info.dtype}), which is no plain LoRA and cannot be merged")
        pairs.setdefault(match[1], {})[match[2]] = InSafetensors(path, name, info)
    if not pairs:
        raise ModelError(f"{path} is empty; train again")
    updates: dict[str, Update] = {}
    for module, pair in pairs.items():
        target = canonical_name(f"{module}.weight")
        if target is None or target not in base:
            raise ModelError(
                f"{adapter} was trained on another base: it changes {module}, which {folder} does not have; "
                f"give the model that it was trained on"
            )
        updates[target] = _update(module, pair, rank, scale, base[target].shape, path)
    return updates


def _rank_and_scale(adapter: Path) -> tuple[int, float]:
    """What adapter_config.json says, when all that it says is supported."""
    path = adapter / ADAPTER_CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
        if rank < 1 or not math.isfinite(alpha):
            raise ValueError(f"rank {rank}, alpha {alpha}")
    except FileNotFoundError:
        raise ModelError(
            f"{adapter} holds no {ADAPTER_CONFIG}; train first, or give an adapter folder in PEFT's layout"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is no configuration of a LoRA adapter in PEFT's layout ({error!r})") from None
    kind = str(config.get("peft_type", "LORA"))
    start = config.get("init_lora_weights", True)
    wrong = [f"{key} = {json.dumps(config[key])}" for key in _NOT_SUPPORTED if config.get(key)]
    wrong += [f"peft_type = {kind}"] if kind.upper() != "LORA" else []
    wrong += [f"bias = {config['bias']}"] if config.get("bias", "none") != "none" else []
    wrong += [f"init_lora_weights = {start}"] if start not in _PLAIN_STARTS else []
    if wrong:
        raise ModelError(f"{path} says {wrong[0]}, with which an adapter cannot be merged here; merge it with peft")
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _update(
    module: str, pair: dict[str, Stored], rank: int, scale: float, shape: tuple[int, ...], path: Path
) -> Update:
    """One module's update, its rank and shape checked against adapter_config.json and the base's ``shape``."""
    if pair.keys() != {"A", "B"}:
        raise ModelError(f"{path} holds only one half of the update of {module}; train again")
    a, b = pair["A"].shape, pair["B"].shape
    if a[0] != rank or b[1] != rank:
        raise ModelError(f"{path}: {module} has the rank {a[0]} and {ADAPTER_CONFIG} says {rank}; train again")
    if (b[0], a[1]) != shape:
        raise ModelError(
            f"{path} was trained on another base: its {module} is {b[0]} x {a[1]} and this base's is "
            f"{' x '.join(map(str, shape))}; give the model that it was trained on"
        )
    if not all(np.isfinite(_floats(stored, 0, stored.shape[0])).all() for stored in pair.values()):
        raise ModelError(f"{path}: {module} holds numbers that are not finite; train again with a lower learning rate")
    return Update(pair["A"], pair["B"], scale)


# -- slices ------------------------------------------------------------------------------------------


def spans(shape: Sequence[int], items: int = SLICE_ITEMS) -> Iterator[tuple[int, int]]:
    """Slices of the first axis of about ``items`` numbers, as (start, stop); a multiple of 8 rows each."""
    step = max(8, items // max(1, math.prod(shape[1:])) // 8 * 8)
    return ((start, min(start + step, shape[0])) for start in range(0, shape[0], step))


def computed_ahead(function: Callable[[Job], Result], over: Iterator[Job]) -> Iterator[Result]:
    """``map`` on a few threads, in order, at most two results a thread ahead (numpy lets go of the lock)."""
    workers = min(4, cores())
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Result]] = deque()
        for span in over:
            waiting.append(pool.submit(function, span))
            if len(waiting) >= 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
